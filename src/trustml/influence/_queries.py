"""What is asked about: the loss of queries, or any measurement of their outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trustml.core.batches import Batch, Data, Inputs, as_data, map_batches
from trustml.core.validation import check_positive_int
from trustml.ihvp import Objective
from trustml.influence._train_rows import rows_at_once
from trustml.model import Model

Measure = Callable[[Tensor, Inputs, "Tensor | None"], Tensor]


@dataclass(frozen=True)
class Queries:
    """Rows to ask about, and the measurement of each.

    Attributes
    ----------
    data : Data
        What the module eats, and encoded targets if there are any.
    measure : callable (outputs, inputs, targets) -> (q,)
        Differentiable with respect to the outputs.
    unit : str
        Of the measurement.
    """

    data: Data
    measure: Measure
    unit: str

    @classmethod
    def of(cls, model: Model, X: Any, y: Any, measure: Measure | None) -> Queries:
        """Take what the user asks about.

        Parameters
        ----------
        model : Model
            It prepares rows and labels.
        X, y : array-like, tensors, Dataset or DataLoader
            Query rows; y may be None with a measure, or where X holds the targets.
        measure : callable or None
            None: the training loss.

        Returns
        -------
        Queries

        Raises
        ------
        ValueError
            If there is neither ``y`` nor ``measure``.
        TypeError
            If ``measure`` is not callable.
        """
        if isinstance(X, Data):
            data = X if y is None else as_data(X.inputs, model.targets(y))
        elif isinstance(X, (Dataset, DataLoader)):
            data = as_data(X, y, prepare=model.inputs, encode=model.targets)
        else:
            data = as_data(model.inputs(X), None if y is None else model.targets(y))
        if measure is not None:
            if not callable(measure):
                raise TypeError(
                    f"measure must be a callable (outputs, X, y) -> (q,), got {measure!r}"
                )
            return cls(data, measure, "measure")
        if data.rows(0, 1).targets is None:
            raise ValueError(
                "scores are effects on a loss, which needs labels: pass y=, or measure= for "
                "another quantity, such as measure=lambda outputs, X, y: outputs[:, 0]"
            )
        return cls(data, _loss_of(model), model.loss_fn.unit)

    def __len__(self) -> int:
        return len(self.data)

    def few(self, rows: int) -> Queries:
        """Return at most so many of them, evenly spaced."""
        most = min(check_positive_int(rows, "rows"), len(self))
        chosen = torch.linspace(0, len(self) - 1, most, dtype=torch.float64).round().long()
        return replace(self, data=self.data.subset(chosen))

    def values(self, objective: Objective) -> Tensor:
        """Return the measurement of each query at the objective's parameters, shape (q,)."""

        def part(batch: Batch) -> Tensor:
            outputs = objective.outputs(batch.inputs)
            return self.checked(outputs, batch).detach()

        return objective.collect(part, self.data)

    def dot(self, objective: Objective, vectors: Tensor) -> Tensor:
        """Return the measurement's gradients times ``vectors`` (p, k), shape (q, k)."""

        def part(batch: Batch) -> Tensor:
            return objective.gradients.dot(batch.inputs, self.cotangents(batch), vectors)[1]

        return objective.collect(part, self.data)

    def gradient_blocks(self, objective: Objective) -> Iterator[Tensor]:
        """Yield the measurement's gradients in blocks (b, p) that fit into the budget."""

        def part(batch: Batch) -> Tensor:
            return objective.gradients.rows(batch.inputs, self.cotangents(batch))[1]

        data = self.data.to(objective.space.device, objective.space.dtype)
        return map_batches(part, data, rows_at_once(objective.space.size), "influence")

    def cotangents(self, batch: Batch) -> Callable[[Tensor], Tensor]:
        """Return the map from a batch's outputs to the measurement's gradient in output space."""

        def of(outputs: Tensor) -> Tensor:
            with torch.enable_grad():
                leaf = outputs.detach().requires_grad_()
                total = self.checked(leaf, batch).sum()
                if not total.requires_grad:
                    raise ValueError(
                        "measure does not depend on the outputs in a differentiable way; use torch "
                        "functions of them, and neither argmax nor numpy"
                    )
                (gradient,) = torch.autograd.grad(total, leaf)
            return gradient

        return of

    def checked(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the measurement of a batch, shape (b,), or say what is wrong with it."""
        try:
            values = self.measure(outputs, batch.inputs, batch.targets)
        except (IndexError, RuntimeError, TypeError) as error:
            raise ValueError(
                f"measure(outputs, X, y) failed for outputs of shape {tuple(outputs.shape)}, the "
                f"module's raw outputs: {error}"
            ) from error
        if not isinstance(values, Tensor) or values.numel() != len(batch):
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"measure must return one number a query, shape ({len(batch)},), got {got} for "
                f"outputs of shape {tuple(outputs.shape)}"
            )
        return values.reshape(-1)


def _loss_of(model: Model) -> Measure:
    def loss(outputs: Tensor, inputs: Inputs, targets: Tensor | None) -> Tensor:
        if targets is None:
            raise ValueError("the loss needs targets; pass y=")
        return model.loss_fn(outputs, targets)

    return loss
