"""Ellipsoids of several outputs, of one shape everywhere or of the neighbourhood's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from trustml.conformal._multivariate_shape import Region, ResidualShape
from trustml.core.validation import check_positive_int

_PIECE = 4096  # rows whose covariances are held at once


class Ellipsoid(ResidualShape):
    """The residual's Mahalanobis distance: ellipsoids along what the outputs have in common.

    Parameters
    ----------
    neighbors : int or None
        The covariance is that of so many nearest rows (in the features of the model's last layer
        where it has them, otherwise in its inputs); None: one covariance everywhere.
    blend : float in (0, 1]
        Share of the global covariance in a local one.
    shrinkage : float in (0, 1]
        How far the covariance is drawn to its diagonal; 1 leaves the axes parallel.

    Raises
    ------
    ValueError
        If a share is outside its range, or ``neighbors`` below 1.

    References
    ----------
    Johnstone and Cox (2021), Conformal uncertainty sets for robust optimization,
    arXiv:2105.14957.
    Messoudi, Destercke and Rousseau (2022), Ellipsoidal conformal inference for multi-target
    regression (local covariances).

    Examples
    --------
    >>> residuals = np.array([[3.0, 4.0], [-3.0, 4.0]])
    >>> region = Ellipsoid().learnt(residuals, np.empty((2, 0)))
    >>> region.sizes(np.array([[3.0, 0.0], [0.0, 8.0]]), np.empty((2, 0))).round(12)
    array([1., 2.])
    """

    name = "ellipsoid"

    def __init__(
        self, neighbors: int | None = None, blend: float = 0.05, shrinkage: float = 0.01
    ) -> None:
        self.neighbors = None if neighbors is None else check_positive_int(neighbors, "neighbors")
        if not 0 < blend <= 1:
            raise ValueError(f"blend must be in (0, 1], got {blend!r}")
        if not 0 < shrinkage <= 1:
            raise ValueError(f"shrinkage must be in (0, 1], got {shrinkage!r}")
        self.blend, self.shrinkage, self.local = blend, shrinkage, neighbors is not None

    def learnt(self, residuals: np.ndarray, points: np.ndarray) -> Region:
        """Return ellipsoids around the prediction with the residuals' second moments."""
        everywhere = _shrunk(residuals.T @ residuals / len(residuals), self.shrinkage)
        if self.neighbors is None:
            return _Ellipsoids(everywhere)
        from sklearn.neighbors import NearestNeighbors

        units = points.std(axis=0)
        units[units == 0] = 1.0
        tree = NearestNeighbors(n_neighbors=min(self.neighbors, len(points))).fit(points / units)
        return _Ellipsoids(everywhere, tree, units, residuals, self.blend, self.shrinkage)


@dataclass(frozen=True, eq=False)
class _Ellipsoids(Region):
    everywhere: np.ndarray
    tree: Any = None
    units: np.ndarray | None = None
    residuals: np.ndarray | None = None
    blend: float = 1.0
    shrinkage: float = 1.0

    def sizes(self, residuals: np.ndarray, points: np.ndarray) -> np.ndarray:
        found = np.empty(len(residuals))
        for rows, matrices in self._matrices(points, len(residuals)):
            solved = np.linalg.solve(np.linalg.cholesky(matrices), residuals[rows][..., None])
            found[rows] = np.sqrt(np.square(solved[..., 0]).sum(axis=-1))
        return found

    def half_widths(self, limits: np.ndarray, points: np.ndarray, k: int) -> np.ndarray:
        found = np.empty((len(limits), k, limits.shape[1]))
        for rows, matrices in self._matrices(points, len(limits)):
            deviations = np.sqrt(np.diagonal(matrices, axis1=-2, axis2=-1))
            found[rows] = deviations[..., None] * limits[rows, None, :]
        return found

    def volumes(self, limits: np.ndarray, points: np.ndarray, k: int) -> np.ndarray:
        found = np.empty(limits.shape)
        for rows, matrices in self._matrices(points, len(limits)):
            ball = math.pi ** (k / 2) / math.gamma(k / 2 + 1)
            of_one = ball * np.sqrt(np.linalg.det(matrices))
            found[rows] = of_one[..., None] * limits[rows] ** k
        return found

    def _matrices(self, points: np.ndarray, n: int) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield the rows and their matrices, (rows, k, k), or (k, k) for all rows at once."""
        if self.tree is None or self.residuals is None:
            yield slice(0, n), self.everywhere
            return
        for start in range(0, n, _PIECE):
            rows = slice(start, min(start + _PIECE, n))
            nearest = self.tree.kneighbors(points[rows] / self.units, return_distance=False)
            near = self.residuals[nearest]
            local = near.transpose(0, 2, 1) @ near / near.shape[1]
            mixed = (1 - self.blend) * local + self.blend * self.everywhere
            yield rows, _shrunk(mixed, self.shrinkage)


def _shrunk(moments: np.ndarray, shrinkage: float) -> np.ndarray:
    diagonal = moments * np.eye(moments.shape[-1])
    return (1 - shrinkage) * moments + shrinkage * diagonal
