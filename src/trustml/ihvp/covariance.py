"""Feature covariance, pooled or within classes, as an operator."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trustml.core.validation import as_tensor, check_finite, check_same_length, to_numpy
from trustml.ihvp.operators import FactoredOperator


class Covariance(FactoredOperator):
    r"""Covariance of features in float64, with relative shrinkage.

    With S the covariance around the mean (around the class means if labels are given; divisor n),
    the operator is :math:`(1 - s) S + s\,\bar{\sigma}^2 I`, where :math:`\bar{\sigma}^2` is the
    mean of S's diagonal: s has no unit and means the same for any scaling of the features.

    Parameters
    ----------
    X : array of shape (n, d)
        Features; finite.
    labels : array of shape (n,) or None
        Classes of any type: the covariance is then the one within classes.
    shrinkage : float in [0, 1] or "ledoit-wolf"
        s, or the choice of Ledoit and Wolf.

    Attributes
    ----------
    mean : Tensor of shape (d,)
        Of all rows.
    means : Tensor of shape (k, d)
        Of each class; of all rows where no labels are given.
    classes : numpy.ndarray of shape (k,) or None
        The sorted labels.
    shrinkage : float
        The s that was used.

    Raises
    ------
    ValueError
        If X is not (n, d), lengths differ, numbers are not finite, or s is outside [0, 1].

    References
    ----------
    Ledoit and Wolf (2004), A well-conditioned estimator for large-dimensional covariance matrices.

    Examples
    --------
    >>> S = Covariance([[0.0, 1.0], [2.0, 1.0], [1.0, 4.0]], shrinkage=0.0)
    >>> S.diagonal()
    tensor([0.6667, 2.0000], dtype=torch.float64)
    """

    def __init__(self, X: Any, labels: Any = None, shrinkage: float | str = 1e-3) -> None:
        features = as_tensor(X, dtype=torch.float64, name="X").detach()
        if features.ndim != 2 or features.shape[1] == 0:
            raise ValueError(
                f"X must have shape (n, d), got {tuple(features.shape)}; flatten it first"
            )
        check_same_length(X=features)
        check_finite(features, "X")
        n, d = features.shape
        self.mean = features.mean(dim=0)
        self.classes: np.ndarray | None = None
        if labels is None:
            self.means = self.mean[None]
            centred = features - self.mean
        else:
            names = to_numpy(labels)
            check_same_length(X=features, labels=names)
            self.classes, codes = np.unique(names, return_inverse=True)
            which = torch.as_tensor(codes.reshape(-1), device=features.device)
            sums = features.new_zeros(len(self.classes), d).index_add_(0, which, features)
            self.means = sums / torch.bincount(which).clamp_min(1)[:, None]
            centred = features - self.means[which]
        self.shrinkage = _shrinkage(shrinkage, centred)
        level = float(centred.square().mean())
        self.size, self.dtype, self.device = d, torch.float64, features.device
        self.is_psd = True
        # More rows than columns: the triangle of a QR holds the same second moments.
        self._rows = torch.linalg.qr(centred, mode="r")[1] if n > d else centred
        self.n_factors = len(self._rows)
        self.scale = (1 - self.shrinkage) / n
        self.shift = torch.full_like(self.mean, self.shrinkage * level)

    def factors(self, examples: range | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the rows of a square root, as one batch."""
        which = torch.as_tensor(range(self.n_factors) if examples is None else examples)
        yield which, self._rows[which, None, :]

    def factor_norms(self) -> Tensor:
        """Return the squared norms of the rows of the square root, shape (n, 1)."""
        return self._rows.square().sum(dim=1, keepdim=True)

    def factor_rows(self, examples: Tensor, columns: Tensor) -> Tensor:
        """Return rows of the square root, shape (m, d)."""
        return self._rows[examples]

    def matmat(self, vectors: Tensor) -> Tensor:
        """Return the product with ``vectors`` of shape (d, k)."""
        product = self._rows.T @ (self._rows @ vectors)
        return self.scale * product + self.shift[:, None] * vectors

    def dense(self) -> Tensor:
        """Return the matrix of shape (d, d)."""
        return self.scale * (self._rows.T @ self._rows) + torch.diag(self.shift)

    def double(self) -> Covariance:
        """Return itself: it is float64 already."""
        return self

    def diagonal(self) -> Tensor:
        """Return the variances of shape (d,)."""
        return self.scale * self._rows.square().sum(dim=0) + self.shift


def _shrinkage(shrinkage: float | str, centred: Tensor) -> float:
    if shrinkage == "ledoit-wolf":
        from sklearn.covariance import ledoit_wolf_shrinkage

        if not bool(centred.any()):
            return 0.0
        return float(ledoit_wolf_shrinkage(centred.cpu().numpy(), assume_centered=True))
    if isinstance(shrinkage, bool) or not isinstance(shrinkage, (int, float)):
        raise ValueError(
            f'shrinkage must be a number in [0, 1] or "ledoit-wolf", got {shrinkage!r}'
        )
    if not (math.isfinite(shrinkage) and 0 <= shrinkage <= 1):
        raise ValueError(f'shrinkage must be in [0, 1] or "ledoit-wolf", got {shrinkage}')
    return float(shrinkage)
