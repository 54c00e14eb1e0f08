"""COMPAS: who was arrested again within two years."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trustml.datasets._datasheet import Datasheet
from trustml.datasets._raw_tables import described, favourable, need_path, numbers, read_text_table
from trustml.datasets._tables import Table, _check_present

_URL = (
    "https://raw.githubusercontent.com/propublica/compas-analysis/master/"
    "compas-scores-two-years.csv"
)
_NUMBERS = ("age", "juv_fel_count", "juv_misd_count", "juv_other_count", "priors_count")
_GROUPS = ("race", "sex", "age_cat")
_SCORES = ("decile_score", "score_text")
_FACTS: dict[str, Any] = {
    "name": "COMPAS",
    "about": "Defendants in Broward County, Florida, scored for risk in 2013 and 2014.",
    "label": "Whether a person was charged with another crime within two years; not whether one "
    "was committed: what the police did not see is not there.",
    "favourable": "no new charge within two years",
    "problems": (
        "Arrests measure policing as well as behaviour, and policing differs by race and place.",
        "For people charged again ProPublica kept rows past the two-year cut, so the share of "
        "recidivists is some 10 points too high (Barenstein).",
        "Asian and native American defendants are a few dozen: no figure of theirs is reliable.",
        "decile_score and score_text are the verdicts of the instrument that is examined, no "
        "inputs; they are kept aside. A label that is far from justice makes parity on it far from "
        "justice too (Bao et al.).",
    ),
    "licence": "public records; ProPublica's repository states no licence",
    "source": "https://github.com/propublica/compas-analysis, with the filter of its analysis",
    "references": (
        "Angwin, Larson, Mattu and Kirchner (2016), Machine bias, ProPublica.",
        "Barenstein (2019), ProPublica's COMPAS data revisited, arXiv:1906.04711.",
        "Bao et al. (2021), It's COMPASlicated, arXiv:2106.05498.",
    ),
}


def load_compas(
    path: str | Path | None = None, *, download: bool = False, keep_extras: bool = False
) -> tuple[Table, Datasheet]:
    """Read ProPublica's COMPAS data, and say what they are.

    Rows are filtered as in ProPublica's analysis where the file still has the columns to do so:
    screening within 30 days of the arrest, a known outcome, no ordinary traffic offence, a score.

    Parameters
    ----------
    path : str, Path or None
        ProPublica's compas-scores-two-years.csv, or a file of its filtered rows.
    download : bool
        Fetch the file from ProPublica's repository instead; nothing is cached.
    keep_extras : bool
        Whether race, sex and the age group are inputs too; age always is.

    Returns
    -------
    Table
        y = 1: no new charge within two years. ``extras``: "race", "sex", "age_cat", and what the
        instrument said, "decile_score" (1 to 10) and "score_text".
    Datasheet

    Notes
    -----
    A ``ValueError`` says what is wrong if not exactly one of ``path`` and ``download`` is given or
    the file is another one, a ``FileNotFoundError`` that there is none.

    References
    ----------
    Angwin, Larson, Mattu and Kirchner (2016), Machine bias, ProPublica.
    """
    need_path(path, download, "load_compas", "to compas-scores-two-years.csv")
    where = _URL if path is None else str(path)
    frame = read_text_table(_URL if path is None else Path(path), None)
    frame = frame.loc[:, ~frame.columns.duplicated()]
    wanted = (*_GROUPS, *_SCORES, "c_charge_degree", "two_year_recid")
    _check_present(list(wanted), list(frame.columns), where)
    frame = numbers(_filtered(frame), (*_NUMBERS, "decile_score"), where)
    inputs = [*_NUMBERS, "c_charge_degree", *(_GROUPS if keep_extras else ())]
    return described(
        frame[inputs],
        favourable(frame["two_year_recid"], {"0": 1, "1": 0}, where),
        {name: frame[name] for name in (*_GROUPS, *_SCORES)},
        _GROUPS,
        **_FACTS,
    )


def _filtered(frame: Any) -> Any:
    if "days_b_screening_arrest" not in frame:
        return frame
    frame = numbers(frame, ["days_b_screening_arrest", "is_recid"], "the file")
    keep = frame["days_b_screening_arrest"].between(-30, 30) & (frame["is_recid"] != -1)
    return frame[keep & (frame["c_charge_degree"] != "O") & frame["score_text"].notna()]
