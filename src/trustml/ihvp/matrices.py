"""Matrices that are held in memory, and the door for products that trustml does not know."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trustml.ihvp.operators import (
    LinearOperator,
    dense_from_products,
    diagonal_from_products,
    leaves,
)


class Dense(LinearOperator):
    """A symmetric matrix that is held in memory.

    Parameters
    ----------
    matrix : Tensor of shape (p, p)
        Symmetric up to rounding, finite; float32 or float64.
    is_psd : bool
        The caller's promise.

    Raises
    ------
    TypeError
        If it is no tensor.
    ValueError
        If the matrix is not square, finite and symmetric.

    Examples
    --------
    >>> Dense(torch.eye(2)).diagonal()
    tensor([1., 1.])
    """

    def __init__(self, matrix: Tensor, is_psd: bool = False) -> None:
        if not isinstance(matrix, Tensor):
            raise TypeError(
                f"matrix must be a torch.Tensor, got {type(matrix).__name__}; use torch.as_tensor"
            )
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"matrix must have shape (p, p), got {tuple(matrix.shape)}")
        if not matrix.is_floating_point():
            raise ValueError(f"matrix must be floating point, got {matrix.dtype}; use .double()")
        if not bool(torch.isfinite(matrix).all()):
            raise ValueError("matrix has NaN or infinite entries; remove them first")
        scale = matrix.abs().max() if matrix.numel() else torch.tensor(0.0)
        slack = 1e-4 if matrix.dtype != torch.float64 else 1e-8
        if matrix.numel() and bool((matrix - matrix.T).abs().max() > slack * scale):
            raise ValueError("matrix is not symmetric; pass (M + M.T) / 2 if that is what you mean")
        self.matrix = ((matrix + matrix.T) / 2).detach()
        self.size, self.dtype, self.device = matrix.shape[0], matrix.dtype, matrix.device
        self.is_psd = is_psd

    def matmat(self, vectors: Tensor) -> Tensor:
        """Return ``matrix @ vectors``."""
        return self.matrix @ vectors

    def dense(self) -> Tensor:
        """Return the matrix in float64."""
        return self.matrix.double()

    def double(self) -> LinearOperator:
        """Return the same matrix with products in float64."""
        return self if self.dtype == torch.float64 else Dense(self.matrix.double(), self.is_psd)

    def diagonal(self) -> Tensor:
        """Return the diagonal of shape (p,)."""
        return self.matrix.diagonal().clone()


class Diagonal(LinearOperator):
    """A diagonal matrix, for instance one damping for each parameter.

    Parameters
    ----------
    entries : Tensor of shape (p,)
        The diagonal; finite.

    Raises
    ------
    ValueError
        If the entries are not a finite floating point vector.
    """

    def __init__(self, entries: Tensor) -> None:
        if entries.ndim != 1 or not entries.is_floating_point():
            raise ValueError(
                f"entries must be a floating point vector of shape (p,), got {entries.dtype} of "
                f"shape {tuple(entries.shape)}"
            )
        if not bool(torch.isfinite(entries).all()):
            raise ValueError("entries has NaN or infinite values; remove them first")
        self.entries = entries.detach()
        self.size, self.dtype, self.device = len(entries), entries.dtype, entries.device
        self.is_psd = bool((entries >= 0).all())

    def matmat(self, vectors: Tensor) -> Tensor:
        """Scale each row of ``vectors``."""
        return self.entries[:, None] * vectors

    def dense(self) -> Tensor:
        """Return the matrix in float64."""
        return torch.diag(self.entries.double())

    def double(self) -> LinearOperator:
        """Return the same matrix with products in float64."""
        return Diagonal(self.entries.double())

    def diagonal(self) -> Tensor:
        """Return the entries."""
        return self.entries.clone()


class MatrixFree(LinearOperator):
    """An operator from a function: the door for matrices that trustml does not know.

    Parameters
    ----------
    product : callable
        Maps a Tensor (p, k) to the product (p, k); linear and symmetric.
    size : int
        p.
    dtype, device
        Of the tensors that ``product`` takes.
    is_psd : bool
        The caller's promise.
    """

    def __init__(
        self,
        product: Callable[[Tensor], Tensor],
        size: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        is_psd: bool = False,
    ) -> None:
        self._product = product
        self.size, self.dtype, self.device = size, dtype, torch.device(device)
        self.is_psd = is_psd

    def matmat(self, vectors: Tensor) -> Tensor:
        """Call the function."""
        return self._product(vectors)

    def dense(self) -> Tensor:
        """Return the matrix in float64, from p products."""
        return dense_from_products(self)

    def double(self) -> LinearOperator:
        """Return the same matrix with products in float64."""
        return MatrixFree(
            lambda v: self._product(v.to(self.dtype)).double(),
            self.size,
            torch.float64,
            self.device,
            self.is_psd,
        )

    def diagonal(self) -> Tensor:
        """Return the diagonal, from p products."""
        return diagonal_from_products(self)


def rounded_entries(operator: LinearOperator) -> bool:
    """Say whether some part is known in float32 only, so that float64 products add no digits."""
    return any(
        isinstance(leaf, (Dense, MatrixFree)) or leaf.double().dtype != torch.float64
        for leaf in leaves(operator)
        if leaf.dtype != torch.float64
    )
