"""Matrices that are diagonal in a Kronecker product of two bases, block by block."""

from __future__ import annotations

import copy
import os
import warnings
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from trustml.core.random import RandomState
from trustml.core.store import Store
from trustml.core.validation import check_choice
from trustml.ihvp._fisher_roots import FisherKind, FisherRoots
from trustml.ihvp._kronecker_factors import KroneckerFactors, Shared
from trustml.ihvp.objective import Objective, check_objective
from trustml.ihvp.operators import LinearOperator, dense_from_products
from trustml.warnings import BackendWarning

# What of a block is stored; the rest follows from the objective.
_PARTS = ("where", "outer", "inner", "values")


@dataclass(frozen=True)
class Block:
    """(Q_o ⊗ Q_m) diag(values) (Q_o ⊗ Q_m)' on the coordinates of one layer.

    Attributes
    ----------
    where : Tensor of shape (o, m)
        Places in the flat vector; the last column is the layer's bias, if it has one.
    outer, inner : Tensor of shape (o, o), (m, m)
        Eigenvectors of the output gradients' and of the inputs' second moments, in columns.
    values : Tensor of shape (o, m)
        Eigenvalues, weight decay left out.
    decay, bias_decay : float
        Weight decay of the layer's weights and of the last column.
    """

    where: Tensor
    outer: Tensor
    inner: Tensor
    values: Tensor
    decay: float
    bias_decay: float

    def rotate(self, rows: Tensor) -> Tensor:
        """Return the coordinates (k, o, m) of rows (k, p) in the eigenbasis."""
        (o, m), (outer, inner) = self.where.shape, self._bases(rows.dtype)
        turned = self._pick(rows).reshape(-1, m) @ inner
        return outer.T @ turned.reshape(len(rows), o, m)

    def restore(self, coordinates: Tensor, out: Tensor) -> None:
        """Write rows of these coordinates (k, o, m) to their places in ``out`` (k, p)."""
        (k, o, m), (outer, inner) = coordinates.shape, self._bases(out.dtype)
        turned = outer @ coordinates
        turned = (turned.reshape(-1, m) @ inner.T).reshape(k, o, m)
        if self._runs is None:
            out.index_copy_(1, self.where.reshape(-1), turned.reshape(k, -1))
            return
        weights, bias = self._runs
        width = m if bias is None else m - 1
        out[:, weights] = turned[:, :, :width].reshape(k, -1)
        if bias is not None:
            out[:, bias] = turned[:, :, -1]

    def _bases(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the eigenvectors in a precision; rounding them anew for each product is dear."""
        return (self.outer, self.inner) if dtype == self.outer.dtype else self._single

    @cached_property
    def _single(self) -> tuple[Tensor, Tensor]:
        return self.outer.float(), self.inner.float()

    def _pick(self, rows: Tensor) -> Tensor:
        if self._runs is None:
            return rows.index_select(1, self.where.reshape(-1))
        (o, m), (weights, bias) = self.where.shape, self._runs
        if bias is None:
            return rows[:, weights]
        picked = rows.new_empty(len(rows), o, m)
        picked[:, :, :-1] = rows[:, weights].reshape(-1, o, m - 1)
        picked[:, :, -1] = rows[:, bias]
        return picked

    @cached_property
    def _runs(self) -> tuple[slice, slice | None] | None:
        """Return the weights and the bias as slices, which copy faster; None if they are none."""
        whole = _as_slice(self.where)
        if whole is not None:
            return whole, None
        weights, bias = _as_slice(self.where[:, :-1]), _as_slice(self.where[:, -1])
        return None if weights is None or bias is None else (weights, bias)

    def diagonal(self) -> Tensor:
        """Return the diagonal as (o, m), weight decay left out."""
        return self.outer.square() @ self.values @ self.inner.square().T


def _as_slice(places: Tensor) -> slice | None:
    start = int(places.reshape(-1)[0]) if places.numel() else 0
    run = torch.arange(start, start + places.numel(), device=places.device)
    return slice(start, start + places.numel()) if torch.equal(places.reshape(-1), run) else None


class KroneckerOperator(LinearOperator):
    """What K-FAC and EK-FAC share: blocks in Kronecker eigenbases, a diagonal for the rest.

    Attributes
    ----------
    blocks : tuple of Block
        One a layer and group.
    rest : Tensor of shape (q,)
        Places of the parameters that have no block.
    rest_values : Tensor of shape (q,)
        Their diagonal, weight decay left out.
    uncovered : tuple of str
        Their names.
    shift : Tensor of shape (p,)
        Weight decay.
    """

    def __init__(
        self,
        objective: Objective,
        fisher: FisherKind,
        shared: Shared,
        samples: int,
        random_state: RandomState,
        store: str | os.PathLike[str] | None,
        corrected: bool,
    ) -> None:
        check_choice(shared, "shared", ("expand", "reduce"))
        self.objective = check_objective(objective)
        space = objective.space
        self.size, self.dtype, self.device = space.size, space.dtype, space.device
        self.is_psd = True
        self.shift = objective.weight_decay.double()
        self._roots = FisherRoots(objective, fisher, samples, random_state)
        self.fisher, self.shared = self._roots.kind, shared
        if store is None:
            self._fit(corrected)
            return
        settings = {"shared": shared, "fisher": self.fisher, "directions": self._roots.rank}
        settings |= {"seed": self._roots.seed, "corrected": corrected}
        kept = Store(store, self.objective.fingerprint(**settings))
        if not self._load(kept):
            self._fit(corrected)
            self._save(kept)

    def _fit(self, corrected: bool) -> None:
        objective = self.objective
        factors = KroneckerFactors(objective, self._roots, self.shared, keep=corrected)
        if not factors.layers:
            warnings.warn(
                f"{type(self).__name__} found no layer with Kronecker factors and is the diagonal "
                f"of the Fisher matrix ({objective.gradients.backend} gradients: "
                f"{objective.gradients.reason})",
                BackendWarning,
                stacklevel=4,
            )
        moments, self.rest_values = factors.moments()
        self.rest, self.uncovered = factors.rest, factors.uncovered
        bases, values = [], []
        for inner, outer in moments:
            (a, q_in), (b, q_out) = torch.linalg.eigh(inner), torch.linalg.eigh(outer)
            bases.append((q_in, q_out))
            values.append(b.clamp_min(0)[:, :, None] * a.clamp_min(0)[:, None, :])
        if corrected and factors.layers:
            values = factors.corrected(bases)
        self.blocks = tuple(
            self._block(layer.where[j], q_out[j], q_in[j], v[j])
            for layer, (q_in, q_out), v in zip(factors.layers, bases, values, strict=True)
            for j in range(len(v))
        )

    def _block(self, where: Tensor, outer: Tensor, inner: Tensor, values: Tensor) -> Block:
        decay, last = float(self.shift[where[0, 0]]), float(self.shift[where[0, -1]])
        return Block(where, outer, inner, values, decay, last)

    def _save(self, kept: Store) -> None:
        tensors = {"rest": self.rest, "rest_values": self.rest_values}
        for j, block in enumerate(self.blocks):
            tensors |= {f"{name}{j}": getattr(block, name) for name in _PARTS}
        kept.save("factors", tensors)

    def _load(self, kept: Store) -> bool:
        found = kept.load("factors")
        if found is None:
            return False
        found = {name: x.to(self.device) for name, x in found.items()}
        self.rest, self.rest_values = found["rest"], found["rest_values"]
        parts = [[found[f"{name}{j}"] for name in _PARTS] for j in range((len(found) - 2) // 4)]
        self.blocks = tuple(self._block(*part) for part in parts)
        left = set(self.rest.tolist())
        slices = self.objective.space.slices
        self.uncovered = tuple(name for name, s in slices.items() if s.start in left)
        return True

    def matmat(self, vectors: Tensor) -> Tensor:
        """Return the product with ``vectors`` of shape (p, k)."""
        wide = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
        product = torch.empty_like(wide)
        product[self.rest] = self.rest_values.to(wide.dtype)[:, None] * wide[self.rest]
        for block in self.blocks:
            block.restore(block.values.to(wide.dtype) * block.rotate(wide.T), product.T)
        product.addcmul_(self.shift.to(wide.dtype)[:, None], wide)
        return product.to(vectors.dtype)

    def dense(self) -> Tensor:
        """Return the matrix in float64."""
        return dense_from_products(self.double())

    def diagonal(self) -> Tensor:
        """Return the diagonal of shape (p,)."""
        entries = self.shift.clone()
        entries[self.rest] += self.rest_values
        for block in self.blocks:
            entries[block.where] += block.diagonal()
        return entries.to(self.dtype)

    def double(self) -> LinearOperator:
        """Return the same matrix with products in float64: the factors are not computed anew."""
        twin = copy.copy(self)
        twin.dtype = torch.float64
        return twin

    def __repr__(self) -> str:
        """Name, size, the Fisher matrix meant, and what has no Kronecker factors."""
        rest = f"; diagonal for {', '.join(self.uncovered)}" if self.uncovered else ""
        return (
            f"{type(self).__name__}(size={self.size}, dtype={self.dtype}, {self.fisher} Fisher "
            f"with {self._roots.rank} directions a row, {len(self.blocks)} blocks{rest})"
        )
