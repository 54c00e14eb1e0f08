"""What an observation gives to a detector."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trustml.core.batches import apply
from trustml.core.validation import check_finite
from trustml.model import Model, Observation

_WORDS = {
    "probabilities": "class probabilities",
    "logits": "logits",
    "features": "features (one vector a row, the input of a last linear layer)",
    "head": "a differentiable last linear layer",
    "gradients": "gradients with respect to its parameters",
    "inputs": "inputs that can be moved (one tensor of real numbers, and a gradient to it)",
    "labels": "class labels",
}


class UnsuitableError(ValueError):
    """The model or the data lack what a detector needs; the text says what works instead."""


def provided(model: Model, observation: Observation, labels: Tensor | None) -> frozenset[str]:
    """Return which of probabilities, logits, features, head, inputs and labels there are."""
    given = set()
    if model.task == "classification" and observation.probabilities is not None:
        given.add("probabilities")
        if not _only_probabilities(observation.outputs, observation.probabilities):
            given.add("logits")
    if observation.features is not None and observation.features.ndim == 2:
        given.add("features")
        if model.differentiable and model.head is not None:
            given.add("head")
    inputs = observation.inputs
    movable = isinstance(inputs, Tensor) and inputs.is_floating_point()
    if given and model.differentiable and movable:  # inputs alone are no ground for a score
        given.add("inputs")
    if model.differentiable and observation.inputs is not None:
        given.add("gradients")
    if labels is not None:
        given.add("labels")
    return frozenset(given)


def lacking(
    missing: Sequence[str], model: Model, given: frozenset[str], works: Sequence[str]
) -> str:
    """Say what is missing and which detectors work without it."""
    instead = "no detector works with it"
    if given - {"labels"}:
        instead = f"with it these work: {', '.join(works)}"
    parts = " and ".join(_WORDS[part] for part in missing)
    return f"{parts}, and {model!r} gives none; {instead}"


def _only_probabilities(outputs: Tensor, probabilities: Tensor) -> bool:
    """Say whether the model outputs probabilities: the level of its logits is then lost."""
    columns = outputs.reshape(len(outputs), -1)
    return torch.equal(columns, probabilities[:, -columns.shape[1] :])


def check_observed(observation: Observation) -> None:
    """Refuse outputs, features or layers that are not finite."""
    check_finite(observation.outputs, "the model's output")
    for name, part in observation.layers.items():
        check_finite(part, f"layer {name!r}")
    if observation.features is not None:
        check_finite(observation.features, "the model's features")


def take(observation: Observation, indices: Tensor) -> Observation:
    """Return some rows of an observation."""

    def rows(part: Tensor | None) -> Tensor | None:
        return None if part is None else part[indices]

    return Observation(
        outputs=observation.outputs[indices],
        logits=rows(observation.logits),
        probabilities=rows(observation.probabilities),
        features=rows(observation.features),
        layers={key: part[indices] for key, part in observation.layers.items()},
        inputs=None if observation.inputs is None else apply(_picked(indices), observation.inputs),
    )


def _picked(indices: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda part: part[indices]


def balanced_logits(observation: Observation) -> Tensor:
    """Return float64 logits (n, c), those of a one-output model with mean zero."""
    logits = as_double(observation.logits)
    if observation.outputs[0].numel() == 1:
        return logits - logits.mean(dim=1, keepdim=True)
    return logits


def as_double(part: Tensor | None) -> Tensor:
    """Return a part of an observation in float64; its detector has asked for it in ``needs``."""
    if part is None:
        raise UnsuitableError(
            "these rows were seen without what the detector was fitted on; score with the "
            "observation of the same model"
        )
    return part.double()


def n_classes(labels: Tensor) -> int:
    """Return how many classes have rows."""
    return int(torch.bincount(labels).count_nonzero())


def unit_rows(features: Tensor) -> Tensor:
    """Return rows of length 1; a row of zeros stays."""
    norms = features.norm(dim=1, keepdim=True)
    return torch.div(features, norms.clamp_min(torch.finfo(features.dtype).tiny))
