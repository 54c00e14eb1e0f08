"""Shapes of the regions of several outputs: what size a vector of residuals has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from trustml.conformal._listed import listed


class Region(ABC):
    """A shape that was learnt: the rows decide how large it is."""

    @abstractmethod
    def sizes(self, residuals: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Return the size (n,) that the region needs to hold each residual (n, k)."""

    @abstractmethod
    def half_widths(self, limits: np.ndarray, points: np.ndarray, k: int) -> np.ndarray:
        """Return half the edges (n, k, m) of the boxes around regions of sizes (n, m)."""

    def volumes(self, limits: np.ndarray, points: np.ndarray, k: int) -> np.ndarray:
        """Return the volumes (n, m) of regions of sizes (n, m): here, of the boxes."""
        volumes: np.ndarray = np.prod(2 * self.half_widths(limits, points, k), axis=1)
        return volumes


class ResidualShape(ABC):
    """What regions of several outputs look like, learnt from residuals.

    Subclasses are final. ``name`` is what ``MultivariateRegressor(shape=...)`` knows them by.

    Attributes
    ----------
    local : bool
        Whether the region depends on where the row is.
    """

    name: str
    local: bool = False

    @abstractmethod
    def learnt(self, residuals: np.ndarray, points: np.ndarray) -> Region:
        """Return the region's shape, from rows that calibration does not see.

        Parameters
        ----------
        residuals : ndarray of shape (s, k)
            y - f(x), no column all zeros.
        points : ndarray of shape (s, h)
            Where the rows are; empty unless ``local``.
        """


class MaxBox(ResidualShape):
    """Boxes in proportion to the outputs' residuals: the largest standardised one is calibrated.

    The unit of an output is the root mean square of its residuals.

    References
    ----------
    Diquigiovanni, Fontana and Vantini (2022), Conformal prediction bands for multivariate
    functional data, arXiv:2106.01792 (the supremum of residuals over their scales).

    Examples
    --------
    >>> region = MaxBox().learnt(np.array([[1.0, 10.0], [-1.0, 10.0]]), np.empty((2, 0)))
    >>> region.sizes(np.array([[0.5, 20.0]]), np.empty((1, 0)))
    array([2.])
    """

    name = "box"

    def learnt(self, residuals: np.ndarray, points: np.ndarray) -> Region:
        """Return boxes with the root mean squares as units."""
        return _Boxes(np.sqrt(np.square(residuals).mean(axis=0)))


class CopulaBox(ResidualShape):
    """Boxes that are exceeded alike by all outputs, whatever the laws of their residuals.

    Each absolute residual becomes its rank among those of its output (between two ranks, and
    beyond the last, in proportion), and the largest rank is calibrated. That threshold is the
    quantile of the residuals' empirical copula on its diagonal.

    References
    ----------
    Messoudi, Destercke and Rousseau (2021), Copula-based conformal prediction for multi-target
    regression, arXiv:2101.12002.
    Sun and Yu (2022), Copula conformal prediction for multi-step time series forecasting,
    arXiv:2212.03281 (why the marginal laws and the copula need rows of their own).

    Examples
    --------
    >>> residuals = np.array([[1.0, 40.0], [-2.0, 10.0], [3.0, 20.0], [4.0, 30.0]])
    >>> region = CopulaBox().learnt(residuals, np.empty((4, 0)))
    >>> region.sizes(np.array([[2.0, -30.0]]), np.empty((1, 0)))
    array([0.75])
    """

    name = "copula"

    def learnt(self, residuals: np.ndarray, points: np.ndarray) -> Region:
        """Return boxes with the ranks as units."""
        return _Ranks(tuple(_steps(column) for column in np.abs(residuals).T))


def as_residual_shape(shape: str | ResidualShape) -> ResidualShape:
    """Return a shape from its name, or a `ResidualShape` as it is.

    Returns
    -------
    ResidualShape

    Raises
    ------
    ValueError
        If no shape has this name; the message lists those that exist.
    """
    if isinstance(shape, ResidualShape):
        return shape
    known = listed(ResidualShape)  # type: ignore[type-abstract]
    if not isinstance(shape, str) or shape not in known:
        raise ValueError(f"shape must be one of {sorted(known)} or a ResidualShape, got {shape!r}")
    made: ResidualShape = known[shape]()
    return made


@dataclass(frozen=True, eq=False)
class _Boxes(Region):
    units: np.ndarray

    def sizes(self, residuals: np.ndarray, points: np.ndarray) -> np.ndarray:
        sizes: np.ndarray = (np.abs(residuals) / self.units).max(axis=1)
        return sizes

    def half_widths(self, limits: np.ndarray, points: np.ndarray, k: int) -> np.ndarray:
        half: np.ndarray = limits[:, None, :] * self.units[:, None]
        return half


@dataclass(frozen=True, eq=False)
class _Ranks(Region):
    """For each output the distinct absolute residuals from 0 on, and the share up to each."""

    steps: tuple[tuple[np.ndarray, np.ndarray], ...]

    def sizes(self, residuals: np.ndarray, points: np.ndarray) -> np.ndarray:
        columns = zip(np.abs(residuals).T, self.steps, strict=True)
        ranks = [_along(column, values, shares) for column, (values, shares) in columns]
        sizes: np.ndarray = np.max(ranks, axis=0)
        return sizes

    def half_widths(self, limits: np.ndarray, points: np.ndarray, k: int) -> np.ndarray:
        return np.stack([_along(limits, shares, values) for values, shares in self.steps], axis=1)


def _steps(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, counts = np.unique(column, return_counts=True)
    shares = np.cumsum(counts) / len(column)
    if values[0] == 0:  # the share of exact hits is spread up to the next value
        values, shares = values[1:], shares[1:]
    return np.append(0.0, values), np.append(0.0, shares)


def _along(x: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Map x by straight lines between rising knots that begin at 0, in proportion beyond them."""
    found: np.ndarray = np.interp(x, before, after) * np.maximum(x / before[-1], 1.0)
    return found
