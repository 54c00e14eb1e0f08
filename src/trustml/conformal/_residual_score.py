"""Scores of a regression residual: its size, as it is or per unit of difficulty."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from trustml.conformal._listed import listed
from trustml.conformal._regression import measured, predicted
from trustml.core.batches import Data
from trustml.core.validation import check_positive_int, to_numpy
from trustml.model import Model

Scale = Callable[[Any], np.ndarray]


class ResidualScore(ABC):
    """Score abs(y - f(x)) / scale(x): what the scale of a row is.

    Subclasses are final. ``name`` is what ``SplitRegressor(score=...)`` knows them by.
    """

    name: str

    @abstractmethod
    def scale(self, model: Model) -> Scale:
        """Return a function of X that gives positive scales (n,).

        It must be fixed without the calibration rows, or the guarantee is lost.

        Parameters
        ----------
        model : Model
            The regressor.
        """


class Absolute(ResidualScore):
    """The absolute residual: intervals of one width.

    References
    ----------
    Lei, G'Sell, Rinaldo, Tibshirani and Wasserman (2018), Distribution-free predictive inference
    for regression, arXiv:1604.04173.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import Ridge
    >>> from trustml.conformal import SplitRegressor
    >>> X = np.random.default_rng(0).normal(size=(60, 2))
    >>> y = X.sum(1)
    >>> cp = SplitRegressor(Ridge().fit(X, y), Absolute()).fit(X, y)
    >>> widths = np.diff(cp.predict_interval(X, alpha=0.2))
    >>> bool(np.allclose(widths, widths[0]))
    True
    """

    name = "absolute"

    def scale(self, model: Model) -> Scale:
        """Return ones."""
        return _one


class Normalized(ResidualScore):
    """The residual over the row's difficulty: wider intervals where the model errs more.

    Parameters
    ----------
    difficulty : callable X -> (n,) or None
        Positive; any function that was fixed without the calibration rows. None: mean absolute
        residual of the ``k`` nearest training rows (in the features of the model's last layer
        where it has them, otherwise in its inputs), which needs ``train=``.
    k : int
        Neighbours.
    floor : float
        Share of the average difficulty that is added to each, so that none is zero; above 0.

    Raises
    ------
    ValueError
        If ``floor`` is not positive.

    References
    ----------
    Papadopoulos, Vovk and Gammerman (2011), Regression conformal prediction with nearest
    neighbours, arXiv:1401.3880.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import Ridge
    >>> from trustml.conformal import SplitRegressor
    >>> X = np.random.default_rng(0).normal(size=(60, 2))
    >>> y = X.sum(1)
    >>> difficulty = lambda X: 1 + abs(X[:, 0])
    >>> cp = SplitRegressor(Ridge().fit(X, y), Normalized(difficulty)).fit(X, y)
    >>> widths = np.diff(cp.predict_interval(X, alpha=0.2))[:, 0]
    >>> bool(np.allclose(widths / difficulty(X), widths[0] / difficulty(X)[0]))
    True
    """

    name = "normalized"

    def __init__(
        self, difficulty: Callable[[Any], Any] | None = None, k: int = 25, floor: float = 0.01
    ) -> None:
        self.difficulty, self.k = difficulty, check_positive_int(k, "k")
        self.floor = check_floor(floor)

    def scale(self, model: Model) -> Scale:
        """Return the user's difficulty, or that of the nearest training rows."""
        if self.difficulty is not None:
            return _Given(self.difficulty)
        return _neighbours(model, self.k, self.floor)


def as_residual_score(score: str | ResidualScore) -> ResidualScore:
    """Return a score from its name, or a `ResidualScore` as it is.

    Returns
    -------
    ResidualScore

    Raises
    ------
    ValueError
        If no score has this name; the message lists those that exist.
    """
    known = listed(ResidualScore)  # type: ignore[type-abstract]
    if isinstance(score, ResidualScore):
        return score
    if not isinstance(score, str) or score not in known:
        raise ValueError(f"score must be one of {sorted(known)} or a ResidualScore, got {score!r}")
    made: ResidualScore = known[score]()
    return made


def check_floor(value: float, name: str = "floor") -> float:
    """Return a number above 0 that keeps scales from being zero.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If it is not finite, or not positive.
    """
    if not 0 < value < np.inf:
        raise ValueError(f"{name} must be finite and > 0, got {value!r}")
    return value


def _neighbours(model: Model, k: int, floor: float) -> Scale:
    from sklearn.neighbors import NearestNeighbors

    model.require_train("SplitRegressor(score='normalized') without difficulty=")
    train: Data = model.train  # type: ignore[assignment]
    residuals = np.abs(predicted(model, train) - measured(model, train.targets))
    rows = space(model, train)
    units = rows.std(axis=0)
    units[units == 0] = 1.0
    tree = NearestNeighbors(n_neighbors=min(k, len(rows))).fit(rows / units)
    added = floor * max(float(residuals.mean()), np.finfo(np.float64).tiny)

    return _OfNeighbours(model, tree, units, residuals, added)


# Classes rather than closures, so that fitted regressors can be stored.
def _one(X: Any) -> np.ndarray:
    return np.ones(len(X))


@dataclass(frozen=True, eq=False)
class _Given:
    difficulty: Callable[[Any], Any]

    def __call__(self, X: Any) -> np.ndarray:
        return to_numpy(self.difficulty(X)).astype(np.float64)


@dataclass(frozen=True, eq=False)
class _OfNeighbours:
    model: Model
    tree: Any
    units: np.ndarray
    residuals: np.ndarray
    added: float

    def __call__(self, X: Any) -> np.ndarray:
        nearest = self.tree.kneighbors(space(self.model, X) / self.units, return_distance=False)
        difficulty: np.ndarray = self.residuals[nearest].mean(axis=1) + self.added
        return difficulty


def space(model: Model, X: Any) -> np.ndarray:
    """Where rows are near each other: the last layer's input, or the model's inputs."""
    rows: Any = model.observe(X).features
    if rows is None:
        rows = X.inputs if isinstance(X, Data) else model.inputs(X)
    flat: np.ndarray = to_numpy(rows).astype(np.float64).reshape(len(rows), -1)
    return flat
