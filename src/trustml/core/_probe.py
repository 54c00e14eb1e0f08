"""Which backend is right for a module: each is tried on a few rows against the loop."""

from __future__ import annotations

import warnings
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trustml.core._backends import Backend, Hooks, Loop, Terms, Vmap
from trustml.core.batches import Inputs, apply, batch_length, is_out_of_memory
from trustml.core.modes import precision
from trustml.core.parameters import ParameterSpace
from trustml.core.validation import check_finite
from trustml.warnings import BackendWarning, DeterminismWarning

_ROWS = 3
_TOLERANCE = 1e-5
_ROUNDING = 1e-2  # a disagreement above this is no matter of rounding, except in half precision
_MIXED = "depends on the other rows of its batch, and no gradient belongs to one example"
_HALF = (torch.float16, torch.bfloat16)


def choose_backend(
    module: nn.Module, space: ParameterSpace, wanted: str, inputs: Inputs
) -> tuple[Backend, str]:
    """Return the first backend that agrees with the loop on a few rows, and why it is taken."""
    spread = torch.linspace(0, batch_length(inputs) - 1, _ROWS).long()  # rows may be sorted
    probe = apply(lambda x: x[spread.to(x.device)].detach(), inputs)
    loop = Loop(module, space)
    _check_rows_apart(loop, probe)
    reference = _random_gradients(loop, probe)
    if not bool(torch.isfinite(reference).all()):
        raise ValueError(
            "gradients of the module's outputs are NaN or infinite; is there a square root, a "
            "logarithm or a norm at 0, or an overflow?"
        )
    if wanted == "loop":
        return loop, "asked for"
    faults: list[str] = []
    for kind in (Hooks, Vmap):
        if wanted not in ("auto", kind.name):
            continue
        backend = kind(module, space)
        fault = _fault(backend, probe, reference)
        if fault is None:
            agrees = f"{kind.name} agrees with the loop to {_TOLERANCE:g}"
            return backend, "; ".join([agrees, *faults])
        faults.append(f"{kind.name}: {fault}")
    if wanted != "auto":
        raise ValueError(
            f"backend {wanted!r} does not work for this module ({'; '.join(faults)}); use "
            'backend="auto"'
        )
    warnings.warn(
        f"per-example gradients take one backward pass a row, because {'; '.join(faults)}. Select "
        "fewer parameters, or build the module from Linear, Conv, Embedding and norm layers",
        BackendWarning,
        stacklevel=5,
    )
    return loop, "; ".join(faults)


def _check_rows_apart(loop: Loop, probe: Inputs) -> None:
    """Refuse a module that mixes the rows of a batch; warn of one that is not deterministic."""
    for name, part in loop.module.named_modules():
        if isinstance(part, _BatchNorm) and part.running_mean is None:
            raise ValueError(
                f"{name or 'the module'} normalises by the batch even in eval mode, so the output "
                f"for a row {_MIXED}; build it with track_running_stats=True"
            )
    tensors = loop.tensors(graph=False)
    with torch.no_grad():
        together, again = loop.call(tensors, probe), loop.call(tensors, probe)
        alone = [
            loop.call(tensors, apply(lambda x, i=i: x[i : i + 1], probe))  # type: ignore[misc]
            for i in range(_ROWS)
        ]
    if together.shape[:1] != (_ROWS,):
        raise ValueError(
            f"the module's output must have one row for each row of the batch, got "
            f"{tuple(together.shape)} for {_ROWS} rows"
        )
    check_finite(together, "the module's output")
    tolerance = 1e-6 if together.dtype == torch.float64 else 1e-2
    if _distance(together, again) > tolerance:
        warnings.warn(
            "two identical calls of the module gave different outputs in eval mode; its gradients "
            "are those of one draw. Is there dropout that ignores eval()?",
            DeterminismWarning,
            stacklevel=6,
        )
    elif _distance(together, torch.cat(alone)) > tolerance:
        raise ValueError(
            f"the module's output for a row {_MIXED}; is there a mean or a norm over axis 0?"
        )


def _fault(backend: Backend, probe: Inputs, reference: Tensor) -> str | None:
    """Return what is wrong with a backend, None if it agrees with the loop."""
    if isinstance(backend, Hooks) and backend.uncovered and not backend.layers:
        return f"{', '.join(backend.uncovered[:5])} belong to the whole module, not to a layer"
    try:
        error = _disagreement(backend, probe, reference)
        dtype = backend.space.dtype
        coarse = dtype in _HALF or precision() is not None
        if error > _TOLERANCE and (error < _ROUNDING or coarse) and dtype != torch.float64:
            error = _disagreement_in_double(backend, probe)
    except Exception as problem:  # whatever a module's own code raises under vmap or hooks
        if is_out_of_memory(problem):
            raise
        return f"{type(problem).__name__}: {str(problem).strip().partition(chr(10))[0]}"
    return None if error <= _TOLERANCE else f"differs from the loop by {error:.1e} (relative)"


def _disagreement(backend: Backend, probe: Inputs, reference: Tensor) -> float:
    """Return the largest relative difference over the parameters."""
    rows = _random_gradients(backend, probe)
    # Gradients that vanish but for rounding are measured against the others.
    floor = 1e-2 * float(reference.norm()) or 1.0
    return max(
        float((rows[:, s] - reference[:, s]).norm()) / (float(reference[:, s].norm()) + floor)
        for s in backend.space.slices.values()
    )


def _disagreement_in_double(backend: Backend, probe: Inputs) -> float:
    module = deepcopy(backend.module).double()
    space = backend.space.on(module)
    wide = apply(lambda x: x.double() if x.is_floating_point() else x, probe)
    reference = _random_gradients(Loop(module, space), wide)
    return _disagreement(type(backend)(module, space), wide, reference)


def _random_gradients(backend: Backend, probe: Inputs) -> Tensor:
    """Return gradients along fixed random directions."""

    def random(outputs: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(outputs.shape, generator=generator).to(outputs)

    return backend.measure(probe, random, rows_of)[1]


def rows_of(terms: Terms) -> Tensor:
    """Read the gradients themselves, (n, p)."""
    first = terms[0][1]
    out = first.like.new_empty(first.n, terms[-1][0].stop)
    for s, term in terms:
        term.write(out[:, s])
    return out


def _distance(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return float("inf")
    scale = float(b.double().norm())
    return float((a.double() - b.double()).norm()) / (scale or 1.0)
