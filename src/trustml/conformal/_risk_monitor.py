"""Watching whether the risk of a deployed model stays where it was promised."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from trustml.core.results import Result
from trustml.core.validation import check_alpha
from trustml.evidence import mean_upper_bound
from trustml.evidence._bounded_mean import as_losses
from trustml.evidence._mean_martingale import MeanGambler


@dataclass(frozen=True, eq=False, repr=False)
class RiskPath(Result):
    """Evidence along a stream that its risk is above a limit.

    Attributes
    ----------
    loss : ndarray of shape (t,)
        In order of time.
    log_wealth : ndarray of shape (t,)
        Natural logarithm of the wealth of a gambler who bets that the mean loss is above the limit.
    limit : float
        Mean loss that is still acceptable.
    alpha : float
        The alarm is where the wealth reaches 1 / alpha.
    """

    loss: np.ndarray
    log_wealth: np.ndarray
    limit: float
    alpha: float

    @property
    def alarm(self) -> int | None:
        """Step (from 0) at which the wealth first reached 1 / alpha; None: not yet."""
        reached = np.flatnonzero(self.log_wealth >= -math.log(self.alpha))
        return int(reached[0]) if len(reached) else None

    def _columns(self) -> dict[str, Any]:
        return {"loss": self.loss, "log_wealth": self.log_wealth}

    def _title(self) -> str:
        told = "no alarm" if self.alarm is None else f"alarm at step {self.alarm}"
        mean = f"{self.loss.mean():.4g}" if len(self.loss) else "none yet"
        return f"RiskPath: {len(self.loss)} losses, mean {mean} (limit {self.limit:.4g}), {told}"


class RiskMonitor(BaseEstimator):
    """Raises an alarm when the mean loss of a deployed model is above its limit.

    For misses of conformal sets, errors, costs: any loss in [0, bound]. Shifts that do no harm
    raise no alarm, which is the difference to `ExchangeabilityTest`. As long as every loss, given
    those before it, has a mean of at most the limit, an alarm is ever raised with probability at
    most alpha.

    Parameters
    ----------
    limit : float in (0, bound) or None
        Mean loss that was promised, such as the alpha of prediction sets. None: an upper confidence
        bound of the reference losses, which takes half of ``alpha``.
    tolerance : float
        Added to the limit; at least 0.
    alpha : float in (0, 1)
        Chance of a false alarm, ever.
    bound : float
        Largest loss that is possible.

    Attributes
    ----------
    limit_ : float
        The limit in force, tolerance included.
    alarm_ : int or None
        Step (from 0) of the alarm; it stays until `fit`.

    References
    ----------
    Podkopaev and Ramdas (2022), Tracking the risk of a deployed model and detecting harmful
    distribution shifts, arXiv:2110.06177.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> monitor = RiskMonitor(limit=0.1).fit()
    >>> monitor.update(rng.random(500) < 0.1).alarm_ is None
    True
    >>> monitor.update(rng.random(500) < 0.3).alarm_ < 700
    True
    """

    def __init__(
        self,
        limit: float | None = None,
        tolerance: float = 0.0,
        alpha: float = 0.01,
        bound: float = 1.0,
    ) -> None:
        self.limit = limit
        self.tolerance = tolerance
        self.alpha = alpha
        self.bound = bound

    def fit(self, losses: Any = None) -> Self:
        """Set the limit and start with a wealth of 1.

        Parameters
        ----------
        losses : array of shape (n,) or None
            Independent reference losses of the model at its best; only without ``limit``.

        Returns
        -------
        RiskMonitor
            Itself.

        Raises
        ------
        ValueError
            If there is neither ``limit`` nor reference losses, or both, or if the limit is not
            below the bound.
        """
        alpha = check_alpha(self.alpha)
        if (self.limit is None) == (losses is None):
            raise ValueError("give either limit=, or reference losses to fit, and not both")
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(f"tolerance must be at least 0, got {self.tolerance!r}")
        limit = self.limit
        if limit is None:
            # Both the bound and the alarm may be wrong: each with half the probability.
            alpha /= 2
            limit = float(mean_upper_bound(_losses(losses, self.bound), alpha, bound=self.bound))
        self._gambler = MeanGambler(limit + self.tolerance, self.bound)
        self.limit_, self._level = limit + self.tolerance, alpha
        self._steps = [(np.zeros(0), np.zeros(0))]
        self.alarm_: int | None = None
        self._seen = 0
        return self

    def update(self, losses: Any) -> Self:
        """Take in losses, in order of time.

        Parameters
        ----------
        losses : array of shape (k,), or one loss
            In [0, bound].

        Returns
        -------
        RiskMonitor
            Itself.
        """
        check_is_fitted(self, "limit_")
        new = _losses(losses, self.bound)
        wealth = self._gambler.bet(new)
        reached = np.flatnonzero(wealth >= -math.log(self._level))
        if self.alarm_ is None and len(reached):
            self.alarm_ = self._seen + int(reached[0])
        self._seen += len(new)
        self._steps.append((new, wealth))
        return self

    def trace(self) -> RiskPath:
        """Return losses and wealth of the updates so far."""
        check_is_fitted(self, "limit_")
        loss, wealth = (np.concatenate(parts) for parts in zip(*self._steps, strict=True))
        return RiskPath(loss, wealth, self.limit_, self._level)


def _losses(losses: Any, bound: float) -> np.ndarray:
    values = as_losses(losses if np.ndim(losses) else [losses], bound)
    if values.ndim != 1:
        raise ValueError(f"losses must be 1-d, in order of time, got shape {values.shape}")
    return values
