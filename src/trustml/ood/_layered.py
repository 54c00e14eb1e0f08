"""Detectors of the features, or of several inner layers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor

from trustml.core.validation import restore
from trustml.model import Model, Observation
from trustml.model.passes import Layers
from trustml.ood._calibration import Calibration, Ratio
from trustml.ood._detector import Detector, as_scores
from trustml.ood._layers import LayerChoice, chosen_layers, pooled_layers, vectors
from trustml.ood._seen import check_observed
from trustml.ood._stream import observed


class Density(Protocol):
    """What one layer's vectors are judged by."""

    def score(self, features: Tensor) -> Tensor:
        """Return the scores (n,) of float64 rows."""


class Running(Protocol):
    """What learns a `Density` batch by batch."""

    def update(self, features: Tensor, labels: Tensor | None) -> None:
        """Learn from float64 rows (b, d), and class indices if there are classes."""

    def finish(self, who: str) -> Density:
        """Return the density of all rows, or say what ``who`` lacks."""


class Layered(Detector):
    """A streaming detector whose score is a sum over layers; by default of the features alone.

    Attributes
    ----------
    layers_ : list of str
        The inner layers that are read; empty where it is the features.
    densities_ : list of Density
        Of each layer.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    layers: LayerChoice
    normalize: bool = False
    layers_: list[str]

    @abstractmethod
    def _running(self) -> Running:
        """Return what learns one layer's vectors."""

    def score_layers(self, X: Any) -> Any:
        """Return the scores of each layer, whose sum is ``score(X)``.

        Parameters
        ----------
        X : array, tensor, frame, Dataset or DataLoader of n rows
            Rows to judge.

        Returns
        -------
        array of shape (n, l)
            float64, columns in the order of ``layers_``; a tensor if ``X`` is one.
        """
        self._check_fitted()
        parts = [self._by_layer(seen) for seen in self._checked(X)]
        return restore(torch.cat(parts), X)

    def calibrate(self, X_cal: Any, y_cal: Any = None, weights: Ratio | None = None) -> Self:
        """Keep the scores of in-distribution rows, of each layer too: see ``Detector.calibrate``.

        Parameters
        ----------
        X_cal : array, tensor, frame, Dataset or DataLoader of n rows
            In-distribution rows used neither to train the model nor in ``fit``.
        y_cal : array of shape (n,) or None
            Their labels: the guarantees then hold within each of these classes.
        weights : callable X -> (n,) or None
            Density of the rows to judge over that of the calibration rows, on any scale.

        Returns
        -------
        Layered
            Itself.
        """
        self._check_fitted()
        parts = torch.cat([self._by_layer(seen) for seen in self._checked(X_cal)])
        found = Calibration.of(as_scores(parts.sum(dim=1)), self.model_, X_cal, y_cal, weights)
        self.calibration_ = replace(found, by_layer=as_scores(parts))
        return self

    def _checked(self, X: Any) -> Iterator[Observation]:
        for seen in observed([self], self.model_, X):
            check_observed(seen)
            yield seen

    def _layers(self, model: Model) -> Layers:
        return pooled_layers(model, self.layers)

    def _update(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        self.layers_ = chosen_layers(model, self.layers)
        parts = vectors(observation, self.layers_, self.normalize)
        if not hasattr(self, "running_"):
            self.running_ = [self._running() for _ in parts]
        for running, part in zip(self.running_, parts, strict=True):
            running.update(part, labels)

    def _finish(self, model: Model) -> None:
        name = type(self).__name__
        self.densities_ = [running.finish(name) for running in self.running_]

    def _score(self, observation: Observation) -> Tensor:
        return self._by_layer(observation).sum(dim=1)

    def _by_layer(self, observation: Observation) -> Tensor:
        parts = vectors(observation, self.layers_, self.normalize)
        pairs = zip(self.densities_, parts, strict=True)
        return torch.stack([density.score(part) for density, part in pairs], dim=1)
