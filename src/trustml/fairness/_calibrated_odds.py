"""Calibrated scores with one equal error, by withholding some scores of the better-off groups."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from trustml.core.random import RandomState, row_uniforms
from trustml.core.validation import check_choice
from trustml.fairness._drawn_gap import warn_if_drawn_apart
from trustml.fairness._post_processor import PostProcessor
from trustml.fairness._roc_curves import Curve, check_rates, compared_rates, spread
from trustml.warnings import TrustmlWarning

_COSTS = ("equal_opportunity", "predictive_equality", "error_parity")
_WORSE = 0.01  # rise of a gap that is worth a warning


class CalibratedEqualizedOdds(PostProcessor):
    r"""Make one generalised error rate equal between groups, and keep scores calibrated.

    The error is that of the scores p: the mean of 1 - p over favourable labels, of p over the
    others, or both weighted by how often they occur. Groups that are better off get, for a random
    share of their rows, the group's base rate in place of the score, until they are as badly off
    as the worst group. Calibration with more than one equal error is impossible, unless
    base rates are equal or prediction is perfect: gaps in decisions can become **wider**, and
    a warning tells when they do. Where
    decisions count, ``ThresholdOptimizer`` equalises them.

    Parameters
    ----------
    estimator : classifier, Model or torch module
        Gives probabilities, best calibrated ones. A clone of a scikit-learn estimator is fitted;
        a ``Model`` or module is asked as it is.
    cost_constraint : {"equal_opportunity", "predictive_equality", "error_parity"}
        Which error: of favourable labels ("fnr" in the paper), of the others ("fpr"), or both
        ("weighted").
    prefit : bool
        Whether a scikit-learn estimator is fitted already.
    folds : int or None
        Not None: shares are chosen on out-of-fold scores.
    pos_label : object or None
        The favourable label; None is the second of the sorted two.
    random_state : int, Generator or None
        Seed of which scores are withheld: a hash of seed and row decides, so equal rows are
        treated alike. With few distinct rows shares are far from ``withheld_``; a warning tells.

    Attributes
    ----------
    withheld_ : dict
        Group -> share of its scores that its base rate replaces.
    base_rates_ : dict
        Group -> share of favourable labels.
    expected_costs_ : dict
        Group -> expected error after correction, over the rows of ``fit``.

    References
    ----------
    Pleiss et al. (2017), On fairness and calibration, arXiv:1709.02012.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> rng = np.random.default_rng(0)
    >>> s = rng.choice(["a", "b"], 400)
    >>> X = rng.normal(size=(400, 1)) * np.where(s == "b", 3, 1)[:, None]
    >>> y = (X[:, 0] + rng.normal(size=400) > 1).astype(int)
    >>> fair = CalibratedEqualizedOdds(LogisticRegression()).fit(X, y, sensitive_features=s)
    >>> {group: round(share, 1) for group, share in fair.withheld_.items()}
    {'a': 0.0, 'b': 0.7}
    """

    _corrects_scores = True

    def __init__(
        self,
        estimator: Any,
        *,
        cost_constraint: str = "equal_opportunity",
        prefit: bool = False,
        folds: int | None = None,
        pos_label: Any = None,
        random_state: RandomState = 0,
    ) -> None:
        self.estimator = estimator
        self.cost_constraint = cost_constraint
        self.prefit = prefit
        self.folds = folds
        self.pos_label = pos_label
        self.random_state = random_state

    def _learn(
        self, X: Any, scores: np.ndarray, y: np.ndarray, codes: np.ndarray, weights: np.ndarray
    ) -> None:
        check_choice(self.cost_constraint, "cost_constraint", _COSTS)
        members = [np.flatnonzero(codes == g) for g in range(len(self.groups_))]
        decided = (scores > 0.5).astype(np.float64)
        before = [_counted(decided[m], y[m], weights[m]) for m in members]
        check_rates(before, compared_rates(self.cost_constraint), self.groups_)
        base = np.array([np.average(y[m], weights=weights[m]) for m in members])
        cost = np.array([self._cost(scores[m], y[m], weights[m]) for m in members])
        trivial = np.array(
            [
                self._cost(np.full(len(m), rate), y[m], weights[m])
                for m, rate in zip(members, base, strict=True)
            ]
        )
        short = np.nanmax(cost) - cost
        room = trivial - cost
        share = np.divide(short, room, out=np.zeros(len(cost)), where=(room > 0) & (short > 0))
        met = np.isnan(cost) | (share <= 1) & ((room > 0) | (short <= 0))
        share = np.minimum(share, 1.0)
        self._base, self._share = base, share
        self._row_seed = self._drawn_seed(self.random_state)
        self.withheld_ = dict(zip(self.groups_, share.tolist(), strict=True))
        self.base_rates_ = dict(zip(self.groups_, base.tolist(), strict=True))
        expected = (1 - share) * cost + share * trivial
        self.expected_costs_ = dict(zip(self.groups_, expected.tolist(), strict=True))
        if not met.all():
            names = [g for g, fine in zip(self.groups_, met, strict=True) if not fine]
            warnings.warn(
                f"the groups {names} stay better off than the worst whatever is withheld: their "
                "base rate alone has no larger error; expected_costs_ has what is reached",
                TrustmlWarning,
                stacklevel=4,
            )
        error, trivial_error = (np.where(y, 1 - p, p) for p in (scores, base[codes]))
        withheld = row_uniforms(X, self._row_seed) < share[codes]
        warn_if_drawn_apart(
            "error of the scores",
            np.where(withheld, trivial_error, error),
            (1 - share[codes]) * error + share[codes] * trivial_error,
            share[codes] * (1 - share[codes]) * (error - trivial_error) ** 2,
            codes,
            self._counted(y, weights),
            "give the model columns that tell more rows apart",
            stacklevel=4,
        )
        chance = (1 - share[codes]) * decided + share[codes] * (base[codes] > 0.5)
        after = [_counted(chance[m], y[m], weights[m]) for m in members]
        self._warn_if_wider(before, after)

    def _cost(self, scores: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
        error = np.where(y, 1 - scores, scores)
        w = self._counted(y, weights)
        return float(w @ error / w.sum()) if w.any() else float("nan")

    def _counted(self, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Weights of the rows whose error is compared."""
        counted = {"equal_opportunity": y, "predictive_equality": ~y}.get(self.cost_constraint)
        return weights if counted is None else weights * counted

    def _warn_if_wider(self, before: list[Curve], after: list[Curve]) -> None:
        worse = []
        for name in ("selection_rate", "true_positive_rate", "false_positive_rate"):
            old, new = (
                float(spread([c.rate(name) for c in curves])[0]) for curves in (before, after)
            )
            if new > old + _WORSE:
                worse.append(f"{name.replace('_', ' ')} from {old:.3f} to {new:.3f}")
        if worse:
            warnings.warn(
                "calibrated equalized odds widen gaps in the decisions (score above 0.5) on the "
                f"training rows: {', '.join(worse)}; if decisions count rather than scores, use "
                "ThresholdOptimizer",
                TrustmlWarning,
                stacklevel=5,
            )

    def _decided(self, X: Any, scores: np.ndarray, codes: np.ndarray) -> np.ndarray:
        withheld = row_uniforms(X, self._row_seed) < self._share[codes]
        return np.where(withheld, self._base[codes], scores)


def _counted(chance: np.ndarray, y: np.ndarray, weights: np.ndarray) -> Curve:
    """Count the expected decisions about a group's rows, and the decision for all."""
    ends = np.stack([chance, np.ones(len(y))])
    return Curve(np.array([0.5, -np.inf]), ends @ (weights * y), ends @ (weights * ~y))
