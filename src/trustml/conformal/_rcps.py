"""Prediction sets whose risk is controlled with high probability."""

from __future__ import annotations

from typing import Any

import numpy as np

from trustml.conformal._risk import LossFunction, Risk
from trustml.conformal._risk_controller import RiskController, only_table
from trustml.conformal._risk_table import RiskTable, check_level
from trustml.evidence import mean_upper_bound


class RiskControllingPredictionSets(RiskController):
    """The boldest sets whose risk is below alpha with probability at least 1 - delta.

    From the safest parameter on, the upper confidence bound of the risk must stay below alpha;
    the last parameter where it does is chosen. The promise needs no monotone losses, only that
    walk; where losses jump about, `LearnThenTest` may find bolder parameters.

    Parameters
    ----------
    model : Model, what `trustml.wrap` takes, or None
        None: the rows of X are the scores themselves.
    risk : {"miscoverage", "false-negative-rate", "false-discovery-rate"}, Risk or callable
        A callable is (outputs, y, parameter) -> losses (n,) in [0, bound].
    alpha : float in (0, bound)
        Level of the risk.
    delta : float in (0, 1)
        Probability with which the promise may fail.
    grid : sequence of m parameters, or None
        From the safest, chosen without the calibration rows. None: 101 thresholds in [0, 1].
    test : {"auto", "wsr", "hoeffding-bentkus", "clopper-pearson", "empirical-bernstein"}
        The bound, `trustml.evidence.mean_upper_bound`. "auto": Clopper-Pearson for risks that
        are binary by their nature, betting ("wsr") otherwise, which reads the rows in the order
        given: one that does not depend on their losses.
    bound : float
        Largest loss of a callable or a loss table.

    Attributes
    ----------
    parameter_ : object
        The one chosen; if none is valid, the one at which the risk is 0 for certain, or None.
    index_ : int or None
        Its position in ``grid_``; None if none is valid.
    certified_ : bool
        Whether a parameter is valid.
    upper_bounds_ : ndarray of shape (m,)
        Upper confidence bound of the risk at each parameter, each at ``delta``.
    risk_ : ndarray of shape (m,)
        Risk on the calibration rows.
    grid_ : ndarray or list
        The m parameters.

    References
    ----------
    Bates, Angelopoulos, Lei, Malik and Jordan (2021), Distribution-free, risk-controlling
    prediction sets, arXiv:2101.02703.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = rng.random((500, 8)) < 0.3
    >>> scores = np.clip(0.3 * y + 0.7 * rng.random((500, 8)), 0, 1)
    >>> rcps = RiskControllingPredictionSets(risk="false-negative-rate", alpha=0.1)
    >>> rcps.fit(scores, y).predict(scores[:2]).shape
    (2, 8)
    """

    def __init__(
        self,
        model: Any = None,
        risk: str | Risk | LossFunction = "miscoverage",
        alpha: float = 0.1,
        delta: float = 0.1,
        grid: Any = None,
        test: str = "auto",
        bound: float = 1.0,
    ) -> None:
        self.model = model
        self.risk = risk
        self.alpha = alpha
        self.delta = delta
        self.grid = grid
        self.test = test
        self.bound = bound

    def _learn(self, tables: list[RiskTable]) -> None:
        table = only_table(tables, type(self).__name__)
        check_level(self.alpha, table.bound)
        check_level(self.delta, 1.0, "delta")
        self.risk_ = table.risks
        self.upper_bounds_ = mean_upper_bound(
            table.losses, self.delta, table.method(self.test, "wsr"), table.bound
        )
        passed = int(np.logical_and.accumulate(self.upper_bounds_ < self.alpha).sum())
        self._settle(
            passed - 1 if passed else None,
            f"upper bound {self.upper_bounds_[0]:.3g} at the safest, alpha {self.alpha:g}",
        )
