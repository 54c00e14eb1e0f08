"""The jackknife+, without refits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from trustml.conformal._held_out import HeldOutRegressor, Method
from trustml.conformal._held_out_diagnosis import HeldOutDiagnosis, diagnosed
from trustml.conformal._leaving_out import is_linear, leaving_out, new_rows
from trustml.conformal._plus_interval import chunks
from trustml.conformal._refined_steps import RefinedSteps, can_refine
from trustml.conformal._regression import predicted
from trustml.conformal._symmetry import warn_if_asymmetric
from trustml.conformal._weighted_scores import WeightedScores
from trustml.conformal._weights import Weights, as_weights
from trustml.core.batches import Data
from trustml.core.progress import track
from trustml.core.validation import to_numpy
from trustml.model import Model

_HELD = 2**24  # numbers: the leave-one-out parameters are kept where they are no more


class JackknifePlusRegressor(HeldOutRegressor):
    """Intervals from leave-one-out predictions: every training row also calibrates.

    Coverage is at least 1 - 2 alpha for any data and any symmetric training, and 1 - alpha in
    practice; ``method="minmax"`` has at least 1 - alpha, at wider intervals. Without refits the n
    leave-one-out models come from the curvature engine by one leverage-corrected step each: exact
    for least squares and ridge, close for smooth models. Those of a small network with squared
    error are followed until their gradients are gone; other nonlinear outputs to first order.

    Parameters
    ----------
    model : Model or what `trustml.wrap` takes
        A regressor of one output that was wrapped with ``train=``.
    method : {"plus", "minmax", "base"}
        "plus": quantiles of the n leave-one-out predictions less and plus their residuals.
        "minmax": the least and largest of these predictions, widened by the quantile of the
        residuals. "base": the model's own prediction, widened by it; the classical jackknife,
        which has no guarantee.
    weights : None, Weights or callable X -> (n,)
        For new rows that are drawn otherwise than the training rows, the weighted jackknife+
        (JAW): `CovariateShift`, or a callable that gives the ratio of the new rows' density to the
        training rows', up to a factor. With exact ratios the guarantees hold under the new rows'
        law.
    refit : bool
        True trains n models (``Model.retrain``): the reference, also for models without
        gradients.
    curvature, damping : str or float
        For `trustml.influence.InfluenceFunctions`; without refits only. Damping "auto" damps only
        where the curvature is not positive definite or the model is not at a minimum; curvature
        "auto" is the Hessian of a small network at a minimum, the Gauss-Newton matrix elsewhere.

    Attributes
    ----------
    model_ : Model
        The wrapped model.
    residuals_ : ndarray of shape (n,)
        Absolute leave-one-out residuals of the training rows, in the unit of y.
    weights_ : Weights
        Fitted on the training rows; with ``weights`` only.
    influence_ : InfluenceFunctions
        What predicted the leave-one-out models; without refits only. Its solves carry their
        certificates.
    models_ : list of Model
        The n refitted models; with ``refit=True`` only.

    References
    ----------
    Barber, Candès, Ramdas and Tibshirani (2021), Predictive inference with the jackknife+,
    arXiv:1905.02928. Prinster, Liu and Saria (2022), JAWS: auditing predictive uncertainty under
    covariate shift, arXiv:2207.10716.

    Examples
    --------
    >>> import numpy as np
    >>> import trustml
    >>> from sklearn.linear_model import Ridge
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(50, 3))
    >>> y = X.sum(1) + rng.normal(size=50)
    >>> model = trustml.wrap(Ridge().fit(X, y), train=(X, y))
    >>> JackknifePlusRegressor(model).fit().predict_interval(X[:4], alpha=0.1).shape
    (4, 2)
    """

    def __init__(
        self,
        model: Any,
        method: Method = "plus",
        weights: Weights | Callable[[Any], Any] | None = None,
        refit: bool = False,
        curvature: str = "auto",
        damping: str | float = "auto",
    ) -> None:
        self.model = model
        self.method = method
        self.weights = weights
        self.refit = refit
        self.curvature = curvature
        self.damping = damping

    def fit(self) -> Self:
        """Find the leave-one-out residuals of the model's training rows.

        Returns
        -------
        JackknifePlusRegressor
            Itself.

        Warns
        -----
        CoverageWarning
            If the curvature had to be damped: the intervals may then be too narrow. If a
            transformer of a pipeline has learnt from the training rows and is held. If the weighted
            rows are worth few rows of equal weight.
        """
        model, y = self._checked()
        warn_if_asymmetric(model, "JackknifePlusRegressor", self.refit)
        train: Data = model.train  # type: ignore[assignment]
        rows, n = np.arange(len(y)), len(y)
        if self.refit:
            self.models_ = [
                model.retrain(np.delete(rows, i)) for i in track(rows, "jackknife+: refits", n)
            ]
            left_out = np.array(
                [predicted(m, train.subset([i]))[0] for i, m in enumerate(self.models_)]
            )
        else:
            self.influence_ = leaving_out(
                model, "JackknifePlusRegressor", self.curvature, self.damping
            )
            self._refined, self._changes = None, None
            if not is_linear(model) and can_refine(self.influence_):
                self._refined = RefinedSteps(self.influence_)
                left_out = _values(model, self._refined.own()[:, None])
            else:
                left_out = _values(model, self.influence_.leave_one_out_outputs())
                if n * model.objective.space.size <= _HELD:
                    self._changes = self.influence_.parameter_changes(rows)
        self.model_, self.residuals_ = model, np.abs(y - left_out)
        self._weighted = None
        if self.weights is not None:
            self.weights_ = self._weigh(model, y)
            self._weighted = WeightedScores(self.residuals_, self.weights_)
        return self

    def _weigh(self, model: Model, y: np.ndarray) -> Weights:
        weights = as_weights(self.weights)
        if type(weights).blocks is not Weights.blocks:
            raise ValueError(
                f"the weights of {type(weights).__name__} depend on the new row, which is not for "
                "the jackknife+; use CovariateShift, or a callable, or WeightedRegressor"
            )
        weights.fit(model, model._training.X, y)  # type: ignore[union-attr]
        return weights

    def diagnose(self, n_points: int = 10) -> HeldOutDiagnosis:
        """Train anew without each of a few rows and compare their residuals.

        Parameters
        ----------
        n_points : int
            How many training rows are looked at, evenly spaced; one refit each.

        Returns
        -------
        HeldOutDiagnosis
        """
        check_is_fitted(self, "residuals_")
        rows = list(np.arange(len(self.residuals_))[:, None])
        return diagnosed(self.model_, rows, self.residuals_, n_points)

    def _held_out(self, X: Any) -> Iterator[np.ndarray]:
        if self.refit:
            yield np.stack([predicted(m, X) for m in self.models_], axis=1)
            return
        data, n, p = (
            new_rows(self.model_, X),
            len(self.residuals_),
            self.model_.objective.space.size,
        )
        for rows in chunks(len(data), max(n, p) if self._refined is None else n * p):
            yield self._without(data.subset(rows))

    def _without(self, rows: Data) -> np.ndarray:
        """Return predictions (b, n): outputs plus their change when each row is left out."""
        if self._refined is not None:
            moved = self._refined.outputs(rows.rows(0, len(rows)).inputs)
            return _values(self.model_, moved.reshape(-1, 1)).reshape(len(rows), -1)
        outputs = self.model_.observe(rows).outputs.reshape(len(rows), 1)
        objective = self.model_.objective
        jacobian = objective.rows(rows, _ones)
        if self._changes is None:
            moved = self.influence_.rows_effect(jacobian.T)
        else:
            moved = jacobian @ self._changes
        return _values(self.model_, moved.add_(outputs).reshape(-1, 1)).reshape(len(rows), -1)


def _values(model: Model, outputs: Tensor) -> np.ndarray:
    """Return predicted means (n,) of raw outputs, in float64."""
    means: np.ndarray = to_numpy(model.values_of(outputs)).astype(np.float64).reshape(-1)
    return means


def _ones(outputs: Tensor, inputs: Any, targets: Tensor | None) -> Tensor:
    return torch.ones_like(outputs)
