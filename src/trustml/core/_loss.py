"""The face of a loss on outputs, and the loss that autodiff derives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor


class OutputLoss(ABC):
    """A loss of one example's outputs f and target y, with its derivatives with respect to f.

    Outputs are (n, c), (n, 1), (n,), or (n, t, c) for sequences; rows never mix, and nothing is
    averaged over the n rows.

    Attributes
    ----------
    name : str
        What it is called in reports.
    unit : str
        What a difference of losses is measured in.
    """

    name: str
    unit: str

    @abstractmethod
    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the losses, shape (n,); differentiable with respect to ``outputs``."""

    @abstractmethod
    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the gradient with respect to the outputs, in their shape."""

    @abstractmethod
    def hessian_product(self, outputs: Tensor, targets: Tensor, vectors: Tensor) -> Tensor:
        """Return each row's output Hessian times its row of ``vectors``, in their shape."""

    @abstractmethod
    def hessian_factor(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return S of shape (n, c, r): S S' is the PSD part of the Hessian of flat outputs."""

    def hessian_root(self, outputs: Tensor, targets: Tensor, vectors: Tensor) -> Tensor:
        """Return S v of each row's vectors v (n, r, c), S as in ``hessian_factor``."""
        return vectors @ self.hessian_factor(outputs, targets).mT

    @abstractmethod
    def sample(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return targets drawn from the distribution that the outputs stand for."""


def flat(outputs: Tensor) -> Tensor:
    """Return outputs as (n, c)."""
    return outputs.reshape(len(outputs), -1)


def diagonal_factor(curvature: Tensor) -> Tensor:
    """Return the factor (n, c, c) of a diagonal Hessian with this diagonal."""
    return torch.diag_embed(flat(curvature).clamp_min(0).sqrt())


class Autodiff(OutputLoss):
    """Any differentiable loss; derivatives by autodiff, the factor by eigendecomposition.

    Parameters
    ----------
    function : callable
        ``(outputs, targets) -> losses`` of shape (n,), without averaging over rows.
    name : str or None
        None takes the function's own.

    Examples
    --------
    >>> loss = Autodiff(lambda f, y: (f - y).pow(4).sum(1))
    >>> loss.gradient(torch.ones(1, 1), torch.zeros(1, 1))
    tensor([[4.]])
    """

    unit = "loss"

    def __init__(
        self, function: Callable[[Tensor, Tensor], Tensor], name: str | None = None
    ) -> None:
        if not callable(function):
            raise TypeError(f"a loss must be callable, got {type(function).__name__}")
        self.function = function
        self.name = name or str(getattr(function, "__name__", type(function).__name__))

    def __repr__(self) -> str:
        return f"Autodiff({self.name})"

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the losses, shape (n,).

        Parameters
        ----------
        outputs : Tensor of shape (n, ...)
            Model outputs.
        targets : Tensor of shape (n, ...)
            Targets.

        Returns
        -------
        Tensor of shape (n,)

        Raises
        ------
        TypeError
            If the function does not return a tensor.
        ValueError
            If it does not return one loss a row.
        """
        losses = self.function(outputs, targets)
        if not isinstance(losses, Tensor):
            raise TypeError(
                f"the loss {self.name} must return a torch tensor, got {type(losses).__name__}; "
                "write it with torch functions of the outputs"
            )
        if losses.shape[:1] != outputs.shape[:1] or losses.numel() != len(outputs):
            raise ValueError(
                f"the loss {self.name} must return one loss a row, shape ({len(outputs)},), got "
                f"{tuple(losses.shape)}; do not average or sum over rows (reduction='none')"
            )
        return losses.reshape(-1)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the gradient with respect to the outputs.

        Parameters
        ----------
        outputs, targets : Tensor
            As in a call.

        Returns
        -------
        Tensor, like outputs
        """
        with torch.enable_grad():
            return self._gradient(outputs.detach().requires_grad_(), targets, graph=False)

    def hessian_product(self, outputs: Tensor, targets: Tensor, vectors: Tensor) -> Tensor:
        """Return each row's Hessian times its vector.

        Parameters
        ----------
        outputs, targets : Tensor
            As in a call.
        vectors : Tensor, like outputs
            One a row.

        Returns
        -------
        Tensor, like outputs
        """
        with torch.enable_grad():
            f = outputs.detach().requires_grad_()
            gradient = self._gradient(f, targets, graph=True)
            if not gradient.requires_grad:
                return torch.zeros_like(vectors)
            (product,) = torch.autograd.grad(
                gradient, f, vectors, allow_unused=True, materialize_grads=True
            )
        return product

    def hessian_factor(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return S with S S' the PSD part of the Hessian.

        Parameters
        ----------
        outputs, targets : Tensor
            As in a call.

        Returns
        -------
        Tensor of shape (n, c, c)
        """
        c = flat(outputs).shape[1]
        basis = torch.eye(c, dtype=outputs.dtype, device=outputs.device)
        columns = [
            flat(self.hessian_product(outputs, targets, e.expand(len(outputs), c).view_as(outputs)))
            for e in basis
        ]
        hessian = torch.stack(columns, dim=2).double()
        values, vectors = torch.linalg.eigh((hessian + hessian.mT) / 2)
        factor: Tensor = (vectors * values.clamp_min(0).sqrt()[:, None, :]).to(outputs.dtype)
        return factor

    def sample(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Refuse: a bare function has no distribution.

        Parameters
        ----------
        outputs : Tensor
            Model outputs.
        generator : torch.Generator or None
            Not used.

        Raises
        ------
        TypeError
            Always.
        """
        raise TypeError(
            f"the loss {self.name} is a function, not a likelihood: no targets can be drawn from "
            "it; use CrossEntropy, BinaryCrossEntropy, SquaredError or Poisson, or the empirical "
            "Fisher"
        )

    def _gradient(self, f: Tensor, targets: Tensor, graph: bool) -> Tensor:
        losses = self(f, targets)
        if not losses.requires_grad:
            raise TypeError(
                f"the loss {self.name} is not differentiable with respect to the outputs; write it "
                "with torch functions, without detach(), item() or numpy"
            )
        (gradient,) = torch.autograd.grad(
            losses.sum(), f, create_graph=graph, allow_unused=True, materialize_grads=True
        )
        return gradient
