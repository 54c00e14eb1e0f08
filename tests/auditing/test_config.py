"""Audit files: what is wrong in them is said with the fix."""

import numpy as np
import pytest

from trustml.auditing._config import ConfigError, read_config
from trustml.auditing._tables import read_rows

GOOD = """
[model]
path = "model.skops"
[data]
test = "test.csv"
target = "y"
"""


def write(folder, text):
    path = folder / "audit.toml"
    path.write_text(text)
    return path


def test_a_small_file_is_enough(tmp_path):
    config = read_config(write(tmp_path, GOOD))
    assert config.model == {"path": "model.skops"}
    assert set(config.checks) >= {"calibration", "fairness"}


def test_checks_and_thresholds(tmp_path):
    text = GOOD + '[audit]\nchecks = ["fairness"]\n[checks.fairness]\nmax_difference = 0.3\n'
    assert read_config(write(tmp_path, text)).checks == {"fairness": {"max_difference": 0.3}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "[modle]\n", r"unknown table: 'modle'; did you mean 'model'"),
        (GOOD.replace("target", "targt"), r"'targt'; did you mean 'target'"),
        (GOOD.replace('path = "model.skops"', ""), r"either load = .* or path ="),
        (GOOD.replace("path", 'load = "a:b"\npath'), r"either load = .* or path ="),
        (GOOD.replace("test", "train"), r"needs test ="),
        (GOOD + "features = 3\n", "features must be a list of names"),
        (GOOD.replace('"y"', "3"), "target must be a name"),
        (GOOD + "[checks.fairnes]\n", "did you mean 'fairness'"),
        (GOOD + '[audit]\nchecks = ["fairnes"]\n', "did you mean 'fairness'"),
        (GOOD + '[audit]\nchecks = "fairness"\n', "list of names"),
        (GOOD + "[audit]\nlevle = 0.9\n", "did you mean 'level'"),
        ("model = 3\n" + GOOD.replace("[model]", "[audit]"), r"\[model\] must be a table"),
        ("[model\n", "not valid TOML"),
    ],
)
def test_mistakes_name_the_fix(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read_config(write(tmp_path, text))


def test_a_missing_audit_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no file .*nowhere\.toml"):
        read_config(tmp_path / "nowhere.toml")


def rows(folder, name="test.csv", data='target = "y"', features=None, **given):
    config = read_config(write(folder, f'[model]\npath = "m"\n[data]\ntest = "t"\n{data}\n'))
    return read_rows(config, given.pop("key", "test"), name, features, **given)


@pytest.fixture
def table(tmp_path):
    (tmp_path / "test.csv").write_text("a,b,sex,y\n1,2,f,no\n3,4,m,yes\n")
    return tmp_path


def test_columns_of_a_csv(table):
    found = rows(table, data='target = "y"\nsensitive = ["sex"]\ndrop = ["sex"]')
    assert list(found.X.columns) == ["a", "b"]
    assert found.y.tolist() == ["no", "yes"]
    assert found.sensitive["sex"].tolist() == ["f", "m"]
    assert list(rows(table, features=["b"]).X.columns) == ["b"]
    assert list(rows(table, data='target = "y"\nfeatures = ["b", "a"]').X.columns) == ["b", "a"]


def test_parquet_is_read_as_csv_is(table):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    pandas.read_csv(table / "test.csv").to_parquet(table / "test.parquet")
    assert rows(table, "test.parquet").X.equals(rows(table).X)


@pytest.mark.parametrize(
    ("data", "name", "message"),
    [
        ('target = "yy"', "test.csv", r"no column 'yy'; did you mean 'y'"),
        ("", "test.csv", r"needs target = .*\['a', 'b', 'sex', 'y'\]"),
        ('target = "y"\nsensitive = ["sax"]', "test.csv", "did you mean 'sex'"),
        ('target = "y"\nfeatures = ["aa"]', "test.csv", "no column 'aa'"),
        ('target = "y"', "test.xlsx", "unknown ending '.xlsx'"),
        ('target = "y"', "missing.csv", "there is no file .*relative to the folder"),
        ('target = "y"', "broken.csv", "cannot read broken.csv"),
        ('target = "y"', "objects.npz", "save text as"),
        ('target = "y"', "arrays.npz", r"neither an array 'X_test' nor 'X'; it has \['Z'\]"),
    ],
)
def test_bad_data_files_name_the_fix(table, data, name, message):
    (table / "test.xlsx").write_text("")
    (table / "broken.csv").write_text("")
    np.savez(table / "objects.npz", X=np.array([{}], dtype=object))
    np.savez(table / "arrays.npz", Z=np.zeros(3))
    with pytest.raises(ConfigError, match=message):
        rows(table, name, data)


def test_arrays_of_an_npz_may_carry_the_name_of_their_split(tmp_path):
    np.savez(tmp_path / "all.npz", X_test=np.ones((2, 3)), y=np.arange(2), X=np.zeros((2, 3)))
    found = rows(tmp_path, "all.npz", "")
    assert found.X.tolist() == np.ones((2, 3)).tolist()
    assert found.y.tolist() == [0, 1]
    strange = rows(tmp_path, "all.npz", "", key="ood", labelled=False)
    assert strange.X.sum() == 0
    assert strange.y is None
