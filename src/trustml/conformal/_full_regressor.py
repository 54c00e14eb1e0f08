"""Full conformal regression, without refits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from typing import Any, Literal, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from trustml.conformal._calibration import read_alphas
from trustml.conformal._full_diagnosis import FullDiagnosis, few_rows
from trustml.conformal._full_path import TIE, Paths
from trustml.conformal._full_search import hull
from trustml.conformal._leaving_out import leaving_out, new_rows
from trustml.conformal._plus_interval import chunks, warn_if_too_few
from trustml.conformal._proximal import Kernel, pulls
from trustml.conformal._refitting import Enlarged
from trustml.conformal._regression import check_regressor, measured, predicted
from trustml.conformal._symmetry import warn_if_asymmetric
from trustml.core.batches import Data
from trustml.core.losses import Poisson, SquaredError
from trustml.core.progress import track
from trustml.core.validation import check_choice, check_same_length, restore, to_numpy
from trustml.model import as_model

_HALVINGS, _HALVINGS_OF_REFITS = 40, 12


class FullRegressor(BaseEstimator):
    """Intervals from the training rows alone: none are held out to calibrate.

    For every value y, the model is trained with the new row at that value; the p-value is the
    rank of the row's absolute residual among those of the training rows, and the interval the
    hull of the values with p > alpha. Exact training covers with probability at least 1 - alpha.
    Without refits, the residuals of a model with squared error are followed as functions of y,
    exactly for least squares and ridge; other losses take one proximal step a value, found by a
    grid and bisection, near training where the model is at a minimum.

    Parameters
    ----------
    model : Model or what `trustml.wrap` takes
        A regressor of one output that was wrapped with ``train=``.
    score : {"deleted", "ordinary"}
        "deleted": the residual of a row by the model that has seen all the others. "ordinary": by
        the model that has seen all rows; intervals are narrow only where it does not fit its rows
        closely.
    refit : bool
        True trains anew for every value that the search asks for, about a hundred a row, times
        n + 1 for "deleted": the reference, also for models without gradients.
    curvature, damping : str or float
        As for `JackknifePlusRegressor`; without refits only.

    Attributes
    ----------
    model_ : Model
        The wrapped model.
    n_train_ : int
        Number of training rows.
    influence_ : InfluenceFunctions
        The engine that stands in for training; without refits only.

    References
    ----------
    Vovk, Gammerman and Shafer (2005), Algorithmic Learning in a Random World, section 2.3: the
    ridge regression confidence machine. Burnaev and Vovk (2014), Efficiency of conformalized
    ridge regression, arXiv:1404.2083, for deleted residuals.

    Examples
    --------
    >>> import numpy as np
    >>> import trustml
    >>> from sklearn.linear_model import Ridge
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(50, 3))
    >>> y = X.sum(1) + rng.normal(size=50)
    >>> full = FullRegressor(trustml.wrap(Ridge().fit(X, y), train=(X, y))).fit()
    >>> low, high = full.predict_interval(np.zeros((1, 3)), alpha=0.1)[0]
    >>> p = full.p_values(np.zeros((3, 3)), [low, high, high + 0.01])
    >>> (p > 0.1).tolist()
    [True, True, False]
    """

    def __init__(
        self,
        model: Any,
        score: Literal["deleted", "ordinary"] = "deleted",
        refit: bool = False,
        curvature: str = "auto",
        damping: str | float = "auto",
    ) -> None:
        self.model = model
        self.score = score
        self.refit = refit
        self.curvature = curvature
        self.damping = damping

    def fit(self) -> Self:
        """Prepare the engine; nothing is trained.

        Returns
        -------
        FullRegressor
            Itself.

        Warns
        -----
        CoverageWarning
            If the curvature had to be damped, or a transformer of a pipeline has learnt from the
            training rows alone.
        """
        model = as_model(self.model)
        check_regressor(model, "FullRegressor")
        check_choice(self.score, "score", ("deleted", "ordinary"))
        model.require_train("FullRegressor")
        train: Data = model.train  # type: ignore[assignment]
        y = measured(model, train.targets)
        warn_if_asymmetric(model, "FullRegressor", self.refit)
        if not self.refit:
            self.influence_ = leaving_out(model, "FullRegressor", self.curvature, self.damping)
            self._kernel = Kernel(self.influence_)
            outputs = self._kernel.outputs
            straight = torch.equal(model.values_of(outputs), outputs[:, 0])
            self._affine = straight and isinstance(model.objective.loss, SquaredError)
        self.model_, self.n_train_, self._y = model, len(y), y
        return self

    def predict_interval(self, X: Any, alpha: Any = 0.1) -> Any:
        """Return the ends of each row's interval, the hull of {y : p > alpha}.

        Parameters
        ----------
        X : array of shape (m, ...), or whatever the model takes
            New rows.
        alpha : float in (0, 1), or list of them
            Allowed error rate.

        Returns
        -------
        array of shape (m, 2), or (m, 2, a) for a list
            Low and high, in the unit of y; infinite where there are too few training rows, or a
            row so far from them that no value is strange.

        Warns
        -----
        CoverageWarning
            If there are too few training rows for alpha.
        """
        check_is_fitted(self, "model_")
        alphas, single = read_alphas(alpha)
        warn_if_too_few(self.n_train_, alphas)
        ends = np.concatenate(list(self._ends(X, predicted(self.model_, X), alphas)))
        return restore(ends[:, :, 0] if single else ends, X)

    def p_values(self, X: Any, y: Any) -> Any:
        """Return the conformal p-value of a value of each row.

        Parameters
        ----------
        X : array of shape (m, ...), or whatever the model takes
            New rows.
        y : array of shape (m,)
            A value for each.

        Returns
        -------
        array of shape (m,)
            In (0, 1]; that of the true value is super-uniform where training is exact.
        """
        check_is_fitted(self, "model_")
        centre, values = predicted(self.model_, X), measured(self.model_, y)
        check_same_length(X=centre, y=values)
        if self.refit:
            ranks = [
                self._refitted(Enlarged(self.model_, X, i), values[[i]])
                for i in track(range(len(values)), "full: refits", len(values))
            ]
        else:
            ranks = [
                self._paths(rows).ranks(values[places] - centre[places])
                if self._affine
                else self._stepped(rows, values[places][:, None])[:, 0]
                for places, rows in self._blocks(X)
            ]
        return restore(np.concatenate(ranks) / (self.n_train_ + 1), X)

    def diagnose(self, X: Any, y: Any, n_points: int = 3) -> FullDiagnosis:
        """Train anew for a few rows and compare their p-values.

        Parameters
        ----------
        X : array of shape (m, ...), or whatever the model takes
            New rows.
        y : array of shape (m,)
            A value for each; those of real rows, say.
        n_points : int
            How many rows are looked at, evenly spaced. Each takes 1 refit for the score "ordinary"
            and n + 1 for "deleted".

        Returns
        -------
        FullDiagnosis
        """
        p = to_numpy(self.p_values(X, y))
        rows, values = few_rows(len(p), n_points), measured(self.model_, y)
        exact = [self._refitted(Enlarged(self.model_, X, int(i)), values[[i]]) for i in rows]
        return FullDiagnosis(rows, p[rows], np.concatenate(exact) / (self.n_train_ + 1))

    def _ends(self, X: Any, centre: np.ndarray, alphas: list[Fraction]) -> Iterator[np.ndarray]:
        """Yield ends (b, 2, a) of the next rows, whose present values are the centre."""
        if self.refit:
            for i in track(range(len(centre)), "full: refits", len(centre)):
                ranks = partial(self._refitted, Enlarged(self.model_, X, i))
                yield self._searched(ranks, centre[[i]], alphas, _HALVINGS_OF_REFITS)
            return
        for places, rows in self._blocks(X):
            if self._affine:
                yield centre[places, None, None] + self._paths(rows).ends(alphas)
            else:
                ranks = partial(self._stepped, rows)
                yield self._searched(ranks, centre[places], alphas, _HALVINGS)

    def _searched(
        self,
        ranks: Callable[[np.ndarray], np.ndarray],
        centre: np.ndarray,
        alphas: list[Fraction],
        halvings: int,
    ) -> np.ndarray:
        # Poisson's loss knows no values below 0.
        lowest = 0.0 if isinstance(self.model_.loss_fn, Poisson) else -np.inf
        found = hull(
            lambda y: ranks(y.clip(min=lowest)),
            centre,
            float(self._y.std()) / 2 or 1.0,
            alphas,
            self.n_train_,
            halvings,
        )
        return found.clip(min=lowest)

    def _blocks(self, X: Any) -> Iterator[tuple[np.ndarray, Data]]:
        data = new_rows(self.model_, X)
        held = 6 if self._affine else 200  # numbers a training row: as many values are tried
        width = held * self.n_train_ + self.model_.objective.space.size
        for rows in chunks(len(data), width):
            yield rows, data.subset(rows)

    def _paths(self, rows: Data) -> Paths:
        outputs = self._kernel.outputs[:, 0]
        residuals = torch.from_numpy(self._y).to(outputs) - outputs
        return Paths.of(self._kernel, residuals, rows, self.score == "deleted")

    def _stepped(self, rows: Data, y: np.ndarray) -> np.ndarray:
        """Return the ranks (b, g) of values without refits."""
        model, kernel = self.model_, self._kernel
        outputs = model.observe(rows).outputs.double()
        spread, across = kernel.with_rows(rows)
        pull = pulls(model.objective.loss, outputs, spread, torch.from_numpy(y).to(outputs))
        moved = -across[:, 0] * pull.gradient[:, :, 0]  # of the training rows: (n, b, g)
        if self.score == "deleted":
            theirs = kernel.left_out[:, :, None] + kernel.freed * moved
            own = outputs.reshape(-1, 1).expand(y.shape)
        else:
            theirs, own = kernel.outputs[:, :, None] + moved, pull.outputs[:, :, 0]
        scores = np.abs(self._y[:, None, None] - self._values(theirs))
        ranks: np.ndarray = 1 + _as_strange(scores, np.abs(y - self._values(own))).sum(axis=0)
        return ranks

    def _values(self, outputs: Tensor) -> np.ndarray:
        means: np.ndarray = to_numpy(self.model_.values_of(outputs.reshape(-1, 1)))
        return means.reshape(outputs.shape)

    def _refitted(self, bigger: Enlarged, y: np.ndarray) -> np.ndarray:
        """Return the ranks of values of one row by real training, in their shape."""
        n, ranks = bigger.n, np.empty(y.size, dtype=int)
        for k, value in enumerate(y.flat):
            if self.score == "ordinary":
                found = predicted(bigger.with_target(value), bigger.X)
            else:
                found = np.array([
                    predicted(bigger.with_target(value, i), bigger.row(i))[0] for i in range(n + 1)
                ])  # fmt: skip
            scores = np.abs(np.append(self._y, value) - found)
            ranks[k] = 1 + _as_strange(scores[:n], scores[n]).sum()
        return ranks.reshape(y.shape)


def _as_strange(scores: np.ndarray, own: Any) -> np.ndarray:
    # Rounding must not tell a row from its twin.
    return np.asarray(scores >= own * (1 - TIE))
