"""Detectors of the features, or of several inner layers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from trustml.core.validation import restore
from trustml.model import Model, Observation
from trustml.model.passes import Layers
from trustml.ood._detector import Detector
from trustml.ood._layers import LayerChoice, chosen_layers, pooled_layers, vectors
from trustml.ood._stream import observed


class Layered(Detector):
    """A streaming detector whose score is a sum over layers; by default of the features alone.

    Attributes
    ----------
    layers_ : list of str
        The inner layers that are read; empty where it is the features.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    layers: LayerChoice
    normalize: bool = False
    layers_: list[str]

    @abstractmethod
    def _learn(self, parts: Sequence[Tensor], labels: Tensor | None) -> None:
        """Learn from float64 vectors (b, d) of each layer."""

    @abstractmethod
    def _layer_scores(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Return scores (n,) of each layer's vectors."""

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
        parts = [self._by_layer(seen) for seen in observed([self], self.model_, X)]
        return restore(torch.cat(parts), X)

    def _layers(self, model: Model) -> Layers:
        return pooled_layers(model, self.layers)

    def _update(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        self.layers_ = chosen_layers(model, self.layers)
        self._learn(vectors(observation, self.layers_, self.normalize), labels)

    def _score(self, observation: Observation) -> Tensor:
        return self._by_layer(observation).sum(dim=1)

    def _by_layer(self, observation: Observation) -> Tensor:
        parts = vectors(observation, self.layers_, self.normalize)
        return torch.stack(self._layer_scores(parts), dim=1)
