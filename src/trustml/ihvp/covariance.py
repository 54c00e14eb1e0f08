"""Feature covariance, pooled or within classes, as an operator; moments that can be merged."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trustml.core.validation import as_tensor, check_finite, check_same_length, to_numpy
from trustml.ihvp.operators import FactoredOperator

_BUFFER = 4


class Moments:
    """Counts, class means and the scatter within classes, of rows that come batch by batch.

    Merging is exact: the mean of what came before and of a batch, and a triangular square root
    of the scatter (TSQR), so memory is O(d² + batch) and no digits are lost to squares.

    Attributes
    ----------
    counts : Tensor of shape (k,)
        Rows of each class so far, float64; k is one more than the largest class seen.
    means : Tensor of shape (k, d)
        Their means, float64; zeros where a class has no rows.

    Examples
    --------
    >>> moments = Moments().update([[0.0, 1.0], [2.0, 1.0]]).update([[1.0, 4.0]])
    >>> moments.means, moments.n
    (tensor([[1., 2.]], dtype=torch.float64), 3)
    """

    counts: Tensor
    means: Tensor

    def __init__(self) -> None:
        self._rows: list[Tensor] = []

    @property
    def n(self) -> int:
        """How many rows came so far."""
        return int(self.counts.sum()) if self._rows else 0

    def update(self, X: Any, classes: Tensor | None = None) -> Moments:
        """Add rows.

        Parameters
        ----------
        X : array of shape (b, d)
            Finite; taken in float64.
        classes : integer Tensor of shape (b,) or None
            Class indices, at least 0; None puts all rows into class 0.

        Returns
        -------
        Moments
            Itself.

        Raises
        ------
        ValueError
            If X is not (b, d), as wide as the rows before, and finite.
        """
        rows = as_tensor(X, dtype=torch.float64, name="X").detach()
        if rows.ndim != 2 or rows.shape[1] == 0:
            raise ValueError(f"X must have shape (n, d), got {tuple(rows.shape)}; flatten it first")
        check_same_length(X=rows)
        check_finite(rows, "X")
        if classes is None:
            classes = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
        check_same_length(X=rows, classes=classes)
        self._grow(int(classes.max()) + 1, rows)
        counts = torch.bincount(classes, minlength=len(self.counts)).double()
        means = torch.zeros_like(self.means).index_add_(0, classes, rows)
        means /= counts.clamp_min(1)[:, None]
        both = ((counts > 0) & (self.counts > 0)).nonzero().flatten()
        shifts = (means - self.means)[both]
        weights = (counts * self.counts / (counts + self.counts).clamp_min(1))[both]
        self._rows += [rows - means[classes], weights.sqrt()[:, None] * shifts]
        self.counts = self.counts + counts
        self.means = self.means + (means - self.means) * (
            counts / self.counts.clamp_min(1)
        ).unsqueeze(1)
        # Many rows at once: each triangle that is factorised anew costs as much as d rows.
        if sum(map(len, self._rows)) > _BUFFER * rows.shape[1]:
            self._rows = [self.root()]
        return self

    @classmethod
    def join(cls, parts: Sequence[Moments]) -> Moments:
        """Put classes beside each other: the classes of the second part follow those of the first.

        Parameters
        ----------
        parts : sequence of Moments
            Of at least one row each, equally wide; they stay as they are.

        Returns
        -------
        Moments
        """
        joined = cls()
        joined.counts = torch.cat([part.counts for part in parts])
        joined.means = torch.cat([part.means for part in parts])
        joined._rows = [part.root() for part in parts]
        joined._rows = [joined.root()]
        return joined

    def pooled(self) -> Moments:
        """Return the moments of all rows as of one class: the scatter of the means is added."""
        pooled, present = type(self)(), self.counts > 0
        counts, means = self.counts[present], self.means[present]
        mean = (counts / counts.sum()) @ means
        pooled.counts, pooled.means = counts.sum()[None], mean[None]
        pooled._rows = [self.root(), counts.sqrt()[:, None] * (means - mean)]
        return pooled

    def root(self) -> Tensor:
        """Return rows (r, d) whose second moments are the scatter, r at most max(d, n)."""
        rows = torch.cat(self._rows)
        # More rows than columns: the triangle of a QR holds the same second moments.
        return torch.linalg.qr(rows, mode="r")[1] if len(rows) > rows.shape[1] else rows

    def _grow(self, k: int, rows: Tensor) -> None:
        if not self._rows:
            self.counts, self.means = rows.new_zeros(0), rows.new_zeros(0, rows.shape[1])
        if rows.shape[1] != self.means.shape[1]:
            raise ValueError(
                f"X must have {self.means.shape[1]} columns like the rows before, got "
                f"{rows.shape[1]}"
            )
        missing = max(0, k - len(self.counts))
        self.counts = torch.cat([self.counts, rows.new_zeros(missing)])
        self.means = torch.cat([self.means, rows.new_zeros(missing, rows.shape[1])])


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
        names = None if labels is None else to_numpy(labels)
        if names is not None:
            check_same_length(X=X, labels=names)
        self.classes: np.ndarray | None = None
        codes: Tensor | None = None
        if names is not None:
            self.classes, found = np.unique(names, return_inverse=True)
            device = X.device if isinstance(X, Tensor) else None
            codes = torch.as_tensor(found.reshape(-1), device=device)
        moments = Moments().update(X, codes)
        if shrinkage == "ledoit-wolf":
            features = as_tensor(X, dtype=torch.float64, name="X").detach()
            centred = features - (moments.means if codes is None else moments.means[codes])
            shrinkage = _ledoit_wolf(centred)
        self._set(moments, shrinkage)

    @classmethod
    def of(cls, moments: Moments, shrinkage: float = 1e-3) -> Covariance:
        """Return the covariance of rows that came in batches.

        Parameters
        ----------
        moments : Moments
            Of at least one row; more may be added to it afterwards.
        shrinkage : float in [0, 1]
            As for the class; the choice of Ledoit and Wolf needs all rows at once.

        Returns
        -------
        Covariance
            ``classes`` are the indices of the classes with rows.
        """
        self = cls.__new__(cls)
        self.classes = moments.counts.nonzero().flatten().cpu().numpy()
        self._set(moments, shrinkage)
        return self

    def _set(self, moments: Moments, shrinkage: float | str) -> None:
        self.shrinkage = _checked_shrinkage(shrinkage)
        present = moments.counts > 0
        self.means, n = moments.means[present], moments.n
        self.mean = (moments.counts[present] / n) @ self.means
        self._rows = moments.root()
        d = self.means.shape[1]
        level = float(self._rows.square().sum()) / (n * d)
        self.size, self.dtype, self.device = d, torch.float64, self.means.device
        self.is_psd = True
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


def _ledoit_wolf(centred: Tensor) -> float:
    from sklearn.covariance import ledoit_wolf_shrinkage

    if not bool(centred.any()):
        return 0.0
    return float(ledoit_wolf_shrinkage(centred.cpu().numpy(), assume_centered=True))


def _checked_shrinkage(shrinkage: float | str) -> float:
    if isinstance(shrinkage, bool) or not isinstance(shrinkage, (int, float)):
        raise ValueError(
            f'shrinkage must be a number in [0, 1] or "ledoit-wolf", got {shrinkage!r}'
        )
    if not (math.isfinite(shrinkage) and 0 <= shrinkage <= 1):
        raise ValueError(f'shrinkage must be in [0, 1] or "ledoit-wolf", got {shrinkage}')
    return float(shrinkage)
