"""Differentiable layers for fitted scikit-learn transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn


def linear(coef: ArrayLike, intercept: ArrayLike | None) -> nn.Linear:
    """Make a float64 ``nn.Linear`` of weights (c, d), biases (c,), without a random number."""
    weight = torch.tensor(np.atleast_2d(np.asarray(coef, dtype=np.float64)))
    layer: nn.Linear = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        nn.Linear, weight.shape[1], weight.shape[0], bias=intercept is not None, dtype=torch.float64
    )
    with torch.no_grad():
        layer.weight.copy_(weight)
        if intercept is not None:
            bias = np.broadcast_to(np.ravel(np.asarray(intercept, np.float64)), weight.shape[:1])
            layer.bias.copy_(torch.tensor(bias))
    return layer


class Affine(nn.Module):
    """``(x - centre) / scale`` by column, without parameters."""

    centre: Tensor
    scale: Tensor

    def __init__(self, centre: ArrayLike, scale: ArrayLike) -> None:
        super().__init__()
        self.register_buffer("centre", torch.tensor(np.array(centre, dtype=np.float64)))
        self.register_buffer("scale", torch.tensor(np.array(scale, dtype=np.float64)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled rows."""
        return (x - self.centre) / self.scale


class Clamp(nn.Module):
    """Values limited to [low, high]."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = float(low), float(high)

    def forward(self, x: Tensor) -> Tensor:
        """Return the clamped rows."""
        return x.clamp(self.low, self.high)


class Project(nn.Module):
    """``(x - centre) @ matrix`` with a fixed matrix (d, k)."""

    centre: Tensor
    matrix: Tensor

    def __init__(self, centre: ArrayLike, matrix: ArrayLike) -> None:
        super().__init__()
        self.register_buffer("centre", torch.tensor(np.array(centre, dtype=np.float64)))
        self.register_buffer("matrix", torch.tensor(np.array(matrix, dtype=np.float64)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the projected rows, (n, k)."""
        return (x - self.centre) @ self.matrix


class Select(nn.Module):
    """Some columns, in the order given."""

    columns: Tensor

    def __init__(self, columns: ArrayLike) -> None:
        super().__init__()
        self.register_buffer("columns", torch.tensor(np.array(columns, dtype=np.int64)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the chosen columns, (n, k)."""
        return x.index_select(1, self.columns)


class UnitRows(nn.Module):
    """Rows divided by their norm; a zero row stays zero."""

    def __init__(self, norm: str) -> None:
        super().__init__()
        self.order = {"l1": 1.0, "l2": 2.0, "max": float("inf")}[norm]

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised rows."""
        size = torch.linalg.vector_norm(x, ord=self.order, dim=1, keepdim=True)
        return x / torch.where(size == 0, torch.ones_like(size), size)


def _standard(step: Any) -> nn.Module:
    width = step.n_features_in_
    centre = step.mean_ if step.with_mean else np.zeros(width)
    scale = step.scale_ if step.with_std else np.ones(width)
    return Affine(centre, scale)


def _min_max(step: Any) -> nn.Module:
    # step: x * scale_ + min_, which is (x + min_ / scale_) / (1 / scale_)
    affine = Affine(-step.min_ / step.scale_, 1 / step.scale_)
    return nn.Sequential(affine, Clamp(*step.feature_range)) if step.clip else affine


def _max_abs(step: Any) -> nn.Module:
    affine = Affine(np.zeros(step.n_features_in_), step.scale_)
    return nn.Sequential(affine, Clamp(-1, 1)) if getattr(step, "clip", False) else affine


def _robust(step: Any) -> nn.Module:
    width = step.n_features_in_
    centre = step.center_ if step.with_centering else np.zeros(width)
    scale = step.scale_ if step.with_scaling else np.ones(width)
    return Affine(centre, scale)


def _pca(step: Any) -> nn.Module:
    matrix = step.components_.T
    if step.whiten:
        deviation = np.sqrt(step.explained_variance_)
        matrix = matrix / np.maximum(deviation, np.finfo(matrix.dtype).eps)
    return Project(step.mean_, matrix)


def _svd(step: Any) -> nn.Module:
    return Project(np.zeros(step.n_features_in_), step.components_.T)


def differentiable_layer(step: Any) -> nn.Module | None:
    """Return the layer that equals a fitted transformer, or None if there is none.

    Parameters
    ----------
    step : estimator or "passthrough"
        A fitted scikit-learn transformer of dense numeric columns.

    Returns
    -------
    Module or None
    """
    from sklearn.decomposition import PCA, TruncatedSVD
    from sklearn.feature_selection import SelectorMixin
    from sklearn.preprocessing import (
        MaxAbsScaler,
        MinMaxScaler,
        Normalizer,
        RobustScaler,
        StandardScaler,
    )

    if step is None or step == "passthrough":
        return nn.Identity()
    makers: dict[type, Callable[[Any], nn.Module]] = {
        StandardScaler: _standard,
        MinMaxScaler: _min_max,
        MaxAbsScaler: _max_abs,
        RobustScaler: _robust,
        PCA: _pca,
        TruncatedSVD: _svd,
        Normalizer: lambda normalizer: UnitRows(normalizer.norm),
    }
    # A subclass may change `transform`: only the exact classes are known to be equal.
    if type(step) in makers:
        return makers[type(step)](step)
    if isinstance(step, SelectorMixin) and type(step).__module__.startswith("sklearn."):
        return Select(step.get_support(indices=True))
    return None
