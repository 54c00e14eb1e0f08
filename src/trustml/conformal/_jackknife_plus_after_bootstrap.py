"""The jackknife+-after-bootstrap."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np

from trustml.conformal._folds import unseen_shares
from trustml.conformal._held_out import HeldOutRegressor, Method
from trustml.conformal._regression import predicted
from trustml.conformal._symmetry import warn_if_asymmetric
from trustml.core.batches import Data
from trustml.core.progress import track
from trustml.core.random import RandomState, numpy_generator
from trustml.core.validation import check_positive_int


class JackknifePlusAfterBootstrapRegressor(HeldOutRegressor):
    """Intervals around a bagged ensemble, from the models that did not draw each training row.

    B models are trained on bootstrap samples (``Model.retrain``); the mean of those whose sample
    lacks a row stands for the ensemble without it, so that the leave-one-out residuals cost no
    training beyond the ensemble. Coverage is at least 1 - 2 alpha for a B that is drawn at random,
    and near 1 - alpha in practice for a fixed one.

    Parameters
    ----------
    model : Model or what `trustml.wrap` takes
        A regressor of one output that was wrapped with ``train=`` and can be trained anew.
    n_models : int
        B; each row is lacking in about B / e of the samples.
    method : {"plus", "minmax", "base"}
        As for `JackknifePlusRegressor`; "base" is centred at the whole ensemble's mean.
    random_state : int, Generator or None
        Seed of the draws.

    Attributes
    ----------
    model_ : Model
        The wrapped model.
    models_ : list of Model
        The B models.
    counts_ : int ndarray of shape (B, n)
        How often each sample holds each row.
    residuals_ : ndarray of shape (n,)
        Absolute residuals of the training rows by the models without them, in the unit of y.

    References
    ----------
    Kim, Xu and Barber (2020), Predictive inference is free with the jackknife+-after-bootstrap,
    arXiv:2002.09025.

    Examples
    --------
    >>> import numpy as np
    >>> import trustml
    >>> from sklearn.tree import DecisionTreeRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(60, 2))
    >>> y = np.sin(X[:, 0]) + rng.normal(size=60) / 2
    >>> tree = trustml.wrap(DecisionTreeRegressor(max_depth=4).fit(X, y), train=(X, y))
    >>> ensemble = JackknifePlusAfterBootstrapRegressor(tree, random_state=0).fit()
    >>> ensemble.predict_interval(X[:4], alpha=0.1).shape
    (4, 2)
    """

    def __init__(
        self,
        model: Any,
        n_models: int = 30,
        method: Method = "plus",
        random_state: RandomState = None,
    ) -> None:
        self.model = model
        self.n_models = n_models
        self.method = method
        self.random_state = random_state

    def fit(self) -> Self:
        """Train the ensemble and find its leave-one-out residuals.

        Returns
        -------
        JackknifePlusAfterBootstrapRegressor
            Itself.

        Warns
        -----
        CoverageWarning
            If a transformer of a pipeline has learnt from the training rows and is held.

        Notes
        -----
        A ``ValueError`` says so if every sample holds some row.
        """
        model, y = self._checked()
        warn_if_asymmetric(model, "JackknifePlusAfterBootstrapRegressor", refit=True)
        train: Data = model.train  # type: ignore[assignment]
        n, n_models = len(y), check_positive_int(self.n_models, "n_models")
        draws = numpy_generator(self.random_state).integers(n, size=(n_models, n))
        counts = np.array([np.bincount(rows, minlength=n) for rows in draws])
        self._shares = unseen_shares(counts > 0, "raise n_models")
        self.models_ = [
            model.retrain(np.sort(rows))
            for rows in track(draws, "jackknife+-after-bootstrap: models", n_models)
        ]
        self.counts_ = counts
        outputs = np.stack([predicted(m, train) for m in self.models_])
        left_out = (outputs * self._shares).sum(axis=0)
        self.model_, self.residuals_ = model, np.abs(y - left_out)
        return self

    def _centre(self, X: Any) -> np.ndarray:
        centre: np.ndarray = next(self._held_out(X)).mean(axis=1)
        return centre

    def _held_out(self, X: Any) -> Iterator[np.ndarray]:
        yield np.stack([predicted(m, X) for m in self.models_], axis=1)

    def _by_row(self, centres: np.ndarray) -> np.ndarray:
        """Return the mean prediction (b, n) of the models that lack each training row."""
        # Not by matrix products: a row's answer must not depend on its batch.
        means: np.ndarray = np.einsum("bk,kn->bn", centres, self._shares)
        return means
