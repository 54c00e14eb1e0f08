"""Models that each left out some training rows, and their leave-one-out means."""

from __future__ import annotations

from typing import Any

import numpy as np

from trustml.conformal._folds import unseen_shares
from trustml.conformal._leaving_out import leaving_out
from trustml.conformal._one_row import as_rows
from trustml.conformal._regression import check_regressor, measured, predicted
from trustml.core.batches import Data
from trustml.core.progress import track
from trustml.core.random import RandomState, numpy_generator
from trustml.core.validation import check_positive_int
from trustml.model import Model, as_model


class Ensemble:
    """Bootstrap models; each training row is predicted by those that did not see it.

    Parameters
    ----------
    model : Model or what `trustml.wrap` takes
        A regressor with training rows, in order of time.
    what : str
        Name of the caller, for errors.
    n_models : int
        Number of bootstrap models.
    block : int
        Consecutive rows that are drawn together.
    refit : bool
        True trains the models anew; False takes Newton steps of the engine.
    random_state : RandomState
        Seed of the draws.

    Attributes
    ----------
    model : Model
        The wrapped model.
    models : list of Model
        Its bootstrap copies.
    drawn : bool ndarray of shape (n_models, n)
        Which rows each has seen.
    residuals : ndarray of shape (n,)
        Training values minus their leave-one-out means, in order of time.

    Raises
    ------
    ValueError
        If every model has seen some row.
    """

    def __init__(
        self,
        model: Any,
        what: str,
        n_models: int,
        block: int,
        refit: bool,
        random_state: RandomState,
    ) -> None:
        self.model = as_model(model)
        check_regressor(self.model, what)
        self.model.require_train(what)
        train: Data = self.model.train  # type: ignore[assignment]
        y, n = measured(self.model, train.targets), len(train)
        n_models = check_positive_int(n_models, "n_models")
        block = min(check_positive_int(block, "block"), n)
        rng = numpy_generator(random_state)
        self.drawn = np.zeros((n_models, n), dtype=bool)
        for row in self.drawn:
            starts = rng.integers(n - block + 1, size=-(-n // block))
            row[(starts[:, None] + np.arange(block)).ravel()] = True
        # Share of each model in each row's leave-one-out mean: (n_models, n).
        share = unseen_shares(self.drawn, "raise n_models, or make block smaller")
        self.models = self._trained(what, refit)
        outputs = np.stack([predicted(m, train) for m in self.models])
        self.residuals = y - (share * outputs).sum(axis=0)
        # A new row's prediction is the mean over training rows of their leave-one-out means.
        self._weights = share.mean(axis=1)

    def _trained(self, what: str, refit: bool) -> list[Model]:
        steps = track(self.drawn, f"{what}: bootstrap models", len(self.drawn))
        if refit:
            return [self.model.retrain(np.flatnonzero(rows)) for rows in steps]
        influence = leaving_out(self.model, what)
        # A row that is drawn twice counts once, so a model is that without the rows not drawn.
        return [
            influence.remove(np.flatnonzero(~rows)) if not rows.all() else self.model
            for rows in steps
        ]

    def predict(self, X: Any) -> np.ndarray:
        """Return the mean of the leave-one-out means, shape (m,)."""
        outputs = np.stack([predicted(model, X) for model in self.models], axis=1)
        # Summed row by row, so that a row's answer does not depend on its batch.
        centre: np.ndarray = (outputs * self._weights).sum(axis=1)
        return centre

    def new_residuals(self, x: Any, y: Any) -> np.ndarray:
        """Return residuals of new rows; one row without the first axis if ``y`` is a number.

        Returns
        -------
        ndarray of shape (k,)

        Raises
        ------
        ValueError
            If lengths differ.
        """
        x, y = as_rows(x, y)
        centre, values = self.predict(x), measured(self.model, y)
        if len(centre) != len(values):
            raise ValueError(f"x has {len(centre)} rows, y has {len(values)}; give one y a row")
        residuals: np.ndarray = values - centre
        return residuals
