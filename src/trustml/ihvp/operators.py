"""Symmetric matrices known by their products, and their algebra."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trustml.ihvp._intake import check_dense
from trustml.ihvp.solution import Damping

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator as ScipyOperator

_CHUNK = 256


class LinearOperator(ABC):
    """A real symmetric matrix of shape (p, p), known by its products.

    Concrete operators implement ``matmat``, ``dense`` and ``diagonal``; nothing else is
    overridden. Scalars damp: ``A + 1e-3`` is A + 1e-3·I. ``A + B``, ``A - B``, ``2 * A`` and
    ``A @ V`` mean what they say.

    Attributes
    ----------
    size : int
        p.
    dtype : torch.dtype
        Of the products; float32 or float64.
    device : torch.device
        Where the products are computed.
    is_psd : bool
        The author's promise that the matrix is positive semi-definite, not a test of the numbers.

    Examples
    --------
    >>> from trustml.ihvp import Dense
    >>> A = 2 * Dense(torch.eye(3)) + 0.5
    >>> A @ torch.ones(3)
    tensor([2.5000, 2.5000, 2.5000])
    """

    size: int
    dtype: torch.dtype
    device: torch.device
    is_psd: bool
    # numpy scalars must leave ``number * A`` to us.
    __array_ufunc__ = None

    @abstractmethod
    def matmat(self, vectors: Tensor) -> Tensor:
        """Return the product with ``vectors`` of shape (p, k), in the operator's dtype."""

    @abstractmethod
    def dense(self) -> Tensor:
        """Return the matrix of shape (p, p) in float64."""

    @abstractmethod
    def diagonal(self) -> Tensor:
        """Return the diagonal of shape (p,), in the operator's dtype."""

    @abstractmethod
    def double(self) -> LinearOperator:
        """Return the same matrix with products computed in float64."""

    @property
    def shape(self) -> tuple[int, int]:
        """(p, p)."""
        return self.size, self.size

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """Multiply a tensor of shape (p,) or (p, k)."""
        columns = check_columns(self, vectors, "V")
        product = self.matmat(columns)
        return product[:, 0] if vectors.ndim == 1 else product

    def __add__(self, other: LinearOperator | Damping | float) -> LinearOperator:
        """Add an operator, or damp by a scalar."""
        if isinstance(other, LinearOperator):
            return Sum(self, other)
        if isinstance(other, Damping):
            return Damped(self, other.value, other.reason)
        scalar = _scalar(other)
        if scalar is None:
            return NotImplemented
        return Damped(self, scalar, "added to the operator by the caller")

    __radd__ = __add__

    def __sub__(self, other: LinearOperator) -> LinearOperator:
        """Subtract an operator."""
        if isinstance(other, LinearOperator):
            return Sum(self, Scaled(other, -1.0))
        scalar = _scalar(other)
        return NotImplemented if scalar is None else Damped(self, -scalar, "")

    def __mul__(self, factor: float) -> LinearOperator:
        """Scale by a number."""
        scalar = _scalar(factor)
        return NotImplemented if scalar is None else Scaled(self, scalar)

    __rmul__ = __mul__

    def __neg__(self) -> LinearOperator:
        """Return −A."""
        return Scaled(self, -1.0)

    def restrict(self, indices: Tensor | slice) -> LinearOperator:
        """Return the principal block of some coordinates.

        Parameters
        ----------
        indices : integer Tensor of shape (q,), or slice
            Which coordinates of the flat vector; a slice of ``ParameterSpace.slices`` fits.

        Returns
        -------
        LinearOperator
            Of size q.
        """
        return Restricted(self, indices)

    def to_scipy(self) -> ScipyOperator:
        """Return the operator as a ``scipy.sparse.linalg.LinearOperator`` (numpy in and out)."""
        from scipy.sparse.linalg import LinearOperator as ScipyOperator

        def product(v: Any) -> Any:
            columns = torch.as_tensor(v, dtype=self.dtype, device=self.device)
            result = self.matmat(columns.reshape(self.size, -1))
            return result.reshape(v.shape).cpu().numpy()

        dtype = torch.empty(0, dtype=self.dtype).numpy().dtype
        return ScipyOperator(
            shape=self.shape, matvec=product, matmat=product, rmatvec=product, dtype=dtype
        )

    def __repr__(self) -> str:
        """Name, size and dtype."""
        return f"{type(self).__name__}(size={self.size}, dtype={self.dtype})"


class FactoredOperator(LinearOperator):
    """A low-rank sum plus a diagonal: A = scale · Σ_i K_i' K_i + diag(shift).

    Attributes
    ----------
    n_factors : int
        Total number of rows of the K_i: the rank is at most this.
    scale : float
        Usually 1/n.
    shift : Tensor of shape (p,)
        The diagonal, such as the weight decay; non-negative.
    """

    n_factors: int
    scale: float
    shift: Tensor

    @property
    def n_examples(self) -> int:
        """How many K_i there are; without an objective each is one row."""
        objective = getattr(self, "objective", None)
        return self.n_factors if objective is None else len(objective.data)

    @abstractmethod
    def factors(self, examples: range | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (row indices (b,), K of shape (b, r, p)) by batches; of all examples or some."""

    @abstractmethod
    def factor_norms(self) -> Tensor:
        """Return the squared norms of the rows of the K_i, shape (n, r), without forming them."""

    @abstractmethod
    def factor_rows(self, examples: Tensor, columns: Tensor) -> Tensor:
        """Return some rows of the K_i, shape (m, p): columns[j] of K at examples[j]."""


class Damped(LinearOperator):
    """A + λI; λ in units of A's eigenvalues."""

    def __init__(self, inner: LinearOperator, damping: float, reason: str) -> None:
        if not (math.isfinite(damping) and damping >= 0):
            raise ValueError(
                f"damping must be a finite number >= 0, got {damping}; to take something away from "
                "the diagonal, subtract ihvp.Diagonal(...)"
            )
        self.inner, self.damping, self.reason = inner, damping, reason
        self.size, self.dtype, self.device = inner.size, inner.dtype, inner.device
        self.is_psd = inner.is_psd

    def matmat(self, vectors: Tensor) -> Tensor:
        """Return the damped product."""
        return torch.add(self.inner.matmat(vectors), vectors, alpha=self.damping)

    def dense(self) -> Tensor:
        """Return the matrix in float64."""
        matrix = self.inner.dense().clone()
        matrix.diagonal().add_(self.damping)
        return matrix

    def double(self) -> LinearOperator:
        """Return the same matrix with products in float64."""
        return Damped(self.inner.double(), self.damping, self.reason)

    def diagonal(self) -> Tensor:
        """Return the diagonal of shape (p,)."""
        return self.inner.diagonal() + self.damping


class Scaled(LinearOperator):
    """c · A."""

    def __init__(self, inner: LinearOperator, factor: float) -> None:
        if not math.isfinite(factor):
            raise ValueError(f"an operator can only be scaled by a finite number, got {factor}")
        self.inner, self.factor = inner, float(factor)
        self.size, self.dtype, self.device = inner.size, inner.dtype, inner.device
        self.is_psd = inner.is_psd and factor >= 0

    def matmat(self, vectors: Tensor) -> Tensor:
        """Return the scaled product."""
        return self.factor * self.inner.matmat(vectors)

    def dense(self) -> Tensor:
        """Return the matrix in float64."""
        return self.factor * self.inner.dense()

    def double(self) -> LinearOperator:
        """Return the same matrix with products in float64."""
        return Scaled(self.inner.double(), self.factor)

    def diagonal(self) -> Tensor:
        """Return the diagonal of shape (p,)."""
        return self.factor * self.inner.diagonal()


class Sum(LinearOperator):
    """A + B."""

    def __init__(self, left: LinearOperator, right: LinearOperator) -> None:
        if (left.size, left.dtype, left.device) != (right.size, right.dtype, right.device):
            raise ValueError(
                "operators can only be added if size, dtype and device agree, got "
                f"({left.size}, {left.dtype}, {left.device}) and "
                f"({right.size}, {right.dtype}, {right.device})"
            )
        self.left, self.right = left, right
        self.size, self.dtype, self.device = left.size, left.dtype, left.device
        self.is_psd = left.is_psd and right.is_psd

    def matmat(self, vectors: Tensor) -> Tensor:
        """Return the sum of the two products."""
        return self.left.matmat(vectors) + self.right.matmat(vectors)

    def dense(self) -> Tensor:
        """Return the matrix in float64."""
        return self.left.dense() + self.right.dense()

    def double(self) -> LinearOperator:
        """Return the same matrix with products in float64."""
        left, right = self.left.double(), self.right.double()
        if left.dtype != right.dtype:  # a module that does not run in float64
            return self
        return Sum(left, right)

    def diagonal(self) -> Tensor:
        """Return the diagonal of shape (p,)."""
        return self.left.diagonal() + self.right.diagonal()


class Restricted(LinearOperator):
    """The principal block of A at some coordinates."""

    def __init__(self, inner: LinearOperator, indices: Tensor | slice) -> None:
        every = torch.arange(inner.size, device=inner.device)
        chosen = every[indices] if isinstance(indices, slice) else indices.to(inner.device)
        if chosen.ndim != 1 or chosen.is_floating_point() or chosen.dtype == torch.bool:
            raise ValueError("indices must be a slice or an integer tensor of shape (q,)")
        if len(chosen) == 0 or bool(((chosen < 0) | (chosen >= inner.size)).any()):
            raise ValueError(f"indices must be non-empty and in [0, {inner.size})")
        if len(torch.unique(chosen)) != len(chosen):
            raise ValueError("indices must not repeat a coordinate")
        self.inner, self.indices = inner, chosen
        self.size, self.dtype, self.device = len(chosen), inner.dtype, inner.device
        self.is_psd = inner.is_psd

    def matmat(self, vectors: Tensor) -> Tensor:
        """Embed, multiply, and pick the block."""
        full = vectors.new_zeros(self.inner.size, vectors.shape[1])
        full[self.indices] = vectors
        return self.inner.matmat(full)[self.indices]

    def dense(self) -> Tensor:
        """Return the block in float64, from q products."""
        return dense_from_products(self)

    def double(self) -> LinearOperator:
        """Return the same matrix with products in float64."""
        return Restricted(self.inner.double(), self.indices)

    def diagonal(self) -> Tensor:
        """Return the diagonal of shape (q,)."""
        return self.inner.diagonal()[self.indices]


def _scalar(value: object) -> float | None:
    """Return a number of any library as a float, or None for anything else."""
    if isinstance(value, Tensor) and value.ndim == 0:
        return float(value)
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else None


def _identity_chunks(operator: LinearOperator) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, operator.size, _CHUNK):
        width = min(_CHUNK, operator.size - start)
        columns = torch.zeros(operator.size, width, dtype=operator.dtype, device=operator.device)
        columns[start + torch.arange(width), torch.arange(width)] = 1
        yield start, columns


def dense_from_products(operator: LinearOperator) -> Tensor:
    """Assemble the float64 matrix from p products, symmetrised."""
    check_dense(operator.size, operator.device)
    blocks = [operator.matmat(columns).double() for _, columns in _identity_chunks(operator)]
    matrix = torch.cat(blocks, dim=1)
    return (matrix + matrix.T) / 2


def diagonal_from_products(operator: LinearOperator) -> Tensor:
    """Read the diagonal off p products; memory p × 256."""
    parts = [
        operator.matmat(columns)[start : start + columns.shape[1]].diagonal()
        for start, columns in _identity_chunks(operator)
    ]
    return torch.cat(parts)


def check_columns(
    operator: LinearOperator, vectors: Tensor, name: str, wide: bool = False
) -> Tensor:
    """Return ``vectors`` as (p, k), or say what is wrong; ``wide`` lets wider types pass, too."""
    if not isinstance(vectors, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(vectors).__name__}")
    if vectors.ndim not in (1, 2) or vectors.shape[0] != operator.size:
        raise ValueError(
            f"{name} must have shape ({operator.size},) or ({operator.size}, k), "
            f"got {tuple(vectors.shape)}"
        )
    wider = torch.promote_types(vectors.dtype, operator.dtype) == vectors.dtype
    if vectors.dtype != operator.dtype and not (wide and wider):
        raise ValueError(
            f"{name} is {vectors.dtype} but the operator is {operator.dtype}; "
            f"use {name}.to({operator.dtype})"
        )
    if vectors.device != operator.device:
        raise ValueError(
            f"{name} is on {vectors.device} but the operator is on {operator.device}; "
            f"use {name}.to({str(operator.device)!r})"
        )
    columns = vectors.detach()
    return columns[:, None] if columns.ndim == 1 else columns


def leaves(operator: LinearOperator) -> list[LinearOperator]:
    """Return the operators that an expression is made of."""
    if isinstance(operator, (Damped, Scaled, Restricted)):
        return leaves(operator.inner)
    if isinstance(operator, Sum):
        return leaves(operator.left) + leaves(operator.right)
    return [operator]


def total_damping(operator: LinearOperator) -> tuple[float, str]:
    """Sum the scalar dampings of an expression, with their reasons."""
    if isinstance(operator, Damped):
        inner, reason = total_damping(operator.inner)
        return (
            inner + operator.damping,
            f"{reason}; {operator.reason}" if inner else operator.reason,
        )
    if isinstance(operator, Scaled):
        inner, reason = total_damping(operator.inner)
        return operator.factor * inner, reason
    if isinstance(operator, Sum):
        (a, why_a), (b, why_b) = total_damping(operator.left), total_damping(operator.right)
        return a + b, "; ".join(why for value, why in ((a, why_a), (b, why_b)) if value) or why_a
    if isinstance(operator, Restricted):
        return total_damping(operator.inner)
    return 0.0, "none was added"
