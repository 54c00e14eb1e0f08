"""Forward passes of one model: with graph, or batch by batch with everything they show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from trustml.core.batches import Batch, Data, Inputs, forward, is_out_of_memory, map_batches
from trustml.core.features import Capture
from trustml.core.modes import evaluating
from trustml.core.validation import all_finite, as_tensor, take_rows
from trustml.model.converted import Converted, Outputs, Task
from trustml.model.intake import Intake
from trustml.model.observation import Observation
from trustml.model.outputs import (
    as_logits,
    as_probabilities,
    check_probabilities,
    looks_like_probabilities,
)
from trustml.model.trace import Trace, check_raw, trace

Layers = Mapping[str, tuple[str, Callable[[Tensor], Tensor]]]
"""What to read of inner layers: a key, and the layer's name with a function of its output."""


class Passes:
    """What runs a model and keeps what its first batch told.

    Parameters
    ----------
    converted : Converted
        The model.
    intake : Intake
        The way in.
    batch_size : int or "auto"
        Rows per forward pass.
    """

    def __init__(
        self, converted: Converted, intake: Intake, batch_size: int | Literal["auto"]
    ) -> None:
        self.module: nn.Module | None = converted.module
        self.intake, self.batch_size = intake, batch_size
        self._converted = converted
        self._head_name = converted.head_name
        self.trace: Trace | None = None
        self.kind: Outputs | None = converted.outputs
        self.task: Task | None = converted.task
        self.n_outputs: int | None = None
        if self.module is not None and self._head_name is not None:
            self.n_outputs = int(self.module.get_submodule(self._head_name).out_features)  # type: ignore[arg-type]
        elif converted.classes is not None:
            self.n_outputs = len(converted.classes)

    def with_module(self, module: nn.Module) -> Passes:
        """Return the same passes through another module of the same make."""
        other = Passes(self._converted, self.intake, self.batch_size)
        other.module, other.trace, other.n_outputs = module, self.trace, self.n_outputs
        other.kind, other.task = self.kind, self.task
        return other

    def settle(self, task: Task) -> None:
        """Fix the task, and refuse a classifier whose outputs are no logits."""
        self.task = task
        if task == "regression" and self.kind != "features":
            self.kind = "values"
        if self.trace is not None:
            check_raw(self.trace, task)

    @property
    def head_name(self) -> str | None:
        """The last linear layer; None if there is none."""
        if self.module is None or self._head_name is not None:
            return self._head_name
        return self.looked("the head").head_name

    def head(self) -> tuple[Tensor, Tensor] | None:
        """Return weight (c, h) and bias (c,) of the last linear layer, detached."""
        name = self.head_name
        if self.module is None or name is None:
            return None
        layer: Any = self.module.get_submodule(name)
        weight: Tensor = layer.weight.detach()
        return weight, weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach()

    def looked(self, what: str) -> Trace:
        """Return what the first batch told.

        Parameters
        ----------
        what : str
            What is asked for; named in the error.

        Returns
        -------
        Trace

        Raises
        ------
        ValueError
            If there was none.
        """
        if self.trace is None:
            raise ValueError(
                f"{what} of this model shows in a forward pass only: pass train=(X, y) to wrap, "
                "or call predict(X) first"
            )
        return self.trace

    def learn(self, inputs: Inputs) -> None:
        """Look at a first batch, once."""
        if self.module is not None and self.trace is None:
            seen = self._traced(inputs)
            if self.task is not None:
                check_raw(seen, self.task)
            self.trace, self.n_outputs = seen, seen.n_outputs

    def _traced(self, inputs: Inputs) -> Trace:
        module: nn.Module = self.module  # type: ignore[assignment]
        try:
            seen = trace(module, inputs)
        except RuntimeError as error:
            self._refuse_shape(error, inputs)
            raise
        if isinstance(inputs, Tensor):
            self.intake.row_shape = inputs.shape[1:]
        return seen

    def _refuse_shape(self, error: RuntimeError, inputs: Inputs) -> None:
        """Turn torch's error into one that names the shape, where rows are not as the first."""
        known = self.intake.row_shape
        shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else None
        if is_out_of_memory(error) or (shape is not None and shape[1:] == known):
            return
        given = "several inputs" if shape is None else f"X of shape {shape}"
        fix = "" if known is None else f"; the first rows it saw were {('n', *known)}"
        raise ValueError(
            f"{type(self.module).__name__} cannot take {given}{fix}: {error}"
        ) from error

    def outputs(self, inputs: Inputs) -> Tensor:
        """Return raw outputs, in eval mode; with their graph if there is a module."""
        if self.module is None:
            return self.called(inputs)
        try:
            with evaluating(self.module):
                return forward(self.module, inputs)
        except RuntimeError as error:
            self._refuse_shape(error, inputs)
            raise

    @torch.no_grad()
    def called(self, X: Any) -> Tensor:
        """Return the outputs of a prediction-only model.

        Parameters
        ----------
        X : object
            Rows as the user has them.

        Returns
        -------
        Tensor of shape (n, ...)

        Raises
        ------
        TypeError
            If the model has no forward pass.
        ValueError
            If the outputs are not finite, or not one row per row of X.
        """
        rows = self.intake.rows(X)
        if self._converted.call is None:
            raise TypeError(f"{type(self._converted.source).__name__} has no forward pass")
        step = len(rows) if self.batch_size == "auto" else self.batch_size
        parts = (
            self._converted.call(rows if step >= len(rows) else take_rows(rows, some))
            for some in np.array_split(np.arange(len(rows)), range(step, len(rows), step))
        )
        found = [as_tensor(part, name="the outputs", device=self.intake.device) for part in parts]
        outputs = found[0] if len(found) == 1 else torch.cat(found)
        if not outputs.is_floating_point():
            outputs = outputs.to(self.intake.dtype)
        if outputs.ndim == 0 or len(outputs) != len(rows):
            raise ValueError(
                f"the model gave outputs of shape {tuple(outputs.shape)} for {len(rows)} rows; "
                "its first output axis must be the rows"
            )
        if not all_finite(outputs):
            raise ValueError("the model gave NaN or infinite outputs")
        if self.kind is None:
            self.kind = "probabilities" if looks_like_probabilities(outputs) else "logits"
        if self.kind == "probabilities":
            check_probabilities(outputs, one_row_sum=self.task != "multilabel")
        self.n_outputs = 1 if outputs.ndim == 1 else outputs.shape[-1]
        return outputs

    def observe(self, X: Any, layers: Layers) -> Iterator[Observation]:
        """Yield everything that one forward pass over X shows, batch by batch."""
        if self.module is None:
            if layers:
                raise TypeError(f"{type(self._converted.source).__name__} has no layers to look at")
            yield self._seen(self.called(X), None)
            return
        data = self.look(X)
        yield from map_batches(partial(self._batch, layers), data, self.batch_size)

    def look(self, X: Any) -> Data:
        """Return rows as the module takes them, after a look at the first."""
        data = self.intake.data(X)
        if self.trace is None:
            self.learn(data.rows(0, min(8, len(data))).inputs)
        return data

    @torch.no_grad()
    def _batch(self, layers: Layers, batch: Batch) -> Observation:
        head = self.head_name
        module: nn.Module = self.module  # type: ignore[assignment]
        inner = {name for name, _ in layers.values()}
        with Capture(module, [] if head is None else [head], sorted(inner)) as seen:
            outputs = self.outputs(batch.inputs)
        if bool(outputs.isnan().any()):
            raise ValueError(
                f"the module gave NaN outputs (first in rows {batch.indices[0]} to "
                f"{batch.indices[-1]} of X); its parameters or activations have overflowed"
            )
        found = self._seen(outputs, None if head is None else seen.inputs[head].detach())
        read = {key: of(_rows(seen.outputs, name, batch)) for key, (name, of) in layers.items()}
        return replace(found, layers=read, inputs=batch.inputs)

    def _seen(self, outputs: Tensor, features: Tensor | None) -> Observation:
        if self.kind == "features":
            return Observation(outputs, None, None, outputs)
        if self.task is None or self.task == "regression":
            return Observation(outputs, None, None, features)
        kind = self.kind or "logits"
        return Observation(
            outputs,
            as_logits(outputs, self.task, kind),
            as_probabilities(outputs, self.task, kind),
            features,
        )


def _rows(outputs: dict[str, Any], name: str, batch: Batch) -> Tensor:
    """Return a layer's output, one row for each of the batch."""
    found = outputs.get(name)
    if not isinstance(found, Tensor) or found.ndim == 0 or len(found) != len(batch):
        what = "did not run" if found is None else "gives no tensor with one row for each input"
        raise ValueError(f"layer {name!r} {what}; choose another, see Model.layers")
    return found
