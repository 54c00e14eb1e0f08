"""German credit: who paid a loan back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from trustml.datasets._datasheet import Datasheet
from trustml.datasets._raw_tables import described, favourable, need_path, numbers, read_text_table
from trustml.datasets._tables import Table, _check_present, fetch_openml

_COLUMNS = (
    "status", "month", "credit_history", "purpose", "credit_amount", "savings", "employment",
    "investment_as_income_percentage", "personal_status", "other_debtors", "residence_since",
    "property", "age", "installment_plans", "housing", "number_of_credits", "skill_level",
    "people_liable_for", "telephone", "foreign_worker", "credit",
)  # fmt: skip
_NUMBERS = (
    "month", "credit_amount", "investment_as_income_percentage", "residence_since", "age",
    "number_of_credits", "people_liable_for",
)  # fmt: skip
_FEMALE = ("A92", "A95")
_FACTS: dict[str, Any] = {
    "name": "German credit",
    "about": "Borrowers of a bank in southern Germany, 1973 to 1975.",
    "label": "Whether the loan was paid back as agreed. Of those who were refused nothing is "
    "known.",
    "favourable": "good credit",
    "problems": (
        "Sex cannot be told from personal_status: UCI's list of codes is wrong, and its 'female' "
        "holds single men too (Groemping). Figures by sex are an exercise, no finding.",
        "Bad loans were sampled at 30 %, far above their share among loans.",
        "1000 rows: a gap between the sexes is known to within 6 points either way.",
        "Rows are those of accepted customers of half a century ago.",
    ),
    "licence": "CC BY 4.0, as the UCI repository states",
    "source": "https://archive.ics.uci.edu/dataset/144/statlog+german+credit+data",
    "references": (
        "Hofmann (1994), Statlog (German credit data), UCI Machine Learning Repository.",
        "Groemping (2019), South German credit data: correcting a widely used data set.",
    ),
}


def load_german_credit(
    path: str | Path | None = None,
    *,
    download: bool = False,
    age_threshold: float = 25,
    keep_extras: bool = False,
) -> tuple[Table, Datasheet]:
    """Read the German credit data, and say what they are.

    Parameters
    ----------
    path : str, Path or None
        UCI's german.data, or a CSV file with the columns that ours are called by (a column "sex"
        is not read, but told from personal_status).
    download : bool
        Fetch version 1 of "credit-g" from OpenML (or scikit-learn's cache) instead. Its columns
        have other names, and words for UCI's codes.
    age_threshold : float
        Years; the age groups are up to it, and above it.
    keep_extras : bool
        Whether sex, the age group and personal_status, which tells the sex, are inputs too; age
        always is.

    Returns
    -------
    Table
        y = 1: good credit. ``extras``: "sex" ("female" or "male") and "age_group".
    Datasheet

    Notes
    -----
    A ``ValueError`` says what is wrong if not exactly one of ``path`` and ``download`` is given or
    the file is another one, a ``FileNotFoundError`` that there is none.

    References
    ----------
    Hofmann (1994), Statlog (German credit data), UCI Machine Learning Repository.
    """
    _check_years(age_threshold)
    need_path(path, download, "load_german_credit", "to UCI's german.data")
    if path is None:
        found, where = fetch_openml("credit-g", version=1, target="class"), "OpenML credit-g"
        frame, label = found.X, favourable(_series(found), {"bad": 0, "good": 1}, "OpenML credit-g")
    else:
        where = str(path)
        frame = read_text_table(Path(path), _COLUMNS, separator=r"[,\s]+")
        _check_present(list(_COLUMNS), list(frame.columns), where)
        frame = numbers(frame[list(_COLUMNS)], _NUMBERS, where)
        label = favourable(frame["credit"], {"1": 1, "2": 0}, where)
        frame = frame.drop(columns="credit")
    _check_present(["personal_status", "age"], list(frame.columns), where)
    status = frame["personal_status"].astype(str)
    sex = np.where(status.isin(_FEMALE) | status.str.startswith("female"), "female", "male")
    young, old = f"up to {age_threshold:g}", f"over {age_threshold:g}"
    extras = {"sex": sex, "age_group": np.where(frame["age"] > age_threshold, old, young)}
    X = frame.assign(**extras) if keep_extras else frame.drop(columns="personal_status")
    return described(X, label, extras, tuple(extras), **_FACTS)


def _check_years(threshold: Any) -> None:
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float, np.number)):
        raise TypeError(f"age_threshold must be a number of years, got {threshold!r}")


def _series(found: Table) -> Any:
    """Return the target as a column of the kind that X has."""
    return found.X.assign(target=found.y)["target"]
