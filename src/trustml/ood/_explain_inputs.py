"""How fast the score of any detector rises with each input."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trustml.core.features import Capture
from trustml.core.modes import refuse_inference_mode
from trustml.core.validation import to_numpy
from trustml.model import Model, Observation
from trustml.ood._detector import Detector
from trustml.ood._fused import Fused
from trustml.ood._isolation_forest import IsolationForest
from trustml.ood._seen import UnsuitableError

_STEPS = (1e-4, 1e-5)  # of the root mean square of what the model saw of a row
_SMOOTH = 0.5  # a jump makes rates by the two steps differ by nearly all of them
_NUMBERS = 2**22  # of moved observations at once

Seen = dict[str, Tensor]
"""Outputs, features and inner layers ("layer ...") of some rows, by name."""


def slopes(detector: Detector, X: Any) -> NDArray[np.float64]:
    """Return the gradient of the score with respect to the inputs.

    The score of any detector is a function of what the model saw: that function is moved a
    little along each number, in float64, and the model is differentiated backwards.

    Parameters
    ----------
    detector : Detector
        Fitted; it reads outputs, features or inner layers, not inputs, and its score is no step
        function.
    X : array, tensor, frame, Dataset or DataLoader of n rows
        Rows of real numbers.

    Returns
    -------
    array of shape (n, ...)
        Like the rows that the module takes.

    Raises
    ------
    UnsuitableError
        If the model has no gradients, or the detector is of another kind.
    """
    refuse_inference_mode("ood.explain")
    model = detector.model_
    if not model.differentiable:
        raise UnsuitableError(f"{model!r} has no gradients")
    if "inputs" in detector.needs:
        raise UnsuitableError(f"{type(detector).__name__} works on the inputs themselves")
    if "gradients" in detector.needs:
        raise UnsuitableError(
            f"{type(detector).__name__} reads gradients, whose slope takes second derivatives"
        )
    if isinstance(detector, IsolationForest):
        raise UnsuitableError("the score of IsolationForest is a step function, not smooth")
    if isinstance(detector, Fused):
        raise UnsuitableError("ranks have no slope; explain one of the members_ of the Fused")
    try:
        inputs = model.continuous_inputs(X, "explain")
    except TypeError as error:
        raise UnsuitableError(str(error)) from error
    rows = [_slope(detector, model, row) for row in torch.split(inputs.detach(), 1)]
    return np.asarray(to_numpy(torch.cat(rows)), dtype=np.float64)


def _slope(detector: Detector, model: Model, row: Tensor) -> Tensor:
    reads, head = detector.reads(model), model.head_name
    inner = sorted({name for name, _ in reads.values()})
    with torch.enable_grad():
        x = row.clone().requires_grad_()
        with Capture(model.module, [] if head is None else [head], inner) as seen:
            outputs = model.outputs(x.clone())  # the clone: layers may work in place
        parts = {"outputs": outputs}
        if head is not None:
            parts["features"] = seen.inputs[head]
        parts |= {f"layer {key}": of(seen.outputs[name]) for key, (name, of) in reads.items()}
    seen_parts = {name: part.detach().double() for name, part in parts.items()}
    rates, finer = (_rates(detector, model, seen_parts, step) for step in _STEPS)
    _check_smooth(detector, rates, finer)
    used = [name for name in parts if parts[name].requires_grad]
    (slope,) = torch.autograd.grad(
        [parts[name] for name in used],
        x,
        [rates[name].to(parts[name]) for name in used],
        allow_unused=True,
    )
    return torch.zeros_like(x) if slope is None else slope


def _rates(detector: Detector, model: Model, parts: Seen, relative: float) -> Seen:
    """Return how fast the score of one row rises with each number that was seen of it."""
    rates = {}
    for name, part in parts.items():
        flat, found = part.flatten(), []
        step = relative * max(float(flat.square().mean().sqrt()), 1e-30)
        size = max(1, _NUMBERS // sum(other.numel() for other in parts.values()))
        for places in torch.split(torch.arange(flat.numel(), device=flat.device), size):
            scores = []
            for sign in (1, -1):
                moved = flat.repeat(len(places), 1)
                moved[torch.arange(len(places), device=flat.device), places] += sign * step
                together = {
                    other: whole.expand(len(places), *whole.shape[1:])
                    for other, whole in parts.items()
                } | {name: moved.reshape(len(places), *part.shape[1:])}
                scores.append(detector.score_observation(_observation(model, together)))
            found.append((scores[0] - scores[1]) / (2 * step))
        rates[name] = torch.cat(found).reshape(part.shape)
    return rates


def _check_smooth(detector: Detector, rates: Seen, finer: Seen) -> None:
    """Refuse a score that jumps, or that is not finite beside the row."""
    one, other = (torch.cat([part.flatten() for part in r.values()]) for r in (rates, finer))
    apart = float((one - other).norm())
    if not apart <= _SMOOTH * float(torch.maximum(one.norm(), other.norm())):
        name = type(detector).__name__
        raise UnsuitableError(f"the score of {name} is not smooth at a row, and has no slope there")


def _observation(model: Model, parts: Seen) -> Observation:
    outputs, scores = parts["outputs"], model.task in ("classification", "multilabel")
    layers = {
        name.removeprefix("layer "): part
        for name, part in parts.items()
        if name.startswith("layer ")
    }
    return Observation(
        outputs,
        model.logits_of(outputs) if scores else None,
        model.proba_of(outputs) if scores else None,
        parts.get("features"),
        layers,
    )
