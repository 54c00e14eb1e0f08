"""The last linear layer of a classifier, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trustml.model import Model
from trustml.ood._seen import UnsuitableError


@dataclass(frozen=True, eq=False)
class Head:
    """Weight and bias with a row for each class; the one row w of a binary model is (-w/2, w/2).

    Attributes
    ----------
    weight : Tensor of shape (c, h)
    bias : Tensor of shape (c,)
    """

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, model: Model, mask: Tensor | None = None) -> Head:
        """Return a copy of the model's head; ``mask`` multiplies its own weight."""
        weight, bias = own_head(model)
        if mask is not None:
            weight = weight * mask
        if len(weight) == 1:
            return cls(torch.cat([-weight / 2, weight / 2]), torch.cat([-bias / 2, bias / 2]))
        return cls(weight, bias)

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits (n, c) of float64 features (n, h)."""
        return features @ self.weight.T + self.bias

    def energy(self, features: Tensor) -> Tensor:
        """Return the free energy of the logits, shape (n,)."""
        return -self.logits(features).logsumexp(dim=1)


def own_head(model: Model) -> tuple[Tensor, Tensor]:
    """Return the model's own weight (c, h) and bias (c,) in float64; one row if it is binary."""
    if model.head is None:
        raise UnsuitableError(f"{model!r} has no last linear layer")
    weight, bias = model.head
    return weight.to(torch.float64, copy=True), bias.to(torch.float64, copy=True)
