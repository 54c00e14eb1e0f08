"""Losses of one-against-rest margins: squared hinge, least squares on plus and minus one."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from trustml.core.losses import OutputLoss


class Margin(OutputLoss):
    r"""Sum over outputs of a function of the margin :math:`m_k = s_k f_k`.

    The sign :math:`s_k` is +1 for the example's class and -1 otherwise; with one output it is
    +1 for class 1 and -1 for class 0.

    Parameters
    ----------
    shape : {"squared_hinge", "squared"}
        ``max(0, 1 - m)**2`` (linear SVM) or ``(1 - m)**2`` (ridge classifier).
    positive_weight : Tensor of shape (c,) or None
        Weight of output k's term where k is the example's class; its other terms have weight 1.
        This is how liblinear reads class weights of three or more classes.
    """

    def __init__(
        self,
        shape: Literal["squared_hinge", "squared"],
        positive_weight: Tensor | None = None,
    ) -> None:
        self.shape, self.positive_weight = shape, positive_weight
        self.name = f"{shape} margin"
        self.unit = "squared margin"

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each example, (n,)."""
        gap, sign = self._gap(outputs, targets)
        return (self._weight(sign) * gap.square()).sum(1)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the derivative with respect to the outputs, in their shape."""
        gap, sign = self._gap(outputs, targets)
        return (-2 * self._weight(sign) * gap * sign).reshape(outputs.shape)

    def hessian_product(self, outputs: Tensor, targets: Tensor, vectors: Tensor) -> Tensor:
        """Return the (diagonal) output Hessian times ``vectors``."""
        return (self._curvature(outputs, targets) * flat(vectors)).reshape(vectors.shape)

    def hessian_factor(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return S of shape (n, c, c) with S S' the output Hessian."""
        return torch.diag_embed(self._curvature(outputs, targets).sqrt())

    def sample(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Refuse: a margin loss is no likelihood.

        Raises
        ------
        TypeError
            Always.
        """
        raise TypeError(
            f"the {self.name} loss is not a likelihood, so there is no Fisher matrix; "
            'use curvature="gauss_newton" or "hessian"'
        )

    def _gap(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        f = flat(outputs)
        if f.shape[1] == 1:
            sign = 2 * targets.to(f.dtype).reshape(-1, 1) - 1
        else:
            sign = 2 * torch.nn.functional.one_hot(targets, f.shape[1]).to(f.dtype) - 1
        gap = 1 - sign * f
        return (gap.clamp_min(0) if self.shape == "squared_hinge" else gap), sign

    def _curvature(self, outputs: Tensor, targets: Tensor) -> Tensor:
        gap, sign = self._gap(outputs, targets)
        active = gap > 0 if self.shape == "squared_hinge" else torch.ones_like(gap)
        return 2 * self._weight(sign) * active.to(gap.dtype)

    def _weight(self, sign: Tensor) -> Tensor:
        if self.positive_weight is None:
            return torch.ones_like(sign)
        return torch.where(sign > 0, self.positive_weight.to(sign), 1.0)


class ClassWeighted(OutputLoss):
    """Another loss times the weight of the example's class.

    Parameters
    ----------
    base : OutputLoss
        The unweighted loss.
    weight : Tensor of shape (c,)
        Weight of each class.
    """

    def __init__(self, base: OutputLoss, weight: Tensor) -> None:
        self.base, self.weight = base, weight
        self.name = f"class-weighted {base.name}"
        self.unit = base.unit

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each example, (n,)."""
        return self._of(outputs, targets) * self.base(outputs, targets)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the derivative with respect to the outputs, in their shape."""
        inner = self.base.gradient(outputs, targets)
        return _rows(self._of(outputs, targets), inner) * inner

    def hessian_product(self, outputs: Tensor, targets: Tensor, vectors: Tensor) -> Tensor:
        """Return the output Hessian times ``vectors``."""
        inner = self.base.hessian_product(outputs, targets, vectors)
        return _rows(self._of(outputs, targets), inner) * inner

    def hessian_factor(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return S of shape (n, c, r) with S S' the output Hessian."""
        inner = self.base.hessian_factor(outputs, targets)
        return _rows(self._of(outputs, targets).sqrt(), inner) * inner

    def sample(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw targets from the model's own distribution, as the unweighted loss does."""
        return self.base.sample(outputs, generator)

    def _of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        weight = self.weight.to(outputs.device, outputs.dtype)
        return weight[targets.long().reshape(-1)]


def flat(outputs: Tensor) -> Tensor:
    """Return outputs as (n, c)."""
    return outputs.reshape(len(outputs), -1)


def _rows(weight: Tensor, like: Tensor) -> Tensor:
    """Give (n,) the trailing axes of ``like``."""
    return weight.reshape(-1, *[1] * (like.ndim - 1))
