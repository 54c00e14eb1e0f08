"""One gambler along one stream of scores, and what happened on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from trustml.core.results import Result
from trustml.core.validation import check_alpha
from trustml.evidence._bets import Bet, as_bet
from trustml.evidence._online_pvalues import OnlineRanks


@dataclass(frozen=True, eq=False, repr=False)
class MartingalePath(Result):
    """Evidence against exchangeability along a stream.

    Attributes
    ----------
    score : ndarray of shape (t,)
        Scores in order of time.
    p_value : ndarray of shape (t,)
        Of each score among all before it; independent and uniform for exchangeable scores.
    log_wealth : ndarray of shape (t,)
        Natural logarithm of the wealth of a gambler who bets against that.
    alpha : float
        Chance of a false alarm, ever.
    """

    score: np.ndarray
    p_value: np.ndarray
    log_wealth: np.ndarray
    alpha: float

    @property
    def alarm(self) -> int | None:
        """Step (from 0) at which the wealth first reached 1 / alpha; None: not yet."""
        reached = np.flatnonzero(self.log_wealth >= -math.log(self.alpha))
        return int(reached[0]) if len(reached) else None

    def _columns(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("score", "p_value", "log_wealth")}

    def _title(self) -> str:
        told = "no alarm" if self.alarm is None else f"alarm at step {self.alarm}"
        return (
            f"MartingalePath: {len(self.score)} scores from step 0, {told} (alpha {self.alpha:g})"
        )


class Watch:
    """One gambler along one stream of scores.

    Parameters
    ----------
    before : ndarray of shape (n,)
        Scores before the stream.
    bet : str or Bet
        The strategy.
    alpha : float in (0, 1)
        Chance of a false alarm, ever.
    rng : numpy Generator
        Of the p-values.
    """

    def __init__(
        self, before: np.ndarray, bet: str | Bet, alpha: float, rng: np.random.Generator
    ) -> None:
        self.ranks, self.gambler, self.rng = OnlineRanks(before), as_bet(bet).start(), rng
        self.alpha = check_alpha(alpha)
        self.alarm: int | None = None
        self.steps: list[tuple[float, float, float]] = []

    def observe(self, scores: np.ndarray) -> Watch:
        """Take in scores in order of time."""
        p_values = self.ranks.add(scores, 1 - self.rng.random(len(scores))).tolist()
        for score, p in zip(scores.tolist(), p_values, strict=True):
            wealth = self.gambler.bet(p)
            if self.alarm is None and wealth >= -math.log(self.alpha):
                self.alarm = len(self.steps)
            self.steps.append((score, p, wealth))
        return self

    def path(self) -> MartingalePath:
        """Return what happened so far."""
        columns = np.array(self.steps, dtype=np.float64).reshape(-1, 3)
        score, p_value, log_wealth = columns.T.copy()
        return MartingalePath(score, p_value, log_wealth, self.alpha)
