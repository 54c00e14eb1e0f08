"""UCI Adult: who earned more than 50,000 dollars in 1994."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trustml.core.optional import require
from trustml.core.validation import check_choice
from trustml.datasets._datasheet import Datasheet
from trustml.datasets._raw_tables import described, favourable, need_path, numbers, read_text_table
from trustml.datasets._tables import Table, _check_present, fetch_openml

_NUMBERS = (
    "age", "fnlwgt", "education-num", "capital-gain", "capital-loss", "hours-per-week",
)  # fmt: skip
_COLUMNS = (
    "age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation",
    "relationship", "race", "sex", "capital-gain", "capital-loss", "hours-per-week",
    "native-country", "income",
)  # fmt: skip
_PARTS = {"adult.data": "train", "adult.test": "test"}
_FACTS: dict[str, Any] = {
    "name": "Adult",
    "about": "Respondents of the US census bureau's population survey of 1994, aged 17 and over.",
    "label": "Whether a person's yearly income is above 50,000 dollars.",
    "favourable": "income above 50,000 dollars",
    "problems": (
        "The threshold is arbitrary, and what fairness methods seem to achieve depends on it "
        "(Ding et al.).",
        "relationship (husband, wife) and marital-status tell sex to a model that is not shown it.",
        "fnlwgt is the weight of a respondent in the survey, no property of a person; it is left "
        "out, and shares of groups are those of the sample, not of the population.",
        "Occupation, workclass or country are missing in 7 % of the rows (dropped by default), "
        "which is not at random. Sex and race are the survey's categories.",
    ),
    "licence": "CC BY 4.0, as the UCI repository states",
    "source": "UCI Machine Learning Repository, https://archive.ics.uci.edu/dataset/2/adult",
    "references": (
        "Kohavi (1996), Scaling up the accuracy of naive-Bayes classifiers, KDD.",
        "Ding, Hardt, Miller and Schmidt (2021), Retiring Adult, arXiv:2108.04884.",
    ),
}


def load_adult(
    path: str | Path | None = None,
    *,
    download: bool = False,
    missing: str = "drop",
    keep_extras: bool = False,
) -> tuple[Table, Datasheet]:
    """Read the Adult census data, and say what they are.

    Parameters
    ----------
    path : str, Path or None
        A folder with UCI's adult.data and adult.test, one of these files, or a CSV file with UCI's
        column names and "income", perhaps "split".
    download : bool
        Fetch version 2 of "adult" from OpenML (or scikit-learn's cache) instead; without UCI's
        split.
    missing : {"drop", "keep"}
        What becomes of rows with missing values.
    keep_extras : bool
        Whether sex and race are inputs too.

    Returns
    -------
    Table
        y = 1: income above 50,000 dollars. ``extras``: "sex", "race", and "split" ("train" or
        "test") where the file says so.
    Datasheet

    Notes
    -----
    A ``ValueError`` says what is wrong if not exactly one of ``path`` and ``download`` is given or
    the file is another one, a ``FileNotFoundError`` that there is none.

    References
    ----------
    Kohavi (1996), Scaling up the accuracy of naive-Bayes classifiers: a decision-tree hybrid, KDD.
    """
    check_choice(missing, "missing", ("drop", "keep"))
    need_path(path, download, "load_adult", "to UCI's adult.data or its folder")
    if path is None:
        found = fetch_openml("adult", version=2, target="class")
        frame, where = found.X.assign(income=found.y), "OpenML adult"
    else:
        frame, where = _read(Path(path)), str(path)
    frame = numbers(frame, _NUMBERS, where)
    _check_present(list(_COLUMNS), list(frame.columns), where)
    if missing == "drop":
        frame = frame.dropna(subset=list(_COLUMNS))
    aside = ["sex", "race", *(["split"] if "split" in frame else [])]
    away = {"income", "fnlwgt", "split"} | (set() if keep_extras else {"sex", "race"})
    return described(
        frame[[name for name in _COLUMNS if name not in away]],
        favourable(frame["income"], {"<=50K": 0, ">50K": 1}, where),
        {name: frame[name] for name in aside},
        ("sex", "race"),
        **_FACTS,
    )


def _read(path: Path) -> Any:
    files = [path / name for name in _PARTS] if path.is_dir() else [path]
    parts = [
        read_text_table(file, _COLUMNS).assign(
            **({"split": _PARTS[file.name]} if file.name in _PARTS else {})
        )
        for file in files
    ]
    return require("pandas", "frames").concat(parts, ignore_index=True)
