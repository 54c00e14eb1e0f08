"""Weights of calibration rows that are near the new one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np

from trustml.conformal._covariate_shift import flat_rows
from trustml.conformal._weights import Weights, effective_size
from trustml.core.random import RandomState, numpy_generator, row_uniforms
from trustml.model import Model

_SAMPLED = 200  # calibration rows at which the effective sample size is measured


class Localized(Weights):
    """Weights of a Gaussian kernel around a random point near the new row.

    Rows like the new one decide its threshold, so coverage is about 1 - alpha also where the model
    errs more or less than elsewhere. The kernel is centred not at the row but at a point drawn
    from the kernel around it, which makes the marginal coverage at least 1 - alpha in truth.

    Parameters
    ----------
    bandwidth : float or array of shape (d,)
        Standard deviation of the kernel, in the unit of the columns. In many dimensions few rows
        are near: watch ``effective_sample_size_``, and give ``space``.
    space : callable X -> (n,) or (n, d), or None
        Where rows are near each other, such as ``model.features``; None: the inputs, flattened.
    random_state : int, Generator or None
        Seed of the random points; a row's point is a function of seed and row.

    Attributes
    ----------
    rows_ : ndarray of shape (n, d)
        Calibration rows over the bandwidth.
    effective_sample_size_ : float
        Median of (Σw)² / Σw² around calibration rows.

    References
    ----------
    Hore and Barber (2023), Conformal prediction with local weights: randomization enables robust
    guarantees, arXiv:2310.07850.
    Guan (2023), Localized conformal prediction, arXiv:2106.08460.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import Ridge
    >>> from trustml.conformal import WeightedRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(-1, 1, size=(900, 1))
    >>> y = X[:, 0] + rng.normal(size=900) * np.where(X[:, 0] > 0, 2, 0.2)
    >>> cp = WeightedRegressor(Ridge().fit(X[:100], y[:100]), Localized(0.1, random_state=0))
    >>> new = np.array([[-0.5], [0.5]])
    >>> widths = np.diff(cp.fit(X[100:], y[100:]).predict_interval(new, alpha=0.1))
    >>> bool(widths[1] > 5 * widths[0])
    True
    """

    def __init__(
        self,
        bandwidth: Any = 1.0,
        space: Callable[[Any], Any] | None = None,
        random_state: RandomState = None,
    ) -> None:
        self.bandwidth = bandwidth
        self.space = space
        self.random_state = random_state

    def fit(self, model: Model, X: Any, y: np.ndarray) -> Self:
        """Keep the calibration rows.

        Returns
        -------
        Localized

        Raises
        ------
        TypeError
            If ``bandwidth`` is no number.
        ValueError
            If ``bandwidth`` is not positive, or ``space`` gives no finite numbers.
        """
        rows = self._in_space(X, None)
        bandwidth = np.asarray(self.bandwidth)
        if bandwidth.dtype.kind not in "iuf":
            raise TypeError(
                f"bandwidth must be a positive number, or one for each column, got "
                f"{self.bandwidth!r}"
            )
        bandwidth = bandwidth.astype(np.float64)
        if bandwidth.shape not in {(), rows.shape[1:]}:
            raise ValueError(
                f"bandwidth must be one number or have shape ({rows.shape[1]},), got "
                f"{bandwidth.shape}"
            )
        if not (np.isfinite(bandwidth) & (bandwidth > 0)).all():
            raise ValueError(f"bandwidth must be finite and positive, got {self.bandwidth!r}")
        self.bandwidth_, self.rows_ = bandwidth, rows / bandwidth
        self.seed_ = int(numpy_generator(self.random_state).integers(2**62))
        return self

    def own(self, X: Any) -> np.ndarray:
        """Return the weights (m, 1) of new rows under their own kernels."""
        return np.concatenate([own for _, _, own in self.blocks(X)])

    def blocks(self, X: Any) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Yield a row's number, the calibration weights (n,) beside it, and its own (1, 1).

        Yields
        ------
        tuple of slice, ndarray, ndarray
        """
        rows = self._in_space(X, self.rows_.shape[1])
        seeds = (row_uniforms(rows, self.seed_) * 2**52).astype(np.int64)
        for i, row in enumerate(rows / self.bandwidth_):
            step = np.random.default_rng(seeds[i]).normal(size=len(row))
            # Relative to the row's own weight or the nearest row's, so that none underflows.
            mine, theirs = step @ step, np.square(self.rows_ - (row + step)).sum(axis=1)
            nearest = min(mine, theirs.min())
            weights = np.exp((nearest - theirs) / 2)
            yield slice(i, i + 1), weights, np.exp((nearest - mine) / 2).reshape(1, 1)

    @property
    def effective_sample_size_(self) -> float:
        """Median of (Σw)² / Σw² around calibration rows; around 200 of them, if there are more."""
        chosen = np.argsort(row_uniforms(self.rows_, self.seed_), kind="stable")[:_SAMPLED]
        distances = (np.square(self.rows_ - row).sum(axis=1) for row in self.rows_[chosen])
        return float(np.median([effective_size(np.exp(-d / 2)) for d in distances]))

    def _in_space(self, X: Any, width: int | None) -> np.ndarray:
        if self.space is None:
            return flat_rows(X, "X", width)
        return flat_rows(self.space(X), "space(X)", width)
