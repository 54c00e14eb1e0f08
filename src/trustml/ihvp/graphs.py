"""Autograd graphs of batches, kept for many products while they fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from trustml.core import distributed
from trustml.core.batches import Batch, batch_length, map_batches
from trustml.core.modes import mixed_precision
from trustml.ihvp.objective import Objective

T = TypeVar("T")
Product = Callable[[Tensor], Tensor]
Build = Callable[[Objective, dict[str, Tensor], Batch], Product]

# Graphs of all batches together stay below this many bytes; later batches are rebuilt each time.
_GRAPH_BUDGET = 2**30
# Columns that are pulled back through a graph at once, where that is the faster way.
_TOGETHER = 16
# Operations a use of a parameter, in one product with one vector.
_FLOPS = 12
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_FLAT = frozenset((
    "Add", "Addmm", "Div", "Elu", "Expand", "Gelu", "LeakyRelu", "LogSoftmax", "Mean", "Mm", "Mul",
    "Neg", "Pow", "Relu", "ReshapeAlias", "Sigmoid", "Silu", "Softmax", "Softplus", "Squeeze",
    "Sub", "Sum", "T", "Tanh", "Threshold", "Unsqueeze", "View", "Where",
))  # fmt: skip


class _Held(NamedTuple):
    """The rows that are summed here, their graphs, and those rows whose graphs did not fit."""

    rows: range
    leaves: dict[str, Tensor]
    kept: list[Product]
    rest: range


class GraphSum:
    """Mean over rows of a linear map (p, k) → (p, k), plus weight decay.

    Each batch's graph is built once if it fits.
    """

    def __init__(self, objective: Objective, build: Build) -> None:
        self._objective, self._build = objective, build
        self._scale, shift = 1.0 / objective.n, objective.weight_decay
        self._shift = shift[:, None] if bool(shift.any()) else None
        # Replaced as a whole, so that other threads see all of it or nothing.
        self._held: _Held | None = None

    def __getstate__(self) -> dict[str, object]:
        """Leave the graphs behind: a copy builds its own at its first product."""
        return self.__dict__ | {"_held": None}

    def __call__(self, vectors: Tensor) -> Tensor:
        """Return the product with columns, accumulated over the batches in float64."""
        rows, held = distributed.shard(len(self._objective.data)), self._held

        def own() -> Tensor | None:
            if held is None or held.rows != rows:
                return self._first(vectors, rows)
            return self._again(vectors, held)

        total = distributed.all_sum(own).mul_(self._scale)
        if self._shift is not None:
            total.addcmul_(self._shift.to(total), vectors.to(total))
        return total.to(vectors.dtype)

    def _first(self, vectors: Tensor, rows: range) -> Tensor | None:
        """Build graphs until the budget is spent; remember where the rest begins."""
        self._held, leaves = None, self._objective.leaves()
        row_bytes = self._row_bytes(leaves)
        room = _GRAPH_BUDGET
        kept: list[Product] = []
        done = 0

        def make(batch: Batch) -> tuple[Product, Tensor, int]:
            product = self._make(batch, leaves)
            return product, product(vectors), len(batch)

        total = None
        for product, part, count in self._map(rows, make):
            total = _plus(total, part)
            room -= count * row_bytes
            if room >= 0:
                kept.append(product)
                done += count
            else:
                room = -1
        # Last, so that a pass that was interrupted starts anew.
        self._held = _Held(rows, leaves, kept, range(rows.start + done, rows.stop))
        return total

    def _again(self, vectors: Tensor, held: _Held) -> Tensor | None:
        if len(held.kept) == 1 and len(held.rows) == len(self._objective.data) and not held.rest:
            return held.kept[0](vectors)  # nothing to accumulate
        total = None
        for product in held.kept:
            total = _plus(total, product(vectors))
        for part in self._map(held.rest, lambda batch: self._make(batch, held.leaves)(vectors)):
            total = _plus(total, part)
        return total

    def _make(self, batch: Batch, leaves: dict[str, Tensor]) -> Product:
        with mixed_precision(None), torch.enable_grad():
            return self._build(self._objective, leaves, batch)

    def _map(self, rows: range, fn: Callable[[Batch], T]) -> Iterator[T]:
        return map_batches(fn, self._objective.data, self._objective.batch_size, rows=rows)

    def _row_bytes(self, leaves: dict[str, Tensor]) -> int:
        """Measure the bytes that a row's graph holds, on a few rows."""
        probe = self._objective.data.rows(0, min(8, len(self._objective.data)))
        own = {leaf.untyped_storage().data_ptr() for leaf in leaves.values()}
        seen: dict[int, int] = {}
        held: list[Tensor] = []

        def pack(tensor: Tensor) -> int:
            place = tensor.untyped_storage().data_ptr()
            if place not in own:  # parameters are held anyway; views of one storage count once
                seen[place] = max(seen.get(place, 0), tensor.numel() * tensor.element_size())
            held.append(tensor)
            return len(held) - 1

        with torch.autograd.graph.saved_tensors_hooks(pack, held.__getitem__):
            self._make(probe, leaves)
        held.clear()  # a saved output and its node hold each other: break the cycle
        return sum(seen.values()) // batch_length(probe.inputs) + 1


def _plus(total: Tensor | None, part: Tensor) -> Tensor:
    """Add up in float64, without zeros to begin with."""
    return part.to(torch.float64, copy=True) if total is None else total.add_(part)


def backward_columns(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> list[Tensor]:
    """Pull k cotangents, blocks (k, *shape), back through a kept graph; blocks again."""
    live = [i for i, out in enumerate(outputs) if out.requires_grad]
    k = len(cotangents[0])
    if not live:
        return [x.new_zeros(k, *x.shape) for x in inputs]
    ends = [outputs[i] for i in live]
    together = k > 1 and (ends[0].is_cuda or _is_flat(ends))
    columns = []
    for j in range(0, k, _TOGETHER if together else 1):
        where: slice | int = slice(j, j + _TOGETHER) if together else j
        found = torch.autograd.grad(
            ends,
            inputs,
            [cotangents[i][where] for i in live],
            retain_graph=True,
            materialize_grads=not together,
            allow_unused=True,
            is_grads_batched=together,
        )
        if together:
            width = min(_TOGETHER, k - j)
            found = tuple(
                x.new_zeros(width, *x.shape) if part is None else part
                for part, x in zip(found, inputs, strict=True)
            )
        columns.append(found)
    if len(columns) == 1:
        return [part if together else part[None] for part in columns[0]]
    join_parts = torch.cat if together else torch.stack
    return [join_parts(parts) for parts in zip(*columns, strict=True)]


def _is_flat(outputs: Sequence[Tensor]) -> bool:
    """Return whether a graph is made of matrix products and elementwise functions alone."""
    # Several columns at once are faster there, and up to twice as slow through convolutions and
    # attention, where they crowd each other out of the cache.
    seen = set()
    nodes = [out.grad_fn for out in outputs]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        name = node.name()
        if name.partition("Backward")[0] not in _FLAT and "AccumulateGrad" not in name:
            return False
        nodes += [before for before, _ in node.next_functions]
    return True


def split(vectors: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Cut columns (p, k) into one block (k, *shape) for each parameter."""
    sizes = [p.numel() for p in parameters]
    parts = torch.split(vectors, sizes)
    return [part.T.reshape(-1, *p.shape) for part, p in zip(parts, parameters, strict=True)]


def join(blocks: Sequence[Tensor]) -> Tensor:
    """Undo ``split``: blocks (k, *shape) to columns (p, k)."""
    return torch.cat([block.reshape(len(block), -1).T for block in blocks])


def product_flops(objective: Objective) -> float:
    """Guess the operations that one product with one vector takes for each row of the data."""
    return _FLOPS * _forward_uses(objective)


def _forward_uses(objective: Objective) -> float:
    """Count how often one row's forward pass uses a weight: more than p for convolutions."""
    uses = [float(objective.space.size)]

    def count(layer: nn.Module, _: object, out: object) -> None:
        weight = getattr(layer, "weight", None)
        if isinstance(layer, _CONVOLUTIONS) and weight is not None and isinstance(out, Tensor):
            # Convolutions in float64 run at a third of a matrix product's speed.
            uses.append(3.0 * weight.numel() * out[0, 0].numel())
        elif isinstance(layer, nn.Linear) and isinstance(out, Tensor):
            uses.append(float(layer.weight.numel() * (out[0].numel() // out.shape[-1] - 1)))

    handles = [layer.register_forward_hook(count) for layer in objective.module.modules()]
    try:
        objective.outputs(objective.data.rows(0, 1).inputs)
    finally:
        for handle in handles:
            handle.remove()
    return sum(uses)
