"""What an objective's results depend on, as hashes that a store can compare."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from torch import Tensor

from trustml.core._described import described
from trustml.core.store import hash_tensors

if TYPE_CHECKING:
    from trustml.ihvp.objective import Objective

_BLOCK = 512  # fixed: the batch size is no part of the data


def fingerprint(objective: Objective, settings: dict[str, Any]) -> dict[str, Any]:
    """Return hashes of the model, the data, the loss and θ, and the settings as they are."""
    module, space = objective.module, objective.space
    parts = [
        hash_tensors(*_tensors(batch.inputs), batch.targets)
        for batch in objective.data.batches(_BLOCK)
    ]
    # A convolution's stride or an activation has no weights: the structure is hashed beside them.
    return {
        "model": {
            "structure": f"{type(module).__name__} {_hash(str(module))}",
            "weights": hash_tensors(*module.state_dict().values()),
        },
        "data": f"{len(objective.data)} rows {_hash(''.join(parts))}",
        "loss": f"{objective.loss.name} {described(objective.loss)}",
        "parameters": f"{space.size} {_hash(str(space.names))} {space.dtype}",
        "weight_decay": hash_tensors(objective.weight_decay),
        "n": objective.n,
        "autocast": str(objective.autocast),
        "settings": settings,
    }


def _tensors(inputs: Any) -> list[Tensor]:
    if isinstance(inputs, Tensor):
        return [inputs]
    if isinstance(inputs, tuple):
        return list(inputs)
    return [inputs[key] for key in sorted(inputs)]


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
