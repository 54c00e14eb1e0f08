"""Difficulty of a row from what the training rows leave open: the infinitesimal jackknife."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trustml.conformal._plus_interval import chunks
from trustml.conformal._regression import measured, predicted
from trustml.conformal._residual_score import ResidualScore, Scale, check_floor
from trustml.core.batches import Data, as_data
from trustml.core.validation import to_numpy
from trustml.influence import InfluenceFunctions
from trustml.model import Model


class InfinitesimalJackknife(ResidualScore):
    r"""The residual over the standard deviation that the curvature engine predicts for it.

    With :math:`J` the gradient of a row's prediction, H the curvature of the training objective and
    :math:`g_i` the loss gradient of training row i, the prediction would vary over training sets by

    .. math:: \hat\sigma^2(x) = \frac{1}{n^2} \sum_i (J H^{-1} g_i)^2 ,

    the sandwich of the empirical Fisher matrix; White's variance for least squares. The scale is
    :math:`\sqrt{\hat\sigma^2(x) + \mathrm{noise} \cdot s^2}` with s² the mean squared training
    residual: rows far from the training data get wide intervals. Needs ``train=`` and gradients;
    coverage holds however rough the curvature is.

    Parameters
    ----------
    noise : float
        Weight of the noise that all rows share; above 0. Near 0 widths are in proportion to
        :math:`\hat\sigma` alone.
    curvature, damping : str or float
        As for `trustml.influence.InfluenceFunctions`.

    Raises
    ------
    ValueError
        If ``noise`` is not positive.

    References
    ----------
    Jaeckel (1972), The infinitesimal jackknife. Giordano, Stephenson, Liu, Jordan and Broderick
    (2019), A Swiss army infinitesimal jackknife, arXiv:1806.00550. Alaa and van der Schaar (2020),
    Discriminative jackknife, arXiv:2007.13481.

    Examples
    --------
    >>> import numpy as np
    >>> import trustml
    >>> from sklearn.linear_model import LinearRegression
    >>> from trustml.conformal import SplitRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(60, 2))
    >>> y = X.sum(1) + rng.normal(size=60)
    >>> train = X[:30], y[:30]
    >>> model = trustml.wrap(LinearRegression().fit(*train), train=train)
    >>> cp = SplitRegressor(model, InfinitesimalJackknife()).fit(X[30:], y[30:])
    >>> near, far = np.diff(cp.predict_interval([[0.0, 0.0], [9.0, 9.0]], alpha=0.1))
    >>> bool(far > 1.5 * near)
    True
    """

    name = "infinitesimal_jackknife"

    def __init__(
        self, noise: float = 1.0, curvature: str = "auto", damping: float | str = "auto"
    ) -> None:
        self.noise = check_floor(noise, "noise")
        self.curvature, self.damping = curvature, damping

    def scale(self, model: Model) -> Scale:
        """Return the predicted standard deviation."""
        model.require_gradients("SplitRegressor(score='infinitesimal_jackknife')")
        model.require_train("SplitRegressor(score='infinitesimal_jackknife')")
        train: Data = model.train  # type: ignore[assignment]
        influence = InfluenceFunctions(
            model, curvature=self.curvature, damping=self.damping, correction="none"
        ).fit()
        residuals = predicted(model, train) - measured(model, train.targets)
        noise = self.noise * float(np.square(residuals).mean())
        return _Sigma(model, influence, max(noise, np.finfo(np.float64).tiny))


@dataclass(frozen=True, eq=False)
class _Sigma:
    model: Model
    influence: InfluenceFunctions
    noise: float

    def __call__(self, X: Any) -> np.ndarray:
        kept = isinstance(X, (Dataset, DataLoader))
        data = as_data(X, prepare=self.model.inputs) if kept else as_data(self.model.inputs(X))
        width = max(len(self.influence.objective_.data), self.model.objective.space.size)
        parts = (self._variance(data.subset(rows)) for rows in chunks(len(data), width))
        return np.sqrt(np.concatenate(list(parts)) + self.noise)

    def _variance(self, rows: Data) -> np.ndarray:
        jacobian = self.model.objective.rows(rows, self._slope)
        effects = to_numpy(self.influence.rows_effect(jacobian.T)).astype(np.float64)
        variance: np.ndarray = np.square(effects).sum(axis=1)
        return variance

    def _slope(self, outputs: Tensor, inputs: Any, targets: Tensor | None) -> Tensor:
        """Return the derivative of the predicted mean with respect to the raw output."""
        with torch.enable_grad():
            free = outputs.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.model.values_of(free).sum(), free)
        return slope
