"""What a detector is: a score of what the model saw, higher = more out of distribution."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from importlib import import_module
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from torch import Tensor

from trustml.core.validation import check_alpha, restore, to_numpy
from trustml.model import Model, Observation, as_model
from trustml.ood._calibration import Calibration
from trustml.ood._seen import UnsuitableError, check_observed, labels_of, provided

_WORDS = {
    "probabilities": "class probabilities",
    "logits": "logits",
    "features": "features (one vector a row, the input of a last linear layer)",
    "head": "a differentiable last linear layer",
    "labels": "class labels",
}


class Detector(BaseEstimator, ABC):
    """A score of out-of-distribution rows, and the verdicts that follow from it.

    A detector is a function of an `Observation` - outputs, logits, probabilities and features
    of one forward pass - so any number of detectors share one pass (see `Suite`). A subclass
    says what it ``needs`` and implements ``_fit`` and ``_score``; nothing else is overridden.

    Attributes
    ----------
    needs : frozenset of {"probabilities", "logits", "features", "head", "labels"}
        What the model and the data must give.
    model_ : Model
        The wrapped model.
    calibration_ : Calibration
        Learnt in ``calibrate``.
    """

    needs: ClassVar[frozenset[str]]

    model: Any
    model_: Model
    calibration_: Calibration

    @abstractmethod
    def _fit(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        """Learn from in-distribution rows; ``labels`` are class indices, None where unknown."""

    @abstractmethod
    def _score(self, observation: Observation) -> Tensor:
        """Return float64 scores of shape (n,)."""

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn what in-distribution looks like.

        Parameters
        ----------
        X : array, tensor, frame, Dataset or DataLoader of n rows
            In-distribution rows, usually the training data.
        y : array of shape (n,) or None
            Their labels; None takes the model's predictions.

        Returns
        -------
        Detector
            Itself; an earlier fit and its calibration are forgotten.
        """
        model = as_model(self.model)
        observation = model.observe(X)
        return self.fit_observation(model, observation, labels_of(model, observation, y))

    def fit_observation(
        self, model: Model, observation: Observation, labels: Tensor | None = None
    ) -> Self:
        """Learn from what the model saw: `fit` without its forward pass.

        Parameters
        ----------
        model : Model
            The model that observed.
        observation : Observation
            ``model.observe(X)`` of n in-distribution rows.
        labels : integer Tensor of shape (n,) or None
            Class indices.

        Returns
        -------
        Detector
            Itself.

        """
        check_observed(observation)
        self._require(model, provided(model, observation, labels))
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)
        self._fit(model, observation, labels)
        self.model_ = model
        return self

    def score(self, X: Any) -> Any:
        """Return how far out of distribution each row is.

        Parameters
        ----------
        X : array, tensor, frame, Dataset or DataLoader of n rows
            Rows to judge.

        Returns
        -------
        array of shape (n,)
            float64, higher = more out of distribution; a tensor if ``X`` is one.
        """
        return restore(self.score_observation(self._observe(X)), X)

    def score_observation(self, observation: Observation) -> Tensor:
        """Return the scores of what the model saw: `score` without its forward pass.

        Parameters
        ----------
        observation : Observation
            ``model.observe(X)`` of n rows.

        Returns
        -------
        Tensor of shape (n,)
            float64, higher = more out of distribution.
        """
        self._check_fitted()
        check_observed(observation)
        with torch.no_grad():
            return self._score(observation)

    def calibrate(self, X_cal: Any) -> Self:
        """Keep the scores of in-distribution rows, the yardstick of every verdict.

        Parameters
        ----------
        X_cal : array, tensor, frame, Dataset or DataLoader of n rows
            In-distribution rows used neither to train the model nor in ``fit``; at least
            ``1 / alpha - 1`` of them for an alarm at level ``alpha``.

        Returns
        -------
        Detector
            Itself.
        """
        self.calibration_ = Calibration(as_scores(self.score_observation(self._observe(X_cal))))
        return self

    def p_values(self, X: Any) -> Any:
        """Return conformal p-values: small = unlike the calibration rows.

        For a row exchangeable with the calibration rows, P(p <= t) <= t for every t.

        Parameters
        ----------
        X : array, tensor, frame, Dataset or DataLoader of n rows
            Rows to judge.

        Returns
        -------
        array of shape (n,)
            In [1 / (n_cal + 1), 1].
        """
        scores = self._calibrated_scores(X)
        return restore(self.calibration_.p_values(scores), X)

    def alarm(self, X: Any, alpha: float = 0.05) -> Any:
        """Return which rows are out of distribution, each at false-alarm rate ``alpha``.

        Parameters
        ----------
        X : array, tensor, frame, Dataset or DataLoader of n rows
            Rows to judge.
        alpha : float in (0, 1)
            Allowed probability of an alarm on an in-distribution row.

        Returns
        -------
        bool array of shape (n,)
            True where the p-value is at most ``alpha``.

        Warns
        -----
        CoverageWarning
            If there are too few calibration rows to ever raise an alarm.
        """
        alpha = check_alpha(alpha)
        scores = self._calibrated_scores(X)
        return restore(self.calibration_.alarm(scores, alpha), X)

    def discoveries(self, X: Any, q: float = 0.1) -> Any:
        """Return which rows of a batch are out of distribution, at false discovery rate ``q``.

        Parameters
        ----------
        X : array, tensor, frame, Dataset or DataLoader of n rows
            A batch, judged together.
        q : float in (0, 1)
            Allowed expected share of in-distribution rows among the discoveries.

        Returns
        -------
        bool array of shape (n,)
            Benjamini-Hochberg rejections.

        References
        ----------
        Bates, Candès, Lei, Romano and Sesia (2023), Testing for outliers with conformal
        p-values, arXiv:2104.08279.
        """
        scores = self._calibrated_scores(X)
        return restore(self.calibration_.discoveries(scores, q), X)

    def _require(self, model: Model, given: frozenset[str]) -> None:
        missing = sorted(self.needs - given)
        if not missing:
            return
        name = type(self).__name__
        if missing == ["labels"]:
            raise UnsuitableError(f"{name} needs class labels, and there are none; pass y to fit")
        works = [other for other, kind in catalogue().items() if kind.needs <= given]
        instead = (
            f"with it these work: {', '.join(works)}"
            if given - {"labels"}
            else "no detector works with it"
        )
        raise UnsuitableError(
            f"{name} needs {' and '.join(_WORDS[part] for part in missing)}, and {model!r} gives "
            f"none; {instead}"
        )

    def _observe(self, X: Any) -> Observation:
        self._check_fitted()
        return self.model_.observe(X)

    def _calibrated_scores(self, X: Any) -> NDArray[np.float64]:
        self._check_calibrated()
        return as_scores(self.score_observation(self._observe(X)))

    def _check_fitted(self) -> None:
        if not hasattr(self, "model_"):
            name = type(self).__name__
            raise NotFittedError(f"this {name} is not fitted; call fit(X_in) first")

    def _check_calibrated(self) -> None:
        self._check_fitted()
        if not hasattr(self, "calibration_"):
            raise NotFittedError(
                f"this {type(self).__name__} is not calibrated; call calibrate(X_cal) with "
                "in-distribution rows that fit did not see"
            )


def catalogue() -> dict[str, type[Detector]]:
    """Return the detectors of the room, by name, in the order of its ``__all__``."""
    room = import_module("trustml.ood")
    members = {name: getattr(room, name) for name in room.__all__}
    return {
        name: member
        for name, member in members.items()
        if inspect.isclass(member) and issubclass(member, Detector) and member is not Detector
    }


def as_scores(scores: Tensor) -> NDArray[np.float64]:
    """Return scores as a numpy vector."""
    return np.asarray(to_numpy(scores), dtype=np.float64)
