import sys

import numpy as np
import pytest

from trustml.datasets import fetch_openml, load_table
from trustml.errors import MissingExtraError

pd = pytest.importorskip("pandas")

FRAME = pd.DataFrame(
    {"age": [20, 30, 40], "city": ["a", "b", "a"], "sex": ["f", "m", "f"], "y": [0, 1, 0]}
)


@pytest.fixture(params=[".csv", ".csv.gz", ".tsv", ".parquet"])
def stored(request, tmp_path):
    path = tmp_path / f"table{request.param}"
    if request.param == ".parquet":
        pytest.importorskip("pyarrow")
        FRAME.to_parquet(path)
    else:
        FRAME.to_csv(path, index=False, sep="\t" if request.param == ".tsv" else ",")
    return path


def test_reading(stored):
    X, y, extras = load_table(stored, target="y", extras=["sex"])
    assert list(X.columns) == ["age", "city"]
    np.testing.assert_array_equal(y, [0, 1, 0])
    assert extras["sex"].tolist() == ["f", "m", "f"]
    both = load_table(str(stored), extras=["sex"], keep_extras=True, drop=["city"])
    assert list(both.X.columns) == ["age", "sex"]


def test_npz(tmp_path):
    path = tmp_path / "table.npz"
    np.savez(path, X=np.ones((3, 2, 2)), labels=[1, 2, 3], sex=["f", "m", "f"])
    X, y, extras = load_table(path, target="labels", extras=["sex"])
    assert X.shape == (3, 2, 2)
    assert y.tolist() == [1, 2, 3]
    assert extras["sex"].tolist() == ["f", "m", "f"]


def test_pickled_arrays_are_not_read(tmp_path):
    path = tmp_path / "table.npz"
    np.savez(path, X=np.array([{}, {}], dtype=object), y=[0, 1])
    with pytest.raises(ValueError, match="Python objects"):
        load_table(path)


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, {"target": "income"}, "'income'; there are: age, city, sex, y"),
        ({}, {"extras": ["race"]}, "'race'"),
        ({}, {"drop": ["zip"]}, "'zip'"),
        ({"y": [0, None, 1]}, {}, "missing values"),
        ({}, {"drop": ["age", "city", "sex"]}, "no input columns"),
    ],
)
def test_bad_tables(tmp_path, change, arguments, message):
    path = tmp_path / "table.csv"
    FRAME.assign(**change).to_csv(path, index=False)
    with pytest.raises(ValueError, match=message):
        load_table(path, **arguments)


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_table(tmp_path / "none.csv")
    odd = tmp_path / "table.xlsx"
    odd.write_bytes(b"x")
    with pytest.raises(ValueError, match=r"\.parquet"):
        load_table(odd)
    empty = tmp_path / "empty.csv"
    empty.write_text("a,y\n")
    with pytest.raises(ValueError, match="no rows"):
        load_table(empty)
    ragged = tmp_path / "table.npz"
    np.savez(ragged, X=np.ones((3, 2)), y=[0, 1])
    with pytest.raises(ValueError, match="3 rows"):
        load_table(ragged)


def test_missing_pandas_names_the_extra(tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    FRAME.to_csv(path, index=False)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"trustml\[frames\]"):
        load_table(path)


def test_openml_is_a_thin_wrapper(monkeypatch):
    from sklearn import datasets
    from sklearn.utils import Bunch

    asked = {}

    def fake(**arguments):
        asked.update(arguments)
        return Bunch(frame=FRAME, target_names=["y"])

    monkeypatch.setattr(datasets, "fetch_openml", fake)
    X, y, extras = fetch_openml("credit-g", version=1, extras=["sex"])
    assert asked["name"] == "credit-g"
    assert asked["version"] == 1
    assert list(X.columns) == ["age", "city"]
    assert y.tolist() == [0, 1, 0]
    assert list(extras) == ["sex"]
    monkeypatch.setattr(
        datasets, "fetch_openml", lambda **_: Bunch(frame=FRAME, target_names=["y", "sex"])
    )
    with pytest.raises(ValueError, match="target="):
        fetch_openml("two-targets")
