"""Per-example gradients: rows of them, their products with vectors, norms and projections."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from trustml.core._backends import Backend, Cotangents, Read, Terms
from trustml.core._probe import choose_backend, rows_of
from trustml.core.batches import Inputs
from trustml.core.modes import evaluating, mixed_precision
from trustml.core.parameters import ParameterSpace
from trustml.core.projections import Projection
from trustml.core.validation import check_choice


class PerExampleGradients:
    """Gradients of each example's outputs, along directions (cotangents) in output space.

    With the gradient of a loss as cotangent these are per-example loss gradients; with a factor
    of its Hessian, the rows of a Gauss-Newton matrix. Rows must not mix in the module, which runs
    in eval mode and is left as it was.

    Parameters
    ----------
    module : nn.Module
        The model.
    space : ParameterSpace
        Which parameters; frozen ones too.
    backend : "auto", "hooks", "vmap" or "loop"
        The first batch is tried on a few rows against the loop. "auto" takes the first that agrees
        to 1e-5; a named backend that does not agree is refused.

    Attributes
    ----------
    backend : str
        What is used; "auto" until the first batch.
    reason : str
        Why.
    dtype : torch.dtype
        Of the gradients: the parameters', float32 where they have half precision.

    Raises
    ------
    TypeError
        If the module is a TorchScript or DataParallel module.

    Examples
    --------
    >>> net = nn.Linear(3, 2)
    >>> gradients = PerExampleGradients(net, ParameterSpace(net))
    >>> outputs, rows = gradients.rows(torch.ones(5, 3), torch.ones_like)
    >>> rows.shape
    torch.Size([5, 8])
    """

    def __init__(
        self,
        module: nn.Module,
        space: ParameterSpace,
        backend: Literal["auto", "hooks", "vmap", "loop"] = "auto",
    ) -> None:
        check_choice(backend, "backend", ("auto", "hooks", "vmap", "loop"))
        if isinstance(module, (torch.jit.ScriptModule, nn.DataParallel)):
            raise TypeError(
                f"a {type(module).__name__} cannot be run with other parameters than its own; pass "
                "the plain nn.Module that it was made of, or an exported one (torch.export)"
            )
        self.module, self.space = module, space
        self.dtype = torch.promote_types(space.dtype, torch.float32)
        self.backend: str = backend
        self.reason = "not tried on a batch yet"
        self._chosen: Backend | None = None

    def rows(self, inputs: Inputs, cotangents: Cotangents) -> tuple[Tensor, Tensor]:
        """Return each example's gradient: ``J_i' u_i``.

        Parameters
        ----------
        inputs : Tensor, dict or tuple of Tensor
            One batch of n rows.
        cotangents : callable
            Maps the outputs (n, ...) to directions u in their shape, or to r of them a row:
            (n, r, ...), or (n, r, c) with the outputs flattened.

        Returns
        -------
        outputs : Tensor of shape (n, ...)
            Detached.
        rows : Tensor of shape (n, p) or (n, r, p)
            In the order of the parameter space.
        """
        return self.measure(inputs, cotangents, rows_of)

    def dot(self, inputs: Inputs, cotangents: Cotangents, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return each example's gradient times vectors: ``u_i' J_i V``, without n x p memory.

        Parameters
        ----------
        inputs, cotangents
            As for ``rows``.
        vectors : Tensor of shape (p, k)
            In the order of the parameter space; used in ``dtype``.

        Returns
        -------
        outputs : Tensor of shape (n, ...)
            Detached.
        products : Tensor of shape (n, k) or (n, r, k)

        Raises
        ------
        ValueError
            If ``vectors`` is not (p, k).
        """
        if vectors.ndim != 2 or len(vectors) != self.space.size:
            raise ValueError(
                f"vectors must have shape ({self.space.size}, k), got {tuple(vectors.shape)}"
            )

        columns = vectors.detach().to(self.space.device, self.dtype)

        def read(terms: Terms) -> Tensor:
            return torch.stack([term.dot(columns[s]) for s, term in terms]).sum(0)

        return self.measure(inputs, cotangents, read)

    def squared_norm(self, inputs: Inputs, cotangents: Cotangents) -> Tensor:
        """Return the squared norm of each example's gradient.

        Parameters
        ----------
        inputs, cotangents
            As for ``rows``.

        Returns
        -------
        Tensor of shape (n,) or (n, r)
        """
        return self.measure(inputs, cotangents, _squared_norm)[1]

    def project(
        self, inputs: Inputs, cotangents: Cotangents, projection: Projection
    ) -> tuple[Tensor, Tensor]:
        """Return each example's gradient in fewer dimensions, without n x p memory.

        Parameters
        ----------
        inputs, cotangents
            As for ``rows``.
        projection : Projection
            Made for the same parameter space.

        Returns
        -------
        outputs : Tensor of shape (n, ...)
            Detached.
        projected : Tensor of shape (n, k) or (n, r, k)

        Raises
        ------
        ValueError
            If the projection is one of another parameter space.
        """
        if projection.width != self.space.size:
            raise ValueError(
                f"the projection takes {projection.width} parameters and the space has "
                f"{self.space.size}; make it of the same space"
            )
        return self.measure(inputs, cotangents, projection.of)

    def measure(self, inputs: Inputs, cotangents: Cotangents, read: Read) -> tuple[Tensor, Tensor]:
        """Return what a function reads off the gradients, in the form in which they are known.

        Parameters
        ----------
        inputs, cotangents
            As for ``rows``.
        read : callable
            Maps a list of (slice, Term), one for each parameter in the order of the space, to a
            tensor with a row for each example that the terms hold: some of the batch or all. It
            is called for each direction in turn.

        Returns
        -------
        outputs : Tensor of shape (n, ...)
            Detached.
        read : Tensor of shape (n, ...) or (n, r, ...)
        """
        with evaluating(self.module), torch.inference_mode(False):
            if self._chosen is None:
                with mixed_precision(None):  # backends are compared to 1e-5
                    self._chosen, self.reason = choose_backend(
                        self.module, self.space, self.backend, inputs
                    )
                self.backend = self._chosen.name
            return self._chosen.measure(inputs, cotangents, read)


def _squared_norm(terms: Terms) -> Tensor:
    return torch.stack([term.squared_norm() for _, term in terms]).sum(0)
