"""Learn then test: any risk, any parameters, by multiple testing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from trustml.conformal._risk import LossFunction, Risk
from trustml.conformal._risk_controller import RiskController
from trustml.conformal._risk_table import RiskTable, check_level
from trustml.core.validation import check_choice, check_positive_int, to_numpy
from trustml.evidence import bonferroni, fixed_sequence, holm

_METHODS = ("auto", "fixed-sequence", "holm", "bonferroni")


class LearnThenTest(RiskController):
    """Parameters whose risks are all controlled, with probability at least 1 - delta.

    Each parameter's "a risk is at least its alpha" is tested, and the rejections are the valid
    parameters: with probability 1 - ``delta`` over the calibration rows, every risk of every one
    of them is below its alpha. Nothing is asked of the risks: they may rise and fall along the
    grid, and the grid may hold anything.

    Parameters
    ----------
    model : Model, what `trustml.wrap` takes, or None
        None: the rows of X are the scores themselves.
    risk : {"miscoverage", "false-negative-rate", "false-discovery-rate", "selective-error", \
"fairness-violation", "error-rate"}, Risk, callable, or list of these
        A callable is (outputs, y, parameter) -> losses (n,) in [0, bound]. Of a list all are
        controlled at once: a parameter's p-value is the largest of theirs.
    alpha : float in (0, bound), or list with one for each risk
        Level of the risk.
    delta : float in (0, 1)
        Probability with which the promise may fail.
    grid : sequence of m parameters, or None
        Numbers, tuples, anything, chosen without the calibration rows. None: 101 thresholds in
        [0, 1], from the first risk's safest. Its order is that of "fixed-sequence", and breaks
        ties of the choice.
    method : {"auto", "fixed-sequence", "holm", "bonferroni"}
        How the family-wise error rate is kept. "auto": "fixed-sequence" for one risk whose
        evidence is strongest at the safest parameter, else "holm".
    starts : int
        Starts of a fixed sequence, spread evenly, each at ``delta / starts``.
    test : {"auto", "hoeffding-bentkus", "wsr", "clopper-pearson", "empirical-bernstein"}
        The p-value, `trustml.evidence.mean_pvalue`. "auto": Clopper-Pearson for risks that are
        binary by their nature, Hoeffding-Bentkus otherwise.
    objective : None, callable or array of shape (m,)
        Cost of a parameter; the cheapest valid one is chosen. It may look at any data, the
        calibration rows included. None: the last valid one in the grid's order.
    bound : float
        Largest loss of a callable or a loss table.

    Attributes
    ----------
    valid_ : bool ndarray of shape (m,)
        Which parameters control all risks.
    parameter_ : object
        The one chosen; if none is valid, the one at which the risk is 0 for certain, or None.
    index_ : int or None
        Its position in ``grid_``; None if none is valid.
    certified_ : bool
        Whether a parameter is valid.
    p_values_ : ndarray of shape (m,)
        Largest p-value over the risks.
    risk_ : ndarray of shape (m,) or (k, m)
        Risks on the calibration rows, of one or k risks; NaN where no row counts.
    grid_ : ndarray or list
        The m parameters.

    References
    ----------
    Angelopoulos, Bates, Candès, Jordan and Lei (2021), Learn then test: calibrating predictive
    algorithms to achieve risk control, arXiv:2110.01052.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = rng.random((500, 8)) < 0.3
    >>> scores = np.clip(0.6 * y + 0.4 * rng.random((500, 8)), 0, 1)
    >>> ltt = LearnThenTest(risk="false-discovery-rate", alpha=0.1).fit(scores, y)
    >>> bool(ltt.risk_[ltt.index_] < 0.1)
    True
    """

    def __init__(
        self,
        model: Any = None,
        risk: str | Risk | LossFunction | list[Any] = "miscoverage",
        alpha: float | list[float] = 0.1,
        delta: float = 0.1,
        grid: Any = None,
        method: str = "auto",
        starts: int = 1,
        test: str = "auto",
        objective: Callable[[Any], float] | Any = None,
        bound: float = 1.0,
    ) -> None:
        self.model = model
        self.risk = risk
        self.alpha = alpha
        self.delta = delta
        self.grid = grid
        self.method = method
        self.starts = starts
        self.test = test
        self.objective = objective
        self.bound = bound

    def _learn(self, tables: list[RiskTable]) -> None:
        check_choice(self.method, "method", _METHODS)
        check_level(self.delta, 1.0, "delta")
        check_positive_int(self.starts, "starts")
        m, method = len(self.grid_), self.method
        if method == "auto":
            alone = len(tables) == 1 and all(risk.sequential for risk in self.risks_)
            method = "fixed-sequence" if alone else "holm"
        if self.starts != 1 and method != "fixed-sequence":
            raise ValueError(f"starts are for method='fixed-sequence', the method is {method!r}")
        # The level at which a p-value will be compared first: what betting is tuned to.
        aim = self.delta / (self.starts if method == "fixed-sequence" else m)
        alphas = self._alphas(len(tables))
        for table, alpha in zip(tables, alphas, strict=True):
            check_level(alpha, table.bound)
        p = [t.p_values(a, self.test, aim) for t, a in zip(tables, alphas, strict=True)]
        risks = np.stack([table.risks for table in tables])
        self.p_values_ = np.max(p, axis=0)
        self.risk_ = risks[0] if len(tables) == 1 else risks
        if method == "fixed-sequence":
            self.valid_ = fixed_sequence(self.p_values_, self.delta, self.starts)
        else:
            self.valid_ = (holm if method == "holm" else bonferroni)(self.p_values_, self.delta)
        least = int(np.argmin(np.where(self.valid_, self._costs(), math.inf)))
        shown = (
            f"p-values {self.p_values_[0]:.3g} at the first and {self.p_values_.min():.3g} at best"
        )
        self._settle(least if self.valid_.any() else None, f"{shown}, method {method}")

    def _alphas(self, k: int) -> list[float]:
        alphas = np.ravel(self.alpha).tolist()
        if len(alphas) not in (1, k):
            raise ValueError(f"alpha must be one number or one for each of {k} risks, got {alphas}")
        return alphas if len(alphas) == k else alphas * k

    def _costs(self) -> np.ndarray:
        m = len(self.grid_)
        if self.objective is None:
            return -np.arange(m, dtype=np.float64)
        given = [self.objective(x) for x in self.grid_] if callable(self.objective) else None
        costs = to_numpy(self.objective if given is None else given).astype(np.float64)
        if costs.shape != (m,) or not np.isfinite(costs).all():
            raise ValueError(
                f"objective must give one finite cost for each of {m} parameters, got shape "
                f"{costs.shape}"
            )
        return costs
