"""Cross Venn-Abers predictors: every training row also calibrates."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from trustml.conformal._folds import drawn_folds, fold_models
from trustml.conformal._scaling import Recalibrated, class_logits, normalised
from trustml.conformal._symmetry import warn_if_asymmetric
from trustml.conformal._venn_abers import venn_abers_bounds, venn_abers_tables
from trustml.core.random import RandomState
from trustml.model import as_model


class CrossVennAbers(Recalibrated):
    """Calibrated probabilities without calibration rows, from held-out folds.

    Each of the K models that have not seen a fold is calibrated on that fold as `VennAbers` does;
    the pairs are merged by geometric means, G(p1) / (G(1 - p0) + G(p1)), which minimises the
    regret of the log loss. Without refits the K models are Newton steps of the curvature engine.
    The exact calibration of one pair does not carry over to the merger, which is better than any
    of them in practice.

    Parameters
    ----------
    model : Model or what `trustml.wrap` takes
        A classifier that was wrapped with ``train=``.
    folds : int
        Number of folds, from 2 to n; the sizes differ by one row at most.
    refit : bool
        True trains the K models (``Model.retrain``).
    curvature, damping : str or float
        As for `JackknifePlusRegressor`; without refits only.
    random_state : int, Generator or None
        Which row goes to which fold.

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
    tables_ : list of list
        For each fold, what `VennAbers` keeps.

    References
    ----------
    Vovk, Petej and Fedorova (2015), Large-scale probabilistic predictors with and without
    guarantees of validity, arXiv:1511.00213, section 4.

    Examples
    --------
    >>> import numpy as np
    >>> import trustml
    >>> from sklearn.linear_model import LogisticRegression
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 2))
    >>> y = (X[:, 0] + rng.normal(size=200) > 0).astype(int)
    >>> model = trustml.wrap(LogisticRegression().fit(X, y), train=(X, y))
    >>> cross = CrossVennAbers(model, folds=5, random_state=0).fit()
    >>> cross.predict_proba(np.array([[-2.0, 0.0], [2.0, 0.0]])).round(1)
    array([[0.9, 0.1],
           [0.1, 0.9]])
    """

    def __init__(
        self,
        model: Any,
        folds: int = 10,
        refit: bool = False,
        curvature: str = "auto",
        damping: str | float = "auto",
        random_state: RandomState = None,
    ) -> None:
        self.model = model
        self.folds = folds
        self.refit = refit
        self.curvature = curvature
        self.damping = damping
        self.random_state = random_state

    def fit(self) -> Self:
        """Calibrate each held-out model on its fold of the model's training rows.

        Returns
        -------
        CrossVennAbers
            Itself.

        Raises
        ------
        TypeError
            If the model is no classifier, or has no gradients and ``refit`` is False.

        Warns
        -----
        CoverageWarning
            If the curvature had to be damped, or a transformer of a pipeline has learnt from the
            training rows alone.
        """
        model, name = as_model(self.model), "CrossVennAbers"
        if model.task != "classification":
            raise TypeError(f"{name} needs a classifier, got a model for {model.task}")
        model.require_train(name)
        warn_if_asymmetric(model, name, self.refit)
        training: Any = model._training
        fold = drawn_folds(self.folds, len(training), self.random_state)
        models = fold_models(model, name, fold, self.refit, self.curvature, self.damping)
        index = model.targets(training.labels).cpu()
        self.tables_ = []
        for k, held_out in enumerate(models):
            rows = np.flatnonzero(fold == k)
            logits = class_logits(held_out, training.subset(rows)[0])
            self.tables_.append(venn_abers_tables(logits, index[torch.from_numpy(rows)]))
        self.models_, self.fold_, self.model_ = models, fold, model
        self.classes_ = np.asarray(model.classes_)
        return self

    def _probabilities(self, X: Any) -> Tensor:
        check_is_fitted(self, "tables_")
        against = in_favour = torch.zeros(())
        for held_out, tables in zip(self.models_, self.tables_, strict=True):
            low, high = venn_abers_bounds(class_logits(held_out, X), tables).unbind(dim=2)
            in_favour = in_favour + high.log()
            against = against + torch.log1p(-low)
        # A ratio of geometric means is a logistic of the difference of mean logarithms.
        return normalised(torch.sigmoid((in_favour - against) / len(self.models_)))
