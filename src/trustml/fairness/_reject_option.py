"""Where a classifier is in doubt, the unprivileged have the benefit of it."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from trustml.fairness._group_transformer import check_share
from trustml.fairness._post_processor import PostProcessor
from trustml.fairness._roc_curves import check_rates, compared_rates, curve_at, gains, spread
from trustml.warnings import TrustmlWarning

_MOST = 100_000  # pairs of threshold and margin that are compared


class RejectOptionClassifier(PostProcessor):
    r"""Near the threshold, decide for the unprivileged and against the privileged.

    The critical region is a margin around the threshold; both are the best in the objective
    among those whose gap on the rows of ``fit`` is at most ``tolerance``. Far from the threshold
    no decision changes, and no chance is used.

    Parameters
    ----------
    estimator : classifier, Model or torch module
        Gives probabilities. A clone of a scikit-learn estimator is fitted; a ``Model`` or module
        is asked as it is.
    privileged : object or None
        The group that gives way; None is the one that the model favours most often.
    constraints : str
        "demographic_parity", "equal_opportunity", "predictive_equality", "equalized_odds" or
        "error_parity".
    objective : {"balanced_accuracy", "accuracy"}
        What is made as large as it can be.
    tolerance : float in [0, 1]
        Allowed difference of each rate between any two groups.
    threshold : float in [0, 1] or None
        Centre of the critical region; None chooses it among the percentiles of the scores, too.
    prefit : bool
        Whether a scikit-learn estimator is fitted already.
    folds : int or None
        Not None: chosen on out-of-fold scores, for learners that know their rows by heart.
    pos_label : object or None
        The favourable label; None is the second of the sorted two.

    Attributes
    ----------
    threshold_, margin_ : float
        The critical region is ``threshold_ - margin_`` to ``threshold_ + margin_``.
    privileged_ : object
        The group that gives way.
    gap_ : float
        Largest difference of the compared rates, over the rows of ``fit``.

    References
    ----------
    Kamiran, Karim and Zhang (2012), Decision theory for discrimination-aware classification.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> rng = np.random.default_rng(0)
    >>> s = rng.choice(["a", "b"], 400)
    >>> X = rng.normal(size=(400, 1)) + (s == "b")[:, None]
    >>> y = (X[:, 0] + rng.normal(size=400) > 0.5).astype(int)
    >>> fair = RejectOptionClassifier(LogisticRegression()).fit(X, y, sensitive_features=s)
    >>> fair.privileged_, bool(fair.gap_ <= 0.05)
    ('b', True)
    """

    def __init__(
        self,
        estimator: Any,
        *,
        privileged: Any = None,
        constraints: str = "demographic_parity",
        objective: str = "balanced_accuracy",
        tolerance: float = 0.05,
        threshold: float | None = 0.5,
        prefit: bool = False,
        folds: int | None = None,
        pos_label: Any = None,
    ) -> None:
        self.estimator = estimator
        self.privileged = privileged
        self.constraints = constraints
        self.objective = objective
        self.tolerance = tolerance
        self.threshold = threshold
        self.prefit = prefit
        self.folds = folds
        self.pos_label = pos_label

    def _learn(
        self, X: Any, scores: np.ndarray, y: np.ndarray, codes: np.ndarray, weights: np.ndarray
    ) -> None:
        rates = compared_rates(self.constraints)
        check_share(self.tolerance, "tolerance")
        if self.threshold is not None:
            check_share(self.threshold, "threshold")
        members = [codes == g for g in range(len(self.groups_))]
        if self.privileged is None:
            favoured = [np.average(scores[m] > 0.5, weights=weights[m]) for m in members]
            self._privileged = int(np.argmax(favoured))
        else:
            self._privileged = self._groups.index(self.privileged)
        self.privileged_ = self.groups_[self._privileged]
        thresholds, margins = self._regions(scores)
        curves = [
            curve_at(scores[m], y[m], weights[m], thresholds + self._sign(g) * margins)
            for g, m in enumerate(members)
        ]
        check_rates(curves, rates, self.groups_)
        # The last decision of a curve is about all rows; it is no region.
        gap = np.max([spread([c.rate(r)[:-1] for c in curves]) for r in rates], axis=0)
        value = np.sum(gains(curves, self.objective), axis=0)[:-1]
        allowed = gap <= self.tolerance + 1e-12
        best = int(np.where(allowed, value, -np.inf).argmax() if allowed.any() else gap.argmin())
        self.threshold_, self.margin_ = float(thresholds[best]), float(margins[best])
        self.gap_ = float(gap[best])
        if not allowed.any():
            warnings.warn(
                f"no critical region brings the {self.constraints} gap down to {self.tolerance}; "
                f"the smallest, {self.gap_:.3g}, is taken: raise tolerance, let the threshold be "
                "chosen (threshold=None), or use ThresholdOptimizer",
                TrustmlWarning,
                stacklevel=4,
            )

    def _regions(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Thresholds and margins to compare; margins are halfway between rows' distances."""
        percentiles = np.quantile(scores, np.linspace(0.01, 0.99, 99))
        centres = np.unique(percentiles) if self.threshold is None else np.array([self.threshold])
        thresholds, margins = [], []
        for centre in centres:
            distances = np.unique(np.append(0.0, np.abs(scores - centre)))
            middle = np.append(0.0, (distances[1:] + distances[:-1]) / 2)
            most = max(2, _MOST // len(centres))
            if len(middle) > most:
                middle = middle[np.linspace(0, len(middle) - 1, most).astype(np.int64)]
            thresholds.append(np.full(len(middle), centre))
            margins.append(middle)
        return np.concatenate(thresholds), np.concatenate(margins)

    def _sign(self, group: int) -> float:
        return 1.0 if group == self._privileged else -1.0

    def _decided(self, X: Any, scores: np.ndarray, codes: np.ndarray) -> np.ndarray:
        sign = np.where(codes == self._privileged, 1.0, -1.0)
        return (scores >= self.threshold_ + sign * self.margin_).astype(np.float64)
