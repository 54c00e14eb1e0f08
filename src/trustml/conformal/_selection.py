"""Selecting rows whose unknown outcome is wanted, at a false discovery rate."""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from trustml.conformal._covariate_shift import CovariateShift
from trustml.conformal._regression import as_regressor, measured
from trustml.conformal._residual_score import ResidualScore, as_residual_score
from trustml.conformal._scaling import class_logits
from trustml.conformal._scored import rows_of
from trustml.conformal._split_regressor import ResidualBand
from trustml.conformal._weighted_selection import weighted_picks
from trustml.conformal._weights import Weights, as_weights, check_effective_size
from trustml.core.random import RandomState, numpy_generator, row_uniforms
from trustml.core.validation import check_choice, check_finite, restore, to_numpy
from trustml.evidence import benjamini_hochberg, exact_alpha, pvalues
from trustml.model import Model, as_model
from trustml.warnings import CoverageWarning


class ConformalSelection(BaseEstimator):
    """Picks new rows with a wanted outcome; at most a share q of the picked lacks it, on average.

    Wanted is a value above or below a threshold, or one of some labels. The outcome of a new row
    is unknown; its p-value counts the calibration rows *without* the wanted outcome whose
    prediction is as promising. The promise needs calibration and new rows that are exchangeable
    and that the model was not trained on; the model may be wrong, it then picks fewer.

    Parameters
    ----------
    model : Model or what `trustml.wrap` takes
        A regressor for ``above`` and ``below``, a classifier for ``labels``.
    above, below : float, callable X -> (n,), or None
        Threshold that a wanted value exceeds, or stays under; a callable gives one for each row.
    labels : label, list of labels, or None
        Wanted labels. Exactly one of the three is given.
    score : ResidualScore, or the name of one
        For a regressor, the unit in which the distance to the threshold is taken; see
        `SplitRegressor`.
    ties : {"conservative", "random"}
        Equally promising rows all count against each other, or are ranked at random.
    weights : None, CovariateShift or callable X -> (n,)
        For new rows whose inputs are drawn otherwise: the ratio of their density to that of the
        calibration rows, up to a factor; the rate is exact with exact ratios. `select` then takes
        time quadratic in the number of new rows.
    random_state : int, Generator or None
        Of random ties. A row's number is a hash of seed and row: the same alone or in a batch.

    Attributes
    ----------
    model_ : Model
        The wrapped model.
    calibration_ : ndarray of shape (n,)
        How promising each calibration row is; -inf for those of wanted outcome (the clipped
        score of the paper).
    weights_ : Weights or None
        Fitted on the calibration rows.
    n_calibration_ : int
        Number of calibration rows.

    References
    ----------
    Jin and Candès (2023), Selection by prediction with conformal p-values, arXiv:2210.01408.
    Jin and Candès (2023), Model-free selective inference under covariate shift via weighted
    conformal p-values, arXiv:2307.09291, for ``weights``.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import Ridge
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(600, 3))
    >>> y = X.sum(1) + 0.3 * rng.normal(size=600)
    >>> model = Ridge().fit(X[:100], y[:100])
    >>> selection = ConformalSelection(model, above=1.0).fit(X[100:400], y[100:400])
    >>> picked = selection.select(X[400:], q=0.1)
    >>> bool((y[400:][picked] > 1).mean() > 0.8)
    True
    """

    def __init__(
        self,
        model: Any,
        above: Any = None,
        below: Any = None,
        labels: Any = None,
        score: str | ResidualScore = "absolute",
        ties: str = "conservative",
        weights: Any = None,
        random_state: RandomState = None,
    ) -> None:
        self.model = model
        self.above = above
        self.below = below
        self.labels = labels
        self.score = score
        self.ties = ties
        self.weights = weights
        self.random_state = random_state

    def fit(self, X_cal: Any, y_cal: Any) -> Self:
        """See which calibration rows have the wanted outcome; the model is not trained.

        Parameters
        ----------
        X_cal : array of shape (n, ...), or whatever the model takes
            Rows that the model was not trained on.
        y_cal : array of shape (n,)
            Their values, or labels.

        Returns
        -------
        ConformalSelection
            Itself.

        Raises
        ------
        ValueError
            If not exactly one of ``above``, ``below`` and ``labels`` is given, lengths differ, or
            the weights are no density ratio.
        """
        check_choice(self.ties, "ties", ("conservative", "random"))
        given = [n for n in ("above", "below", "labels") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of above, below and labels, got {given or 'none'}")
        prepare = self._of_labels if self.labels is not None else self._of_values
        if isinstance(self.weights, Weights) and not isinstance(self.weights, CovariateShift):
            raise ValueError(
                f"weights must be a density ratio of the inputs, a CovariateShift or a callable, "
                f"got {type(self.weights).__name__}"
            )
        margin, promising, wanted = prepare(X_cal, y_cal)
        if len(wanted) != len(promising):
            raise ValueError(
                f"X_cal has {len(promising)} rows, y_cal has {len(wanted)}; give one outcome each"
            )
        self.weights_ = None
        if self.weights is not None:
            self.weights_ = as_weights(self.weights).fit(margin.model, X_cal, wanted)
            check_effective_size(self.weights_, len(wanted), stacklevel=2)
        self._seed = int(numpy_generator(self.random_state).integers(2**62))
        self.model_, self._margin = margin.model, margin
        self.calibration_ = np.where(wanted, -np.inf, promising)
        self.n_calibration_ = len(promising)
        return self

    def p_values(self, X: Any) -> Any:
        """Return p-values of "the outcome is not the wanted one".

        Parameters
        ----------
        X : array of shape (m, ...), or whatever the model takes
            New rows.

        Returns
        -------
        array of shape (m,)
            In (0, 1]; P(p <= t and the outcome is not wanted) <= t.
        """
        check_is_fitted(self, "calibration_")
        return restore(self._evidence(X)[1], X)

    def select(self, X: Any, q: float = 0.1) -> Any:
        """Return which rows are picked; which, depends on all the rows that are given.

        Parameters
        ----------
        X : array of shape (m, ...), or whatever the model takes
            New rows, all that are chosen from.
        q : float in (0, 1)
            False discovery rate: expected share of the picked rows without the wanted outcome.

        Returns
        -------
        bool array of shape (m,)
            True = picked.

        Warns
        -----
        CoverageWarning
            If there are so few calibration rows that nothing can be picked.
        """
        check_is_fitted(self, "calibration_")
        (promising, p, own), needed = self._evidence(X), -(-1 // exact_alpha(q))
        if self.weights_ is not None:
            shares = np.ones(len(p)) if self.ties == "conservative" else self._uniforms(X, 1)
            known, weights = self.calibration_, self.weights_.calibration_
            return restore(weighted_picks(known, weights, promising, own, p, q, shares), X)
        if self.ties == "conservative" and needed > self.n_calibration_ + 1:
            warnings.warn(
                f"{self.n_calibration_} calibration rows cannot support q = {q:g}: nothing is "
                f"picked; give at least {needed - 1}",
                CoverageWarning,
                stacklevel=2,
            )
        return restore(benjamini_hochberg(p, q), X)

    def _evidence(self, X: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """How promising new rows are, their p-values and weights, (m,) each."""
        promising, given = self._margin(X), {}
        own = np.ones(len(promising))
        if self.weights_ is not None:
            own = np.broadcast_to(self.weights_.own(X)[:, 0], promising.shape)
            given = {"weights": self.weights_.calibration_, "test_weights": own}
        uniforms = self._uniforms(X, 0) if self.ties == "random" else None
        p: np.ndarray = pvalues(self.calibration_, promising, None, **given, uniforms=uniforms)
        return promising, p, own

    def _uniforms(self, X: Any, which: int) -> np.ndarray:
        return row_uniforms(rows_of(X), self._seed + which)

    def _of_values(self, X_cal: Any, y_cal: Any) -> tuple[_Distance, np.ndarray, np.ndarray]:
        model = as_regressor(self.model, "ConformalSelection(above=, below=)")
        upward = self.above is not None
        bar = self.above if upward else self.below
        scale = as_residual_score(self.score).scale(model)
        distance = _Distance(ResidualBand(model, scale), bar, 1 if upward else -1)
        y, limits = measured(model, y_cal), _limits(bar, X_cal)
        if limits.ndim and limits.shape != y.shape:
            raise ValueError(f"thresholds have shape {limits.shape}, y_cal has {y.shape}")
        return distance, distance(X_cal), (y > limits) if upward else (y < limits)

    def _of_labels(self, X_cal: Any, y_cal: Any) -> tuple[_Odds, np.ndarray, np.ndarray]:
        model = as_model(self.model)
        if model.task != "classification":
            raise TypeError(f"labels= needs a classifier, got a model for {model.task}; use above=")
        logits, index = class_logits(model, X_cal), model.targets(y_cal).cpu()
        columns = torch.zeros(logits.shape[1], dtype=torch.bool)
        columns[model.targets(np.atleast_1d(to_numpy(self.labels))).cpu()] = True
        if columns.all():
            raise ValueError(f"labels must leave out some class, got all: {self.labels!r}")
        odds = _Odds(model, columns)
        return odds, odds.of(logits), to_numpy(columns[index])


def _limits(bar: Any, X: Any) -> np.ndarray:
    limits = np.asarray(to_numpy(bar(X) if callable(bar) else bar), dtype=np.float64)
    check_finite(np.atleast_1d(limits), "the threshold")
    return limits


# Classes rather than closures, so that a fitted selection can be stored.
class _Distance:
    """How far the prediction is beyond the threshold, in units of the row's scale."""

    def __init__(self, bands: ResidualBand, bar: Any, sign: int) -> None:
        self.model, self.bands, self.bar, self.sign = bands.model, bands, bar, sign

    def __call__(self, X: Any) -> np.ndarray:
        band = self.bands(X)
        found: np.ndarray = self.sign * (band.low - _limits(self.bar, X)) / band.unit_low
        return found


class _Odds:
    """Log-odds of the wanted labels against the others."""

    def __init__(self, model: Model, columns: Tensor) -> None:
        self.model, self.columns = model, columns

    def __call__(self, X: Any) -> np.ndarray:
        return self.of(class_logits(self.model, X))

    def of(self, logits: Tensor) -> np.ndarray:
        wanted, others = logits.cpu()[:, self.columns], logits.cpu()[:, ~self.columns]
        return to_numpy(wanted.logsumexp(dim=1) - others.logsumexp(dim=1))
