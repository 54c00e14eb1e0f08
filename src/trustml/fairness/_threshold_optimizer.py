"""Thresholds for each group that do best among those that treat the groups alike."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from trustml.core.random import RandomState
from trustml.fairness._group_transformer import check_share
from trustml.fairness._post_processor import PostProcessor
from trustml.fairness._roc_curves import (
    best_mixtures,
    check_rates,
    compared_rates,
    curves_of,
    gains,
    spread,
)
from trustml.fairness._threshold_search import best_thresholds
from trustml.warnings import TrustmlWarning


class ThresholdOptimizer(PostProcessor):
    r"""Give each group its own threshold on a model's scores, the best that meets a constraint.

    What chance between thresholds can reach is the area under the concave hull of the group's ROC
    curve; the best points, one in each group's area and within ``tolerance`` of each other, solve a
    linear programme. It is exact for any number of groups: on the rows of ``fit`` the expected
    gap is at most ``tolerance``. Within a group a higher score never has the lower probability.

    Parameters
    ----------
    estimator : classifier, Model or torch module
        Gives the scores: probabilities, or a decision function. A clone of a scikit-learn
        estimator is fitted; a ``Model`` or module is asked as it is.
    constraints : str
        "demographic_parity", "equal_opportunity" (true positive rates), "predictive_equality"
        (false positive rates), "equalized_odds" (both), or "error_parity".
    objective : {"accuracy", "balanced_accuracy"}
        What is made as large as it can be.
    tolerance : float in [0, 1]
        Allowed difference of each rate between any two groups.
    deterministic : bool
        True: one threshold a group, no chance, found by search. With a tolerance of 0 often
        only deciding alike about all rows is left. Errors of groups may come no closer than some
        gap: then it is the smallest, and a warning tells.
    prefit : bool
        Whether a scikit-learn estimator is fitted already.
    folds : int or None
        Not None: thresholds are chosen on out-of-fold scores, for learners that know their
        training rows by heart, such as forests.
    pos_label : object or None
        The favourable label; None is the second of the sorted two.
    random_state : int, Generator or None
        Seed of the draw. A row's random number is a hash of seed and row: equal rows of a group
        get equal decisions, in any batch. With few distinct rows the gap of what is drawn is then
        far from the expected one at any n; a warning tells, and ``predict_proba`` has the
        probabilities for draws of your own.

    Attributes
    ----------
    thresholds_ : dict
        Group -> list of (threshold, probability): the score must reach a threshold drawn so.
    expected_rates_ : dict
        Compared rate -> its expected value in each group, over the rows of ``fit``.
    objective_value_ : float
        Expected, over the rows of ``fit``.

    References
    ----------
    Hardt, Price and Srebro (2016), Equality of opportunity in supervised learning,
    arXiv:1610.02413.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> rng = np.random.default_rng(0)
    >>> s = rng.choice(["a", "b"], 400)
    >>> X = rng.normal(size=(400, 1)) + (s == "b")[:, None]
    >>> y = (X[:, 0] + rng.normal(size=400) > 0.5).astype(int)
    >>> fair = ThresholdOptimizer(LogisticRegression()).fit(X, y, sensitive_features=s)
    >>> rates = fair.expected_rates_["true_positive_rate"]
    >>> bool(abs(rates["a"] - rates["b"]) < 1e-9)
    True
    """

    _needs_probabilities = False

    def __init__(
        self,
        estimator: Any,
        *,
        constraints: str = "equalized_odds",
        objective: str = "accuracy",
        tolerance: float = 0.0,
        deterministic: bool = False,
        prefit: bool = False,
        folds: int | None = None,
        pos_label: Any = None,
        random_state: RandomState = 0,
    ) -> None:
        self.estimator = estimator
        self.constraints = constraints
        self.objective = objective
        self.tolerance = tolerance
        self.deterministic = deterministic
        self.prefit = prefit
        self.folds = folds
        self.pos_label = pos_label
        self.random_state = random_state

    def _learn(
        self, X: Any, scores: np.ndarray, y: np.ndarray, codes: np.ndarray, weights: np.ndarray
    ) -> None:
        rates = compared_rates(self.constraints)
        check_share(self.tolerance, "tolerance")
        curves = curves_of(scores, y, codes, weights)
        check_rates(curves, rates, self.groups_)
        if self.deterministic:
            chosen = best_thresholds(curves, rates, self.objective, self.tolerance)
            mixtures = [
                np.eye(1, len(c.thresholds), i)[0] for c, i in zip(curves, chosen, strict=True)
            ]
        else:
            curves = [c.take(c.hull()) for c in curves]
            mixtures = best_mixtures(curves, rates, self.objective, self.tolerance)
        self.seed_ = None if self.deterministic else self._drawn_seed(self.random_state)
        pairs = list(zip(self.groups_, curves, mixtures, strict=True))
        self.thresholds_ = {
            g: [(float(c.thresholds[i]), float(p[i])) for i in np.flatnonzero(p)]
            for g, c, p in pairs
        }
        self.expected_rates_ = {
            name: {g: float(c.rate(name) @ p) for g, c, p in pairs} for name in rates
        }
        gap = max(
            float(spread([np.array([v]) for v in values.values()])[0])
            for values in self.expected_rates_.values()
        )
        if gap > self.tolerance + 1e-9:
            warnings.warn(
                f"no thresholds without chance bring the {self.constraints} gap down to "
                f"{self.tolerance}; the smallest, {gap:.3g}, is taken: raise tolerance, or let "
                "chance decide (deterministic=False)",
                TrustmlWarning,
                stacklevel=4,
            )
        values = gains(curves, self.objective)
        self.objective_value_ = float(sum(v @ p for v, p in zip(values, mixtures, strict=True)))

    def _decided(self, X: Any, scores: np.ndarray, codes: np.ndarray) -> np.ndarray:
        probability = np.zeros(len(scores))
        for g, label in enumerate(self.groups_):
            # From the highest threshold down: reversed, they rise, and the last is certain.
            rising = self.thresholds_[label][::-1]
            reached = np.cumsum([0.0, *(p for _, p in rising)])
            reached /= reached[-1]
            mine = codes == g
            place = np.searchsorted([t for t, _ in rising], scores[mine], side="right")
            probability[mine] = reached[place]
        return probability
