"""Losses on one number an output that are negative log-likelihoods, derivatives in closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from trustml.core._loss import OutputLoss, diagonal_factor, flat


def aligned(targets: Tensor, outputs: Tensor, name: str) -> Tensor:
    """Return targets in the shape, dtype and device of the outputs, or refuse."""
    squeezed = [size for size in targets.shape[1:] if size != 1]
    wanted = [size for size in outputs.shape[1:] if size != 1]
    if targets.shape[:1] != outputs.shape[:1] or squeezed != wanted:
        raise ValueError(
            f"{name} needs targets in the shape of the outputs {tuple(outputs.shape)}, got "
            f"{tuple(targets.shape)}"
        )
    return targets.reshape(outputs.shape).to(outputs)


class SquaredError(OutputLoss):
    """Squared error ``(f - y)²``, unhalved and summed over outputs.

    As a likelihood: a Gaussian of variance ½ around each output.

    Examples
    --------
    >>> SquaredError()(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]]))
    tensor([5.])
    """

    name = "squared error"
    unit = "squared target units"

    def __repr__(self) -> str:
        return "SquaredError()"

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the losses, shape (n,)."""
        return flat((outputs - aligned(targets, outputs, self.name)).square()).sum(1)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return ``2 (f - y)``."""
        return 2 * (outputs - aligned(targets, outputs, self.name))

    def hessian_product(self, outputs: Tensor, targets: Tensor, vectors: Tensor) -> Tensor:
        """Return ``2 v``."""
        return 2 * vectors

    def hessian_factor(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return ``√2 I`` of shape (n, c, c)."""
        return diagonal_factor(torch.full_like(outputs, 2.0))

    def sample(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return normal draws of variance ½ around the outputs."""
        noise = torch.randn(
            outputs.shape, generator=generator, dtype=outputs.dtype, device=outputs.device
        )
        return outputs + noise * math.sqrt(0.5)


class BinaryCrossEntropy(OutputLoss):
    """Negative log-likelihood in nats of 0/1 targets given logits, summed over outputs.

    One output is a binary classifier, several are independent labels. Soft targets in [0, 1] are
    welcome.

    Parameters
    ----------
    pos_weight : Tensor of shape (c,) or None
        Weight of the positive term of each output, as in ``torch.nn.BCEWithLogitsLoss``.

    Examples
    --------
    >>> BinaryCrossEntropy().gradient(torch.zeros(1, 1), torch.ones(1))
    tensor([[-0.5000]])
    """

    name = "binary cross-entropy"
    unit = "nats"

    def __init__(self, pos_weight: Tensor | None = None) -> None:
        self.pos_weight = pos_weight

    def __repr__(self) -> str:
        return f"BinaryCrossEntropy(pos_weight={self.pos_weight})"

    def _terms(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return y, and the weight of softplus(-f)."""
        y = aligned(targets, outputs, self.name)
        if bool(((y < 0) | (y > 1)).any()):
            raise ValueError(
                f"{self.name} needs targets in [0, 1], got {float(y.min()):g} to "
                f"{float(y.max()):g}; encode the labels as 0 and 1"
            )
        if self.pos_weight is None:
            return y, torch.ones_like(y)
        return y, 1 + (self.pos_weight.to(outputs) - 1) * y

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the losses, shape (n,)."""
        y, weight = self._terms(outputs, targets)
        return flat((1 - y) * outputs + weight * F.softplus(-outputs)).sum(1)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return ``σ(f) - y``, with the positive terms weighted."""
        y, weight = self._terms(outputs, targets)
        return (1 - y) - weight * torch.sigmoid(-outputs)

    def _curvature(self, outputs: Tensor, targets: Tensor) -> Tensor:
        _, weight = self._terms(outputs, targets)
        return weight * torch.sigmoid(outputs) * torch.sigmoid(-outputs)

    def hessian_product(self, outputs: Tensor, targets: Tensor, vectors: Tensor) -> Tensor:
        """Return ``σ(f) σ(-f) v``, with the positive terms weighted."""
        return self._curvature(outputs, targets) * vectors

    def hessian_factor(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the diagonal factor of shape (n, c, c)."""
        return diagonal_factor(self._curvature(outputs, targets))

    def sample(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return 0/1 draws with probability ``σ(f)``, as floats like the outputs."""
        return torch.bernoulli(torch.sigmoid(outputs), generator=generator)


class Poisson(OutputLoss):
    """Negative log-likelihood in nats of counts, ``exp(f) - y f``, summed over outputs.

    The term ``log y!`` does not depend on the model and is left out, unless ``full``.

    Parameters
    ----------
    full : bool
        Add Stirling's approximation of ``log y!``, as ``torch.nn.PoissonNLLLoss`` does.

    Examples
    --------
    >>> Poisson().gradient(torch.zeros(1, 1), torch.tensor([3.0]))
    tensor([[-2.]])
    """

    name = "Poisson"
    unit = "nats"

    def __init__(self, full: bool = False) -> None:
        self.full = full

    def __repr__(self) -> str:
        return f"Poisson(full={self.full})"

    def _targets(self, outputs: Tensor, targets: Tensor) -> Tensor:
        y = aligned(targets, outputs, self.name)
        if bool((y < 0).any()):
            raise ValueError(f"{self.name} needs counts of at least 0, got {float(y.min()):g}")
        return y

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the losses, shape (n,)."""
        y = self._targets(outputs, targets)
        terms = F.poisson_nll_loss(outputs, y, full=self.full, reduction="none")
        return flat(terms).sum(1)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return ``exp(f) - y``."""
        return outputs.exp() - self._targets(outputs, targets)

    def hessian_product(self, outputs: Tensor, targets: Tensor, vectors: Tensor) -> Tensor:
        """Return ``exp(f) v``."""
        return outputs.exp() * vectors

    def hessian_factor(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the diagonal factor of shape (n, c, c)."""
        return diagonal_factor(outputs.exp())

    def sample(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return Poisson draws of mean ``exp(f)``."""
        return torch.poisson(outputs.exp(), generator=generator)
