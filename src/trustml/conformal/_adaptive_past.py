"""The scores seen so far, kept sorted, and the rules that read them one by one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable
from fractions import Fraction


def check_above_zero(value: float, name: str) -> float:
    """Return ``value`` as a finite float above 0.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If it is not one.
    """
    number = float(value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")
    return number


class Past:
    """Past scores, sorted; the oldest leave when there are more than ``window``.

    Parameters
    ----------
    scores : iterable of float
        In order of time, without NaN.
    window : int or None
        None keeps all.
    """

    def __init__(self, scores: Iterable[float], window: int | None = None) -> None:
        self.in_time: deque[float] = deque(scores, maxlen=window)
        self.sorted = sorted(self.in_time)

    def __len__(self) -> int:
        return len(self.sorted)

    def add(self, score: float) -> None:
        """Take in the newest score."""
        if len(self.in_time) == self.in_time.maxlen:
            del self.sorted[bisect_left(self.sorted, self.in_time[0])]
        self.in_time.append(score)
        insort(self.sorted, score)

    def threshold(self, level: Fraction | float) -> float:
        """Return the ceil((n + 1)(1 - level))-th smallest score; +-inf where there is none."""
        # Levels leave (0, 1), as adaptive ones do: +inf then covers everything, -inf nothing.
        rank = math.ceil((len(self.sorted) + 1) * (1 - Fraction(level)))
        if rank > len(self.sorted):
            return math.inf
        return self.sorted[rank - 1] if rank > 0 else -math.inf

    def p_value(self, score: float) -> float:
        """Return the smallest level that misses this score, (1 + #{past >= score}) / (n + 1)."""
        n = len(self.sorted)
        return (1 + n - bisect_left(self.sorted, score)) / (n + 1)


class Controller(ABC):
    """What moves with one stream at one error rate: threshold, then score, then threshold."""

    @abstractmethod
    def propose(self, past: Past) -> tuple[float, float]:
        """Return the threshold for the next score, and the level behind it (NaN if none)."""

    @abstractmethod
    def observe(self, score: float, missed: bool, past: Past) -> None:
        """Learn the score that the last threshold met; ``past`` does not hold it yet."""


class OnlineRule(ABC):
    """How a threshold follows a stream of scores.

    Subclasses are final. ``name`` is what ``AdaptiveConformal(method=...)`` knows them by.
    """

    name: str

    @abstractmethod
    def start(self, alpha: Fraction, past: Past) -> Controller:
        """Return a controller at the start of a stream.

        Parameters
        ----------
        alpha : Fraction
            Error rate that is aimed at.
        past : Past
            Calibration scores.
        """
