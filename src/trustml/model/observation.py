"""One forward pass, everything that it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from trustml.core.batches import Inputs


@dataclass(frozen=True, eq=False)
class Observation:
    """What one forward pass over n rows shows, without gradients.

    Attributes
    ----------
    outputs : Tensor of shape (n, ...)
        Raw outputs of the module.
    logits : Tensor of shape (n, c) or None
        Classification and multilabel only; a one-output classifier has [0, f].
    probabilities : Tensor of shape (n, c) or None
        Classification and multilabel only.
    features : Tensor of shape (n, h) or None
        Input of the last linear layer; None where there is none.
    layers : dict of str to Tensor of shape (n, ...)
        What was asked for of inner layers.
    inputs : Tensor, dict or tuple of Tensor, or None
        What the module took; of one batch only.
    """

    outputs: Tensor
    logits: Tensor | None
    probabilities: Tensor | None
    features: Tensor | None
    layers: Mapping[str, Tensor] = field(default_factory=dict)
    inputs: Inputs | None = None

    def __len__(self) -> int:
        return len(self.outputs)

    def __repr__(self) -> str:
        parts = ("outputs", "logits", "probabilities", "features")
        found = {part: getattr(self, part) for part in parts}
        shapes = [f"{part} {tuple(t.shape)}" for part, t in found.items() if t is not None]
        shapes += [f"{name} {tuple(t.shape)}" for name, t in self.layers.items()]
        return f"Observation({', '.join(shapes)})"

    @classmethod
    def join(cls, parts: Sequence[Observation]) -> Observation:
        """Put batches one after the other."""
        if len(parts) == 1:
            return replace(parts[0], inputs=None)

        def joined(name: str) -> Tensor | None:
            found = [getattr(part, name) for part in parts]
            return None if any(part is None for part in found) else torch.cat(found)

        return cls(
            torch.cat([part.outputs for part in parts]),
            joined("logits"),
            joined("probabilities"),
            joined("features"),
            {key: torch.cat([part.layers[key] for part in parts]) for key in parts[0].layers},
        )
