"""Conformal prediction of any monotone loss: its expectation is controlled."""

from __future__ import annotations

import warnings
from bisect import bisect_right
from typing import Any

import numpy as np

from trustml.conformal._risk import LossFunction, Risk
from trustml.conformal._risk_controller import RiskController, only_table
from trustml.conformal._risk_table import RiskTable, check_level
from trustml.evidence import exact_alpha
from trustml.warnings import CoverageWarning

_TIE = 1e-12  # a fall of a loss that is but rounding, in units of the bound


class ConformalRiskControl(RiskController):
    """The boldest parameter at which the expected loss of a new row is at most alpha.

    The expectation is over calibration and new rows together, which must be exchangeable. The
    boldest parameter is the last at which (sum of losses + bound) / (n + 1) <= alpha: the new
    row's loss counted at its worst. For miscoverage these are the split conformal sets.

    Parameters
    ----------
    model : Model, what `trustml.wrap` takes, or None
        None: the rows of X are the scores themselves.
    risk : {"miscoverage", "false-negative-rate"}, Risk or callable
        A callable is (outputs, y, parameter) -> losses (n,) in [0, bound]. A row's loss must not
        fall along the grid.
    alpha : float in (0, bound)
        Level of the expected loss.
    grid : sequence of m parameters, or None
        From the safest. None: 101 thresholds in [0, 1].
    monotonize : bool
        Replace each loss by the largest at this parameter and the safer ones, with a warning,
        instead of refusing losses that fall.
    bound : float
        Largest loss of a callable or a loss table.

    Attributes
    ----------
    parameter_ : object
        The one chosen; if none is valid, the one at which the risk is 0 for certain, or None.
    index_ : int or None
        Its position in ``grid_``; None if none is valid.
    certified_ : bool
        Whether a parameter of the grid is valid.
    risk_ : ndarray of shape (m,)
        Risk on the calibration rows (of the monotonized losses).
    grid_ : ndarray or list
        The m parameters.

    References
    ----------
    Angelopoulos, Bates, Fisch, Lei and Schuster (2022), Conformal risk control, arXiv:2208.02814
    (theorem 1; monotonized losses: section 2.3).

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = rng.random((500, 8)) < 0.3
    >>> scores = np.clip(0.3 * y + 0.7 * rng.random((500, 8)), 0, 1)
    >>> crc = ConformalRiskControl(risk="false-negative-rate", alpha=0.1).fit(scores, y)
    >>> bool(crc.risk_[crc.index_] <= 0.1)
    True
    """

    def __init__(
        self,
        model: Any = None,
        risk: str | Risk | LossFunction = "miscoverage",
        alpha: float = 0.1,
        grid: Any = None,
        monotonize: bool = False,
        bound: float = 1.0,
    ) -> None:
        self.model = model
        self.risk = risk
        self.alpha = alpha
        self.grid = grid
        self.monotonize = monotonize
        self.bound = bound

    def _learn(self, tables: list[RiskTable]) -> None:
        table = only_table(tables, type(self).__name__)
        check_level(self.alpha, table.bound)
        losses = monotone(table, self.monotonize)
        n = len(losses)
        # Exactly, as ranks are: a sum of zeros and ones meets its limit or does not.
        limit = exact_alpha(self.alpha / table.bound) * (n + 1) - 1
        sums = np.maximum.accumulate((losses / table.bound).sum(axis=0))
        passed = bisect_right(sums.tolist(), limit)  # a Fraction meets a float exactly
        self.risk_ = losses.mean(axis=0)
        least = (self.risk_[0] * n + table.bound) / (n + 1)
        self._settle(
            passed - 1 if passed else None,
            f"bound on the expected loss {least:.3g} at the safest, alpha {self.alpha:g}",
        )


def monotone(table: RiskTable, monotonize: bool) -> np.ndarray:
    """Return losses (n, m) that do not fall along the grid.

    Returns
    -------
    ndarray of shape (n, m)

    Raises
    ------
    ValueError
        If losses fall, and are not to be raised.

    Warns
    -----
    CoverageWarning
        If losses fall, and are raised.
    """
    highest: np.ndarray = np.maximum.accumulate(table.losses, axis=1)
    falls = (highest - table.losses > _TIE * table.bound).any(axis=1)
    if not falls.any():
        return highest
    if not monotonize:
        raise ValueError(
            f"the losses of {int(falls.sum())} of {len(falls)} rows fall along the grid; give "
            "the grid from the safest parameter, or monotonize=True, or use LearnThenTest"
        )
    warnings.warn(
        f"the losses of {int(falls.sum())} of {len(falls)} rows fall along the grid; each is "
        "replaced by its largest so far, which raises the mean loss by up to "
        f"{(highest - table.losses).mean(axis=0).max():.3g}: the choice is cautious.",
        CoverageWarning,
        stacklevel=4,
    )
    return highest
