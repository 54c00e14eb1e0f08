"""Verdicts, and how an interval or a test becomes one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trustml.evidence import Interval


class Verdict(Enum):
    """What a check concludes; the value is the word that the report shows."""

    PASS = "pass"
    FAIL = "fail"
    NOT_ENOUGH_DATA = "not enough data"
    SKIPPED = "skipped"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """One measured quantity beside its requirement.

    Attributes
    ----------
    name : str
        What was measured, for whom.
    estimate, low, high : float
        Point estimate and the interval at confidence `level`; ``nan`` where there is none.
    level : float in (0, 1)
        Confidence level of the interval, or of the test. It already carries the correction
        for several findings in one check.
    method : str
        How the interval or the p-value was made.
    n : int
        Rows that it rests on.
    requirement : str
        The rule in words ("at least 0.9"), empty for a finding that is shown, not judged.
    threshold : tuple of float
        The numbers in the rule; empty, one, or two (a band).
    p_value : float or None
        The p-value, where the verdict is that of a test.
    verdict : Verdict or None
        None: shown only.
    """

    name: str
    estimate: float
    low: float
    high: float
    level: float
    method: str
    n: int
    requirement: str = ""
    threshold: tuple[float, ...] = ()
    p_value: float | None = None
    verdict: Verdict | None = None


def combine(verdicts: Iterable[Verdict | None]) -> Verdict:
    """Return the verdict of a check from those of its findings: the worst one counts.

    Parameters
    ----------
    verdicts : iterable of Verdict or None
        None marks a finding that is shown, not judged.

    Returns
    -------
    Verdict
        ``SKIPPED`` if nothing was judged.
    """
    seen = set(verdicts)
    order = (Verdict.ERROR, Verdict.FAIL, Verdict.NOT_ENOUGH_DATA, Verdict.PASS)
    return next((v for v in order if v in seen), Verdict.SKIPPED)


def at_least(name: str, interval: Interval, threshold: float, n: int) -> Finding:
    """Judge "the quantity is at least `threshold`" by its interval.

    Returns
    -------
    Finding
        Passes if the whole interval lies at or above the threshold, fails if it lies below.
    """
    if math.isnan(interval.low) or math.isnan(interval.high):
        verdict = Verdict.NOT_ENOUGH_DATA
    elif interval.low >= threshold:
        verdict = Verdict.PASS
    else:
        verdict = Verdict.FAIL if interval.high < threshold else Verdict.NOT_ENOUGH_DATA
    return _finding(name, interval, n, f"at least {threshold:g}", (threshold,), verdict)


def at_most(name: str, interval: Interval, threshold: float, n: int) -> Finding:
    """Judge "the quantity is at most `threshold`" by its interval.

    Returns
    -------
    Finding
        Passes if the whole interval lies at or below the threshold, fails if it lies above.
    """
    if math.isnan(interval.low) or math.isnan(interval.high):
        verdict = Verdict.NOT_ENOUGH_DATA
    elif interval.high <= threshold:
        verdict = Verdict.PASS
    else:
        verdict = Verdict.FAIL if interval.low > threshold else Verdict.NOT_ENOUGH_DATA
    return _finding(name, interval, n, f"at most {threshold:g}", (threshold,), verdict)


def within(name: str, interval: Interval, threshold: float, n: int) -> Finding:
    """Judge "the signed quantity lies within +/- `threshold`" by its interval.

    Returns
    -------
    Finding
        Passes if the interval lies inside the band (an equivalence test), fails if it lies
        wholly on one side of it.
    """
    if math.isnan(interval.low) or math.isnan(interval.high):
        verdict = Verdict.NOT_ENOUGH_DATA
    elif -threshold <= interval.low and interval.high <= threshold:
        verdict = Verdict.PASS
    elif interval.low > threshold or interval.high < -threshold:
        verdict = Verdict.FAIL
    else:
        verdict = Verdict.NOT_ENOUGH_DATA
    band = (-threshold, threshold)
    return _finding(name, interval, n, f"within ±{threshold:g}", band, verdict)


def shown(name: str, interval: Interval, n: int) -> Finding:
    """Return a finding that is reported without a verdict."""
    return _finding(name, interval, n, "", (), None)


def one(made: Interval | list[Interval]) -> Interval:
    """Return the interval of a statistic that is one number."""
    return made[0] if isinstance(made, list) else made


def _finding(
    name: str,
    interval: Interval,
    n: int,
    requirement: str,
    threshold: tuple[float, ...],
    verdict: Verdict | None,
) -> Finding:
    return Finding(
        name=name,
        estimate=float(interval.estimate),
        low=float(interval.low),
        high=float(interval.high),
        level=float(interval.level),
        method=interval.method,
        n=int(n),
        requirement=requirement,
        threshold=tuple(float(t) for t in threshold),
        verdict=verdict,
    )
