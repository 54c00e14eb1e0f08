"""Per-example gradients: rows of them, their products with vectors, their norms."""

from __future__ import annotations

import warnings
from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor, nn

from trustml.core._backends import Backend, Cotangents, Hooks, Loop, Read, Terms, Vmap
from trustml.core.batches import Inputs, apply, batch_length, is_out_of_memory
from trustml.core.modes import evaluating
from trustml.core.parameters import ParameterSpace
from trustml.core.validation import check_choice
from trustml.warnings import BackendWarning, DeterminismWarning

_PROBE_ROWS = 3
_TOLERANCE = 1e-5
_ROUNDING = 1e-2  # a disagreement above this is no matter of rounding


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
        self.module, self.space = module, space
        self.backend: str = backend
        self.reason = "asked for" if backend == "loop" else "not tried on a batch yet"
        self._chosen: Backend | None = Loop(module, space) if backend == "loop" else None

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
        return self._measure(inputs, cotangents, _rows)

    def dot(self, inputs: Inputs, cotangents: Cotangents, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return each example's gradient times vectors: ``u_i' J_i V``, without n x p memory.

        Parameters
        ----------
        inputs, cotangents
            As for ``rows``.
        vectors : Tensor of shape (p, k)
            In the order of the parameter space.

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

        def read(terms: Terms) -> Tensor:
            return torch.stack([term.dot(vectors[s]) for s, term in terms]).sum(0)

        return self._measure(inputs, cotangents, read)

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
        return self._measure(inputs, cotangents, _squared_norm)[1]

    def _measure(self, inputs: Inputs, cotangents: Cotangents, read: Read) -> tuple[Tensor, Tensor]:
        with evaluating(self.module):
            if self._chosen is None:
                self._chosen = self._choose(inputs)
                self.backend = self._chosen.name
            return self._chosen.measure(inputs, cotangents, read)

    def _choose(self, inputs: Inputs) -> Backend:
        """Try the backends on a few rows against the loop; say which is taken and why."""
        n = batch_length(inputs)
        take = torch.arange(_PROBE_ROWS) % n
        probe = apply(lambda x: x[take.to(x.device)], inputs)
        loop = Loop(self.module, self.space)
        _check_rows_apart(loop, probe)
        faults = []
        for kind in (Hooks, Vmap):
            if self.backend not in ("auto", kind.name):
                continue
            backend = kind(self.module, self.space)
            fault = _fault(backend, probe)
            if fault is None:
                self.reason = f"{kind.name} agrees with the loop to {_TOLERANCE:g}"
                if faults:
                    self.reason += f"; {'; '.join(faults)}"
                return backend
            faults.append(f"{kind.name}: {fault}")
        if self.backend != "auto":
            raise ValueError(
                f"backend {self.backend!r} does not work for this module ({'; '.join(faults)}); "
                'use backend="auto"'
            )
        self.reason = "; ".join(faults)
        warnings.warn(
            f"per-example gradients take one backward pass a row: {self.reason}. Select fewer "
            "parameters, or build the module from Linear, Conv, Embedding and norm layers",
            BackendWarning,
            stacklevel=4,
        )
        return loop


def _rows(terms: Terms) -> Tensor:
    return torch.cat([term.rows() for _, term in terms], dim=1)


def _squared_norm(terms: Terms) -> Tensor:
    return torch.stack([term.squared_norm() for _, term in terms]).sum(0)


def _check_rows_apart(loop: Loop, probe: Inputs) -> None:
    """Refuse a module that mixes the rows of a batch; warn of one that is not deterministic."""
    with torch.no_grad():
        tensors = loop.tensors(graph=False)
        together, again = loop.call(tensors, probe), loop.call(tensors, probe)
        alone = torch.cat(
            [
                loop.call(tensors, apply(lambda x, i=i: x[i : i + 1], probe))  # type: ignore[misc]
                for i in range(_PROBE_ROWS)
            ]
        )
    if together.shape[:1] != (_PROBE_ROWS,):
        raise ValueError(
            f"the module's output must have one row for each row of the batch, got "
            f"{tuple(together.shape)} for {_PROBE_ROWS} rows"
        )
    tolerance = 1e-6 if together.dtype == torch.float64 else 1e-2
    if _distance(together, again) > tolerance:
        warnings.warn(
            "two identical calls of the module gave different outputs in eval mode; its gradients "
            "are those of one draw. Is there dropout that ignores eval()?",
            DeterminismWarning,
            stacklevel=5,
        )
    elif _distance(together, alone) > tolerance:
        raise ValueError(
            "the module's output for a row depends on the other rows of its batch, so there are no "
            "gradients of single examples; is there a BatchNorm with track_running_stats=False?"
        )


def _fault(backend: Backend, probe: Inputs) -> str | None:
    """Return what is wrong with a backend, None if it agrees with the loop."""
    if isinstance(backend, Hooks) and backend.uncovered:
        return f"no rule for the parameters of {', '.join(backend.uncovered[:5])}"
    try:
        error = _disagreement(backend, probe)
        if _TOLERANCE < error < _ROUNDING and backend.space.dtype != torch.float64:
            module = deepcopy(backend.module).double()
            space = backend.space.on(module)
            wide = apply(lambda x: x.double() if x.is_floating_point() else x, probe)
            error = _disagreement(type(backend)(module, space), wide)
    except Exception as problem:  # whatever a module's own code raises under vmap or hooks
        if is_out_of_memory(problem):
            raise
        return f"{type(problem).__name__}: {str(problem).strip().partition(chr(10))[0]}"
    if error <= _TOLERANCE:
        return None
    return f"differs from the loop by {error:.1e} (relative)"


def _disagreement(backend: Backend, probe: Inputs) -> float:
    """Return the largest relative difference from the loop over the parameters."""
    generator = torch.Generator().manual_seed(0)

    def random(outputs: Tensor) -> Tensor:
        generator.manual_seed(0)
        return torch.randn(outputs.shape, generator=generator).to(outputs)

    _, reference = Loop(backend.module, backend.space).measure(probe, random, _rows)
    _, rows = backend.measure(probe, random, _rows)
    floor = 1e-7 * float(reference.norm())
    return max(
        float((rows[:, s] - reference[:, s]).norm()) / (float(reference[:, s].norm()) + floor)
        if floor
        else float(rows[:, s].norm())
        for s in backend.space.slices.values()
    )


def _distance(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return float("inf")
    scale = float(b.double().norm())
    return float((a.double() - b.double()).norm()) / (scale or 1.0)
