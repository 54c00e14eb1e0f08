"""The last layer as a module of its own, and its posterior variance in two structures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from trustml.core.losses import OutputLoss
from trustml.core.parameters import ParameterSpace
from trustml.ihvp import Dense, GaussNewton, Objective, factorize, top_eigenpairs
from trustml.model import Model
from trustml.ood._heldout_damping import heldout_damping, relative_damping
from trustml.ood._output_curvature import add_curvature, curvature_traces, rotated_curvature

_ROWS = 128  # features of so many rows are in float64 at once


@dataclass(frozen=True)
class LastLayer:
    """A model's last layer, computed in float64, with its loss.

    Attributes
    ----------
    weight : Tensor of shape (c, h)
        Of the model, in its precision: a copy would double what a large head takes.
    bias : Tensor of shape (c,) or None
        Of the model.
    loss : OutputLoss
        Of the outputs.
    decay : dict of str to float
        L2 term of "weight" and "bias", where it is known.
    """

    weight: Tensor
    bias: Tensor | None
    loss: OutputLoss
    decay: dict[str, float]

    @classmethod
    def of(cls, model: Model) -> LastLayer:
        """Return a model's."""
        layer = cast("nn.Linear", model.module.get_submodule(str(model.head_name)))
        bias = None if layer.bias is None else layer.bias.detach()
        return cls(layer.weight.detach(), bias, model.loss_fn, _weight_decay(model, layer))

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs c, and numbers m of an input: h, and 1 for a bias."""
        c, h = self.weight.shape
        return c, h + (self.bias is not None)

    def module(self) -> nn.Linear:
        """Return a float64 copy as a module of its own."""
        c, h = self.weight.shape
        # Made without memory first: the usual constructor would draw from the global generator.
        head = nn.Linear(h, c, self.bias is not None, device="meta", dtype=torch.float64)
        head = head.to_empty(device=self.weight.device)
        parts = {"weight": self.weight, "bias": self.bias}
        head.load_state_dict({name: part for name, part in parts.items() if part is not None})
        return head.eval()

    def outputs(self, features: Tensor) -> Tensor:
        """Return the outputs (n, c) of features in any precision."""
        bias = None if self.bias is None else self.bias.double()
        return nn.functional.linear(features.double(), self.weight.double(), bias)

    def inputs(self, features: Tensor) -> Tensor:
        """Return features in float64, a 1 appended for a bias."""
        inputs = features.double()
        return inputs if self.bias is None else nn.functional.pad(inputs, (0, 1), value=1.0)

    def input_decay(self) -> Tensor:
        """Return the L2 term of the weights of each input, (m,)."""
        decay = torch.full((self.shape[1],), self.decay.get("weight", 0.0), dtype=torch.float64)
        if self.bias is not None:
            decay[-1] = self.decay.get("bias", 0.0)
        return decay.to(self.weight.device)


class Posterior(ABC):
    """The damped inverse curvature of a last layer."""

    layer: LastLayer
    damping: float
    numbers: int  # in memory for each row that is asked about

    @abstractmethod
    def variance(self, features: Tensor, targets: Tensor) -> Tensor:
        """Return tr(Λ J (G + λ)⁻¹ J') of features (n, h), shape (n,)."""


class FullPosterior(Posterior):
    """The whole Gauss-Newton matrix: memory (c m)²."""

    def __init__(
        self,
        layer: LastLayer,
        features: Tensor,
        targets: Tensor,
        held: Tensor,
        damping: float | None,
    ) -> None:
        self.layer = layer
        c, m = layer.shape
        self.numbers = c * (c + m)
        known = self._curvature(features[~held], targets[~held])
        total = known
        decay = self._flat(layer.input_decay().expand(c, m))
        if bool(held.any()):
            new = self._curvature(features[held], targets[held])
            share = float(held.double().mean())
            if damping is None:
                values, vectors = top_eigenpairs(Dense(known), c * m)
                moments = ((new @ vectors) * vectors).sum(dim=0)
                damping = heldout_damping(values, moments, vectors.square().T @ decay)
            total = (1 - share) * known + share * new
        self.damping = relative_damping(total.diagonal()) if damping is None else damping
        operator = Dense(total + torch.diag(decay), is_psd=True) + self.damping
        inverse = factorize(operator, method="cholesky").apply(
            torch.eye(c * m, dtype=torch.float64, device=total.device)
        )
        places = self._places(c, m).flatten()
        self._inverse = inverse[places][:, places].view(c, m, c * m)

    def _curvature(self, features: Tensor, targets: Tensor) -> Tensor:
        data = (features.double(), targets)
        return GaussNewton(Objective(self.layer.module(), self.layer.loss, data)).dense()

    def _places(self, c: int, m: int) -> Tensor:
        """Return where the engine has the parameters of each output and input, (c, m)."""
        h = self.layer.weight.shape[1]
        weights = torch.arange(c * h).view(c, h)
        return torch.cat([weights, torch.arange(c * h, c * m).view(c, -1)], dim=1)

    def _flat(self, matrix: Tensor) -> Tensor:
        """Return a matrix (c, m) as a vector in the engine's order."""
        flat = matrix.new_empty(matrix.numel())
        flat[self._places(*matrix.shape).to(flat.device)] = matrix
        return flat

    def variance(self, features: Tensor, targets: Tensor) -> Tensor:
        """Return tr(Λ J (G + λ)⁻¹ J'), from m² products for each pair of outputs."""
        inputs, (c, m, _) = self.layer.inputs(features), self._inverse.shape
        factor = self.layer.loss.hessian_factor(self.layer.outputs(features), targets)
        among = inputs.new_empty(len(inputs), c, c)
        for j in range(c):  # it is symmetric
            through = (inputs @ self._inverse[j, :, : (j + 1) * m]).view(-1, j + 1, m)
            among[:, j, : j + 1] = (through @ inputs[:, :, None])[:, :, 0]
            among[:, :j, j] = among[:, j, :j]
        return (factor * (among @ factor)).sum(dim=(1, 2)).clamp_min(0)


class KroneckerPosterior(Posterior):
    """The Gauss-Newton matrix's diagonal in the eigenbasis of two factors: memory m² + c² + c m."""

    def __init__(
        self,
        layer: LastLayer,
        features: Tensor,
        targets: Tensor,
        held: Tensor,
        damping: float | None,
    ) -> None:
        self.layer = layer
        self.numbers = sum(layer.shape)
        self._outer, self._inner = self._bases(features, targets, ~held)
        known = self._values(features, targets, ~held)
        total = known
        decay = (self._inner.square().T @ layer.input_decay()).expand_as(known)
        if bool(held.any()):
            new, share = self._values(features, targets, held), float(held.double().mean())
            if damping is None:
                damping = heldout_damping(known.flatten(), new.flatten(), decay.flatten())
            total = known.mul_(1 - share).add_(new, alpha=share)
        self.damping = relative_damping(total) if damping is None else damping
        total = total + decay + self.damping
        self._scale = torch.where(total > 0, 1 / total, 0.0)

    def _bases(self, features: Tensor, targets: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        """Return eigenvectors of the partial traces Σ |φ|² Λ and Σ tr(Λ) φφ' over some rows."""
        c, m = self.layer.shape
        outer = features.new_zeros(c, c, dtype=torch.float64)
        traces = features.new_zeros(len(features), dtype=torch.float64)
        for some in self._blocks(features, which):
            own, sizes = targets[some], self.layer.inputs(features[some]).square().sum(dim=1)
            outputs = self.layer.outputs(features[some])
            add_curvature(outer, self.layer.loss, outputs, own, sizes)
            traces[some] = curvature_traces(self.layer.loss, outputs, own)
        outer = torch.linalg.eigh(outer)[1]
        inner = features.new_zeros(m, m, dtype=torch.float64)
        for some in self._blocks(features, which):
            inputs = self.layer.inputs(features[some])
            inner.addmm_(inputs.T, inputs * traces[some, None])
        return outer, torch.linalg.eigh(inner)[1]

    def _blocks(self, features: Tensor, which: Tensor) -> tuple[Tensor, ...]:
        return torch.split(which.nonzero().flatten().to(features.device), _ROWS)

    def _values(self, features: Tensor, targets: Tensor, which: Tensor) -> Tensor:
        """Return the diagonal in the eigenbasis of some rows' mean curvature, (c, m)."""
        total = features.new_zeros(len(self._outer), len(self._inner), dtype=torch.float64)
        for some in self._blocks(features, which):
            curved, inputs = self._turned(features[some], targets[some])
            total.addmm_(curved.T, inputs)
        return total / max(1, int(which.sum()))

    def _turned(self, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.layer.outputs(features)
        curved = rotated_curvature(self.layer.loss, outputs, targets, self._outer)
        return curved, (self.layer.inputs(features) @ self._inner).square_()

    def variance(self, features: Tensor, targets: Tensor) -> Tensor:
        """Return tr(Λ J (G + λ)⁻¹ J'), from c m products a row."""
        curved, inputs = self._turned(features, targets)
        return ((curved @ self._scale) * inputs).sum(dim=1)


def _weight_decay(model: Model, layer: nn.Linear) -> dict[str, float]:
    """Return the L2 term of the last layer's weight and bias, where the model knows it."""
    try:
        weight_decay = model.weight_decay
    except (TypeError, ValueError):
        # Without the training rows, or a mean loss plus an L2 term, the damping stands alone.
        return {}
    space = ParameterSpace(model.module, "last_layer", head=model.head_name)
    decays = space.unflatten(space.expand(weight_decay))
    named = dict(model.module.named_parameters())
    # A reparametrised weight (weight norm) is no parameter of the module: its L2 term is unknown.
    return {
        key: float(decay.flatten()[0])
        for key, parameter in (("weight", layer.weight), ("bias", layer.bias))
        for name, decay in decays.items()
        if named[name] is parameter
    }
