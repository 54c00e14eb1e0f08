"""What calibrates a classifier's probabilities on rows that it was not trained on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from trustml.core.validation import check_finite, restore
from trustml.model import Model, as_model


class Recalibrated(ClassifierMixin, BaseEstimator, ABC):
    """A classifier of better probabilities: whatever `trustml.wrap` serves can take it."""

    classes_: np.ndarray

    def predict_proba(self, X: Any) -> Any:
        """Return calibrated probabilities.

        Parameters
        ----------
        X : array of shape (n, ...), or whatever the model takes
            New rows.

        Returns
        -------
        array of shape (n, c)
            Rows sum to one; columns in the order of ``classes_``.
        """
        return restore(self._probabilities(X), X)

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable label of each row, shape (n,)."""
        best = self._probabilities(X).argmax(dim=1).cpu().numpy()
        labels: np.ndarray = self.classes_[best]
        return labels

    @abstractmethod
    def _probabilities(self, X: Any) -> Tensor:
        """Return probabilities (n, c), on the model's device."""


class Calibrator(Recalibrated):
    """New probabilities from a classifier's logits, learnt from calibration rows.

    Subclasses are final.
    """

    model: Any

    def fit(self, X_cal: Any, y_cal: Any) -> Self:
        """Learn from calibration rows; the model is not trained.

        Parameters
        ----------
        X_cal : array of shape (n, ...), or whatever the model takes
            Rows that the model was not trained on.
        y_cal : array of shape (n,)
            Their labels, as the model knows them.

        Returns
        -------
        Self
            Itself.

        Raises
        ------
        TypeError
            If the model is no classifier.
        ValueError
            If lengths differ.
        """
        model, name = as_model(self.model), type(self).__name__
        if model.task != "classification":
            raise TypeError(f"{name} needs a classifier, got a model for {model.task}")
        logits, index = class_logits(model, X_cal), model.targets(y_cal)
        if len(index) != len(logits):
            raise ValueError(
                f"X_cal has {len(logits)} rows, y_cal has {len(index)}; give one label each"
            )
        self._learn(logits, index.to(logits.device))
        self.model_, self.classes_ = model, np.asarray(model.classes_)
        return self

    def _probabilities(self, X: Any) -> Tensor:
        return self._calibrated(self._logits(X))

    def _logits(self, X: Any) -> Tensor:
        check_is_fitted(self, "classes_")
        return class_logits(self.model_, X)

    @abstractmethod
    def _learn(self, logits: Tensor, index: Tensor) -> None:
        """Set what `_calibrated` needs from logits (n, c) in float64 and class indices (n,)."""

    @abstractmethod
    def _calibrated(self, logits: Tensor) -> Tensor:
        """Return probabilities (n, c) of logits, on their device."""


def margins(logits: Tensor) -> Tensor:
    """Return each class's log-odds against all others, (n, c): monotone in its probability."""
    if logits.shape[1] == 2:
        return logits - logits.flip(1)
    log_p = logits.log_softmax(dim=1)
    top = log_p.argmax(dim=1, keepdim=True)
    # The top class's share may round to one: it is measured against the others themselves.
    others = log_p.scatter(1, top, -float("inf")).logsumexp(dim=1, keepdim=True)
    odds = log_p - torch.log1p(-log_p.exp().clamp(max=0.5))
    return odds.scatter(1, top, log_p.gather(1, top) - others)


def normalised(scores: Tensor) -> Tensor:
    """Return rows divided by their sums; a row of zeros becomes uniform."""
    total = scores.sum(dim=1, keepdim=True)
    uniform = scores.new_full(scores.shape, 1 / scores.shape[1])
    return (scores / total.where(total > 0, total.new_ones(()))).where(total > 0, uniform)


def class_logits(model: Model, X: Any) -> Tensor:
    """Return the logits (n, c) of at least two classes, in float64 and finite.

    Returns
    -------
    Tensor of shape (n, c)

    Raises
    ------
    ValueError
        If the model gives others.
    """
    logits = model.observe(X).logits
    if logits is None or logits.ndim != 2 or logits.shape[1] < 2:
        shape = None if logits is None else tuple(logits.shape)
        raise ValueError(f"the model must give logits of at least 2 classes, (n, c), got {shape}")
    logits = logits.detach().double()
    check_finite(logits, "the model's logits")
    return logits
