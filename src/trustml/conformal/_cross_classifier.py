"""Cross-conformal classification (CV+), without refits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np

from trustml.conformal._folds import drawn_folds, fold_models
from trustml.conformal._full_diagnosis import FullDiagnosis
from trustml.conformal._ranked import TIE, RankedClassifier
from trustml.conformal._score import ScoreFunction, as_score
from trustml.conformal._scored import length, observed, uniforms_of
from trustml.conformal._symmetry import warn_if_asymmetric
from trustml.core.random import RandomState, numpy_generator
from trustml.core.validation import to_numpy
from trustml.model import Model, as_model


class CrossClassifier(RankedClassifier):
    r"""Sets of labels from held-out folds: every training row also calibrates.

    With :math:`s_{-k}` the score by the model that has not seen fold k, and k(i) the fold of
    training row i, the p-value of label y is

    .. math:: p(x, y) = \frac{1 + \#\{i : s_{-k(i)}(x_i, y_i) \ge s_{-k(i)}(x, y)\}}{n + 1} ,

    and the set is {p > alpha}, the CV+ set. The label is in it with probability at least
    1 - 2 alpha - sqrt(2 / n) for any data, so :math:`P(p \le t)` may be up to about 2t, and
    1 - alpha in practice. Without refits the K models are Newton steps of the curvature engine:
    for models that are linear in their parameters until they have arrived at the refit, for others
    close to it when a fold is a small share of the rows.

    Parameters
    ----------
    model : Model or what `trustml.wrap` takes
        A classifier that was wrapped with ``train=``.
    folds : int
        Number of folds, from 2 to n; the sizes differ by one row at most.
    score : {"lac", "aps", "raps", "saps", "topk", "margin"}, Score or callable
        Strangeness of a class; one that has nothing to learn from data.
    refit : bool
        True trains the K models (``Model.retrain``).
    curvature, damping : str or float
        As for `JackknifePlusRegressor`; without refits only.
    random_state : int, Generator or None
        Which row goes to which fold, and the seed of randomised scores.

    Attributes
    ----------
    model_ : Model
        The wrapped model.
    classes_ : array of shape (c,)
        Labels in the order of the columns.
    models_ : list of Model
        The model without each fold.
    fold_ : ndarray of shape (n,)
        Fold of each training row.
    scores_ : ndarray of shape (n,)
        Held-out score of each training row's label.
    n_train_ : int
        Number of training rows.

    References
    ----------
    Romano, Sesia and Candès (2020), Classification with valid and adaptive coverage,
    arXiv:2006.02544. Vovk (2015), Cross-conformal predictors, arXiv:1208.0806. Barber, Candès,
    Ramdas and Tibshirani (2021), arXiv:1905.02928.

    Examples
    --------
    >>> import numpy as np
    >>> import trustml
    >>> from sklearn.linear_model import LogisticRegression
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(60, 2))
    >>> y = (X.sum(1) > 0).astype(int)
    >>> model = trustml.wrap(LogisticRegression().fit(X, y), train=(X, y))
    >>> cross = CrossClassifier(model, random_state=0).fit()
    >>> cross.predict_set(np.array([[2.0, 2.0], [-2.0, -2.0]]), alpha=0.1)
    array([[False,  True],
           [ True, False]])
    """

    def __init__(
        self,
        model: Any,
        folds: int = 10,
        score: str | ScoreFunction = "lac",
        refit: bool = False,
        curvature: str = "auto",
        damping: str | float = "auto",
        random_state: RandomState = None,
    ) -> None:
        self.model = model
        self.folds = folds
        self.score = score
        self.refit = refit
        self.curvature = curvature
        self.damping = damping
        self.random_state = random_state

    def fit(self) -> Self:
        """Find the held-out scores of the model's training rows.

        Returns
        -------
        CrossClassifier
            Itself.

        Raises
        ------
        TypeError
            If the model is no classifier, or has no gradients and ``refit`` is False.
        ValueError
            If the score learns from data.

        Warns
        -----
        CoverageWarning
            If the curvature had to be damped, or a transformer of a pipeline has learnt from the
            training rows alone.
        """
        model, score = as_model(self.model), as_score(self.score)
        if model.task != "classification":
            raise TypeError(
                f"CrossClassifier needs a classifier, got a model for {model.task}; for regression "
                "use CvPlusRegressor"
            )
        if score.share or score.reads != "probabilities":
            raise ValueError(
                f"CrossClassifier needs a score with nothing to learn, got {score.name!r}: it "
                "would learn from rows that calibrate; use SplitClassifier"
            )
        model.require_train("CrossClassifier")
        warn_if_asymmetric(model, "CrossClassifier", self.refit)
        training: Any = model._training
        rng = numpy_generator(self.random_state)
        self.model_, self.classes_, self.score_ = model, np.asarray(model.classes_), score
        self.fold_ = drawn_folds(self.folds, len(training), rng)
        self.seed_ = int(rng.integers(2**62))
        self.models_ = fold_models(
            model, "CrossClassifier", self.fold_, self.refit, self.curvature, self.damping
        )
        self.scores_ = self._held_out_scores(self.models_)
        self.n_train_ = len(self.scores_)
        return self

    def diagnose(self, X: Any) -> FullDiagnosis:
        """Train the K models anew and compare the p-values of some rows.

        Parameters
        ----------
        X : array of shape (m, ...), or whatever the model takes
            New rows; labels are not needed.

        Returns
        -------
        FullDiagnosis
        """
        p = to_numpy(self.p_values(X))
        models = fold_models(self.model_, "CrossClassifier", self.fold_, refit=True)
        ranks = self._ranks_by(models, self._held_out_scores(models), X)
        return FullDiagnosis(np.arange(len(p)), p, ranks / (self.n_train_ + 1))

    def _held_out_scores(self, models: list[Model]) -> np.ndarray:
        """Return the score (n,) of each training row's label by the model without it."""
        training: Any = self.model_._training
        columns = to_numpy(self.model_.targets(training.labels))
        found = np.empty(len(columns))
        for k, model in enumerate(models):
            rows = np.flatnonzero(self.fold_ == k)
            for start, scores in self._scores(model, training.subset(rows)[0]):
                some = rows[start : start + len(scores)]
                found[some] = scores[np.arange(len(some)), columns[some]]
        return found

    def _ranks(self, X: Any) -> np.ndarray:
        return self._ranks_by(self.models_, self.scores_, X)

    def _ranks_by(self, models: list[Model], held_out: np.ndarray, X: Any) -> np.ndarray:
        ranks = np.ones((length(X), len(self.classes_)), dtype=int)
        for k, model in enumerate(models):
            ordered = np.sort(held_out[self.fold_ == k])
            for start, scores in self._scores(model, X):
                below = np.searchsorted(ordered, scores - TIE)
                ranks[start : start + len(scores)] += len(ordered) - below
        return ranks

    def _scores(self, model: Model, X: Any) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first row, scores (b, c)); a class that a fold's refit never saw has p = 0."""
        seen_classes = np.asarray(model.classes_).tolist()
        places = [self.classes_.tolist().index(label) for label in seen_classes]
        for start, rows, seen in observed(model, self.score_, X):
            full = seen.new_zeros(len(seen), len(self.classes_))
            full[:, places] = seen
            uniforms = uniforms_of(self.score_, rows, len(seen), self.seed_)
            yield start, to_numpy(self.score_(full, uniforms).double())
