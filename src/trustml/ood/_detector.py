"""What a detector is: a score of what the model saw, higher = more out of distribution."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from dataclasses import replace
from importlib import import_module
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from torch import Tensor

from trustml.core.validation import check_alpha, restore, to_numpy
from trustml.model import Model, Observation, as_model
from trustml.model.passes import Layers
from trustml.ood._calibration import Calibration, Ratio
from trustml.ood._saving import load, save
from trustml.ood._seen import UnsuitableError, check_observed, lacking, provided
from trustml.ood._stream import learn, score

if TYPE_CHECKING:
    from trustml.ood._explain import OodExplanation


class Detector(BaseEstimator, ABC):
    """A score of out-of-distribution rows, and the verdicts that follow from it.

    A detector is a function of an `Observation` - outputs, logits, probabilities, features and
    inner layers of one forward pass - so any number of detectors share one pass (see `Suite`),
    batch by batch. A subclass says what it ``needs`` and implements ``_score``; one that learns
    updates statistics in ``_update`` and ends in ``_finish``, or is a `KeepsRows`.

    Attributes
    ----------
    needs : frozenset of {"probabilities", "logits", "features", "head", "inputs", "labels"}
        What the model and the data must give.
    streams : bool
        Whether what was learnt can be added to: ``partial_fit`` works, and memory does not grow
        with the number of rows.
    model_ : Model
        The wrapped model.
    calibration_ : Calibration
        Learnt in ``calibrate``.
    """

    needs: ClassVar[frozenset[str]]
    streams: ClassVar[bool] = True

    model: Any
    model_: Model
    calibration_: Calibration

    def _layers(self, model: Model) -> Layers:
        """Return what to read of inner layers, as for ``Model.observations``."""
        return {}

    def _update(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        """Learn from a batch; ``labels`` are class indices, None where unknown."""

    def _finish(self, model: Model) -> None:
        """Conclude from all batches so far."""

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
        self.begin()
        learn({"": self}, model, X, y, strict=True)
        return self

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Learn from more in-distribution rows, beside those of earlier calls.

        Parameters
        ----------
        X : array, tensor, frame, Dataset or DataLoader of n rows
            In-distribution rows.
        y : array of shape (n,) or None
            Their labels; None takes the model's predictions.

        Returns
        -------
        Detector
            Itself; an earlier calibration is forgotten.

        Raises
        ------
        TypeError
            If the detector learns from all rows at once.
        """
        if not self.streams:
            raise TypeError(
                f"{type(self).__name__} learns from all rows at once; give them to fit together"
            )
        model = self.model_ if hasattr(self, "model_") else as_model(self.model)
        self.__dict__.pop("calibration_", None)
        learn({"": self}, model, X, y, strict=True)
        return self

    def save(self, path: str | PathLike[str]) -> None:
        """Write the detector to a folder: tensors (safetensors) and a JSON manifest, no pickle.

        A part that is neither numbers nor text is refused with a TypeError that names it.

        Parameters
        ----------
        path : str or Path
            A new folder, or one with an earlier save for the same model, which is replaced; a
            folder that belongs to another model is refused with a ``StoreMismatchError``.
        """
        save(self, path)

    @classmethod
    def load(cls, path: str | PathLike[str], model: Any) -> Self:
        """Return the detector that ``save`` wrote; for another model a ``StoreMismatchError``.

        Parameters
        ----------
        path : str or Path
            The folder.
        model : Model or estimator
            The same model as then: nothing of it is in the folder but its fingerprint.

        Returns
        -------
        Detector
            Fitted, and calibrated if it was; of this class, else it is refused.
        """
        return load(path, model, cls)

    def begin(self) -> None:
        """Forget everything that was learnt."""
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)

    def update(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        """Learn from what the model saw in one batch.

        Parameters
        ----------
        model : Model
            The model that observed.
        observation : Observation
            Of b in-distribution rows, with ``reads(model)`` among its layers.
        labels : integer Tensor of shape (b,) or None
            Class indices.
        """
        check_observed(observation)
        self._require(model, provided(model, observation, labels))
        self._update(model, observation, labels)

    def finish(self, model: Model) -> None:
        """Conclude from the batches: the detector is fitted then."""
        self._finish(model)
        self.model_ = model

    def reads(self, model: Model) -> Layers:
        """Return what the detector reads of inner layers, as for ``Model.observations``."""
        return self._layers(model)

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
        return restore(self._scores(X), X)

    def score_observation(self, observation: Observation) -> Tensor:
        """Return the scores of what the model saw: `score` without its forward pass.

        Parameters
        ----------
        observation : Observation
            Of n rows, with ``reads(model)`` among its layers.

        Returns
        -------
        Tensor of shape (n,)
            float64, higher = more out of distribution.
        """
        check_observed(observation)
        with torch.no_grad():
            return self.score_checked(observation)

    def score_checked(self, observation: Observation) -> Tensor:
        """Return `score_observation` of what was found finite."""
        self._check_fitted()
        return self._score(observation)

    def calibrate(self, X_cal: Any, y_cal: Any = None, weights: Ratio | None = None) -> Self:
        """Keep the scores of in-distribution rows, the yardstick of every verdict.

        Parameters
        ----------
        X_cal : array, tensor, frame, Dataset or DataLoader of n rows
            In-distribution rows used neither to train the model nor in ``fit``; at least
            ``1 / alpha - 1`` of them for an alarm at level ``alpha``.
        y_cal : array of shape (n,) or None
            Their labels: the guarantees then hold within each of these classes, and so many rows
            are needed of each.
        weights : callable X -> (n,) or None
            Where the rows to judge have other covariates: their density over that of the
            calibration rows, on any scale.

        Returns
        -------
        Detector
            Itself.
        """
        scores = as_scores(self._scores(X_cal))
        self.calibration_ = Calibration.of(scores, self.model_, X_cal, y_cal, weights)
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
            In [1 / (n_cal + 1), 1]; the largest over classes if calibrated with labels.
        """
        scores, weights = self._calibrated_scores(X)
        return restore(self.calibration_.p_values(scores, weights), X)

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
        scores, weights = self._calibrated_scores(X)
        return restore(self.calibration_.alarm(scores, alpha, weights), X)

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
            Benjamini-Hochberg rejections; Benjamini-Yekutieli's if the calibration is weighted.

        References
        ----------
        Bates, Candès, Lei, Romano and Sesia (2023), Testing for outliers with conformal
        p-values, arXiv:2104.08279.
        """
        scores, weights = self._calibrated_scores(X)
        return restore(self.calibration_.discoveries(scores, q, weights), X)

    def explain(self, X: Any, k: int = 5, max_rows: int = 5000) -> OodExplanation:
        """Explain the scores of rows: see `trustml.ood.explain`.

        Parameters
        ----------
        X : array, tensor, frame, Dataset or DataLoader of n rows
            Rows to explain.
        k : int
            How many of the nearest training rows.
        max_rows : int
            Among at most so many of the model's training rows.

        Returns
        -------
        OodExplanation
        """
        explain = import_module("trustml.ood._explain").explain
        return cast("OodExplanation", explain(self, X, k, max_rows))

    def _require(self, model: Model, given: frozenset[str]) -> None:
        missing = sorted(self.needs - given)
        if not missing:
            return
        name = type(self).__name__
        if missing == ["labels"] and model.task == "classification":
            raise UnsuitableError(f"{name} needs class labels, and there are none; pass y to fit")
        works = [other for other, kind in catalogue().items() if kind.needs <= given]
        raise UnsuitableError(f"{name} needs {lacking(missing, model, given, works)}")

    def _scores(self, X: Any) -> Tensor:
        self._check_fitted()
        return score({"": self}, self.model_, X)[""]

    def _calibrated_scores(self, X: Any) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        self._check_calibrated()
        scores = as_scores(self._scores(X))
        return scores, self.calibration_.weigh(X, len(scores))

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


class KeepsRows(Detector):
    """A detector that learns from all rows at once: what it saw of them is kept until then."""

    streams: ClassVar[bool] = False

    @abstractmethod
    def _fit(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        """Learn from all rows; ``labels`` are class indices, None where unknown."""

    def _update(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        if not hasattr(self, "seen_"):
            self.seen_: list[tuple[Observation, Tensor | None]] = []
        # Not the inputs, nor what other detectors read of the layers: that would hold the data set.
        self.seen_.append((replace(observation, inputs=None, layers={}), labels))

    def _finish(self, model: Model) -> None:
        observations, labels = zip(*self.seen_, strict=True)
        del self.seen_
        together = None if labels[0] is None else torch.cat(labels)
        self._fit(model, Observation.join(observations), together)


def catalogue() -> dict[str, type[Detector]]:
    """Return the detectors of the room, by name, in the order of its ``__all__``."""
    room = import_module("trustml.ood")
    members = {name: getattr(room, name) for name in room.__all__}
    return {
        name: member
        for name, member in members.items()
        if inspect.isclass(member)
        and issubclass(member, Detector)
        and not inspect.isabstract(member)
    }


def as_scores(scores: Tensor) -> NDArray[np.float64]:
    """Return scores as a numpy vector."""
    return np.asarray(to_numpy(scores), dtype=np.float64)
