"""Adult, COMPAS and German credit in each format that they are published in."""

from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from trustml import datasets
from trustml.datasets import Datasheet, load_adult, load_compas, load_german_credit

pd = pytest.importorskip("pandas")
SHARED = Path(__file__).parents[3] / "shared/data"

PERSONS = [
    "39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, Male, "
    "2174, 0, 40, United-States, <=50K",
    "50, ?, 83311, Bachelors, 13, Married-civ-spouse, ?, Husband, Black, Male, "
    "0, 0, 13, United-States, >50K",
    "28, Private, 338409, Masters, 14, Married-civ-spouse, Sales, Wife, Black, Female, "
    "0, 0, 40, Cuba, >50K",
]
ADULT = "\n".join([*PERSONS, "", ""])
ADULT_TEST = "|1x3 Cross validator\n" + ADULT.replace("50K\n", "50K.\n")
COMPAS = """\
id,sex,age,age_cat,race,juv_fel_count,decile_score,juv_misd_count,juv_other_count,priors_count,\
days_b_screening_arrest,c_charge_degree,is_recid,score_text,priors_count,two_year_recid
1,Male,69,Greater than 45,Other,0,1,0,0,0,-1,F,0,Low,0,0
2,Female,34,25 - 45,African-American,0,3,0,1,2,-1,F,1,Low,2,1
3,Male,24,Less than 25,Caucasian,1,4,0,1,4,-31,F,1,Low,4,1
4,Male,24,Less than 25,Caucasian,1,4,0,1,4,,F,1,Low,4,1
5,Male,24,Less than 25,Caucasian,1,4,0,1,4,30,M,-1,Low,4,1
6,Male,24,Less than 25,Caucasian,1,4,0,1,4,0,O,1,Low,4,1
7,Male,24,Less than 25,Caucasian,1,4,0,1,4,0,M,1,N/A,4,1
8,Male,24,Less than 25,Caucasian,1,9,0,1,4,30,M,1,High,4,1
"""
GERMAN = """\
A11 6 A34 A43 1169 A65 A75 4 A93 A101 4 A121 67 A143 A152 2 A173 1 A192 A201 1
A12 48 A32 A43 5951 A61 A73 2 A92 A101 2 A121 22 A143 A152 1 A173 1 A191 A201 2
A14 12 A34 A46 2096 A61 A74 2 A95 A101 3 A121 25 A143 A152 1 A172 2 A191 A201 1
"""


def written(path, text):
    path.write_text(text)
    return path


def test_adult_as_uci_publishes_it(tmp_path):
    written(tmp_path / "adult.data", ADULT)
    written(tmp_path / "adult.test", ADULT_TEST)
    table, sheet = load_adult(tmp_path)
    assert table.y.tolist() == [0, 1, 0, 1]
    assert table.extras["split"].tolist() == ["train", "train", "test", "test"]
    assert table.extras["sex"].tolist() == ["Male", "Female"] * 2
    assert list(table.X["age"]) == [39, 28] * 2
    assert not {"sex", "race", "fnlwgt", "income", "split"} & set(table.X)
    assert table.X["capital-gain"].dtype.kind == "i"
    assert sheet.rows == 4
    assert sheet.groups["race"] == {"Black": (2, 1.0), "White": (2, 0.0)}
    one, _ = load_adult(tmp_path / "adult.test", missing="keep", keep_extras=True)
    assert one.y.tolist() == [0, 1, 1]
    assert one.X["workclass"].isna().tolist() == [False, True, False]
    assert one.X["sex"].tolist() == one.extras["sex"].tolist()


def adult_frame():
    rows = [line.split(", ") for line in PERSONS]
    return pd.DataFrame(rows, columns=list(datasets._adult._COLUMNS))


def test_adult_with_a_header(tmp_path):
    path = tmp_path / "adult.csv.gz"
    adult_frame().assign(split=["train", "test", "test"]).to_csv(path, index=False)
    table, _ = load_adult(str(path))
    assert table.y.tolist() == [0, 1]
    assert table.extras["split"].tolist() == ["train", "test"]
    assert table.X["age"].tolist() == [39, 28]


def test_adult_from_openml(monkeypatch):
    frame = adult_frame().replace("?", None)
    frame["income"] = frame["income"].astype("category")
    asked = {}

    def fake(name, **how):
        asked.update(how, name=name)
        label = frame["income"].to_numpy()
        return datasets.Table(frame.drop(columns="income"), label, {})

    monkeypatch.setattr(datasets._adult, "fetch_openml", fake)
    table, _ = load_adult(download=True)
    assert asked == {"name": "adult", "version": 2, "target": "class"}
    assert table.y.tolist() == [0, 1]
    assert sorted(table.extras) == ["race", "sex"]


def test_compas_with_propublicas_filter(tmp_path):
    table, sheet = load_compas(written(tmp_path / "compas-scores-two-years.csv", COMPAS))
    assert table.y.tolist() == [1, 0, 0]
    assert table.extras["race"].tolist() == ["Other", "African-American", "Caucasian"]
    assert table.extras["decile_score"].tolist() == [1, 3, 9]
    assert table.X["priors_count"].tolist() == [0, 2, 4]
    assert not {"race", "sex", "decile_score", "score_text", "is_recid"} & set(table.X)
    assert set(sheet.groups) == {"race", "sex", "age_cat"}
    columns = ["id", "days_b_screening_arrest", "is_recid"]
    kept = pd.read_csv(tmp_path / "compas-scores-two-years.csv").iloc[[0, 1, 7]]
    kept.drop(columns=columns).to_csv(tmp_path / "filtered.csv", index=False)
    again, _ = load_compas(tmp_path / "filtered.csv", keep_extras=True)
    np.testing.assert_array_equal(again.y, table.y)
    assert {"race", "sex", "age_cat"} < set(again.X)
    assert not {"decile_score", "score_text"} & set(again.X)


def test_compas_is_fetched_from_propublica_when_told_to(monkeypatch):
    asked = []
    read_csv = pd.read_csv

    def fake(path, **how):
        asked.append(path)
        return read_csv(StringIO(COMPAS), **how)

    monkeypatch.setattr(pd, "read_csv", fake)
    table, _ = load_compas(download=True)
    assert len(table.y) == 3
    assert asked[0].startswith("https://raw.githubusercontent.com/propublica/")


def test_german_credit_as_uci_publishes_it(tmp_path):
    table, sheet = load_german_credit(written(tmp_path / "german.data", GERMAN))
    assert table.y.tolist() == [1, 0, 1]
    assert table.extras["sex"].tolist() == ["male", "female", "female"]
    assert table.extras["age_group"].tolist() == ["over 25", "up to 25", "up to 25"]
    assert table.X["credit_amount"].tolist() == [1169, 5951, 2096]
    assert "personal_status" not in table.X
    assert sheet.groups["sex"]["female"] == (2, 0.5)
    header = ",".join(datasets._german_credit._COLUMNS)
    text = f"{header},sex\n" + "".join(
        line.replace(" ", ",") + ",unknown\n" for line in GERMAN.splitlines()
    )
    again, _ = load_german_credit(
        written(tmp_path / "german.csv", text), age_threshold=22, keep_extras=True
    )
    assert again.extras["sex"].tolist() == table.extras["sex"].tolist()
    assert again.extras["age_group"].tolist() == ["over 22", "up to 22", "over 22"]
    assert {"sex", "age_group", "personal_status"} < set(again.X)


def test_german_credit_from_openml(monkeypatch):
    frame = pd.DataFrame(
        {
            "personal_status": pd.Categorical(["male single", "female div/dep/mar"]),
            "age": [30, 20],
            "purpose": ["radio/tv", "car"],
        }
    )
    found = datasets.Table(frame, np.array(["good", "bad"], dtype=object), {})
    monkeypatch.setattr(datasets._german_credit, "fetch_openml", lambda *_, **__: found)
    table, _ = load_german_credit(download=True)
    assert table.y.tolist() == [1, 0]
    assert table.extras["sex"].tolist() == ["male", "female"]
    assert list(table.X) == ["age", "purpose"]


@pytest.mark.parametrize("load", [load_adult, load_compas, load_german_credit])
def test_nothing_is_fetched_in_silence(load, tmp_path):
    with pytest.raises(ValueError, match="download=True"):
        load()
    with pytest.raises(ValueError, match="download=True"):
        load(tmp_path / "file", download=True)
    with pytest.raises(FileNotFoundError, match="no such file"):
        load(tmp_path / "none.data")
    with pytest.raises(ValueError, match="no rows"):
        load(written(tmp_path / "empty.data", ""))
    with pytest.raises(ValueError, match=r"columns|has no"):
        load(written(tmp_path / "other.data", "a,b\n1,2\n"))


@pytest.mark.parametrize(
    ("load", "text", "message"),
    [
        (load_adult, ADULT.replace(">50K", "rich"), "unknown labels .'rich'.*>50K"),
        (load_adult, ADULT.replace("39", "old"), "column of numbers"),
        (load_german_credit, GERMAN.replace("A201 2", "A201 3"), "unknown labels .'3'"),
        (load_compas, COMPAS.replace("4,1\n", "4,2\n"), "unknown labels .'2'"),
        (load_compas, COMPAS.replace("priors_count", "priors"), "priors_count"),
    ],
)
def test_other_labels_and_columns_are_named(load, text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load(written(tmp_path / "file.data", text))
    with pytest.raises(ValueError, match="missing"):
        load_adult(tmp_path / "file.data", missing="impute")


def test_a_datasheet_says_it_all(tmp_path):
    _, sheet = load_german_credit(written(tmp_path / "german.data", GERMAN))
    assert isinstance(sheet, Datasheet)
    text, page = repr(sheet), sheet._repr_html_()
    for shown in (text.replace("\n", " "), page):
        for word in (
            "German credit",
            "3 rows",
            "CC BY 4.0",
            "good credit",
            "up to 25",
            "Groemping",
        ):
            assert word in shown
    assert max(map(len, text.splitlines())) <= 92
    assert page.count("<tr>") == 5


@pytest.mark.parametrize(
    ("load", "file", "rows", "share", "group"),
    [
        (load_adult, "adult_complete_cases.csv.gz", 45_222, 0.2478, ("sex", "Female", 14_695)),
        (load_compas, "compas_two_years_filtered.csv", 6_172, 0.5449, ("race", "Caucasian", 2_103)),
        (load_german_credit, "german_credit.csv", 1_000, 0.7, ("sex", "female", 310)),
    ],
)
def test_the_data_themselves(load, file, rows, share, group):
    if not (SHARED / file).exists():
        pytest.skip(f"{file} is not beside the checkout, in ../shared/data")
    table, sheet = load(SHARED / file)
    attribute, value, count = group
    assert len(table.X) == len(table.y) == sheet.rows == rows
    assert table.y.mean() == pytest.approx(share, abs=1e-4)
    assert sheet.groups[attribute][value][0] == count
    assert not table.X.isna().any().any()


@pytest.mark.parametrize("load", [load_adult, load_compas, load_german_credit])
def test_neither_file_nor_download_reads_as_a_sentence(load):
    with pytest.raises(ValueError, match="or fetches it with download=True") as raised:
        load()
    assert ",," not in str(raised.value)
    assert ", or fetches" in str(raised.value)


@pytest.mark.parametrize("load", [load_adult, load_compas, load_german_credit])
def test_a_file_that_is_no_text_is_named(load, tmp_path):
    path = tmp_path / "picture.data"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe\x00\x80" * 20)
    with pytest.raises(ValueError, match=r"picture\.data") as raised:
        load(path)
    assert type(raised.value) is ValueError


@pytest.mark.parametrize("years", ["x", None, True])
def test_a_threshold_of_age_is_a_number(years):
    with pytest.raises(TypeError, match="age_threshold must be a number of years"):
        load_german_credit("any.csv", age_threshold=years)
