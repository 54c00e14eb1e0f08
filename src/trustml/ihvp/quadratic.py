"""Quantities of a matrix and its inverse: leading eigenpairs, log-determinant, trace."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trustml.ihvp.operators import LinearOperator

# Below this size the dense eigendecomposition is faster than iterating.
_DENSE = 1000


def probes(operator: LinearOperator, count: int) -> Tensor:
    """Random signs (p, count), the same at every call; the global generator is not touched."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (operator.size, count), generator=generator)
    return (2 * signs - 1).to(dtype=operator.dtype, device=operator.device)


def top_eigenpairs(
    operator: LinearOperator, k: int = 1, tol: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """Return the k largest algebraic eigenvalues and their eigenvectors.

    Dense for small p, otherwise by implicitly restarted Lanczos from a fixed start.

    Parameters
    ----------
    operator : LinearOperator
        A symmetric matrix.
    k : int
        How many pairs, 1 ≤ k ≤ p.
    tol : float
        Relative accuracy of the eigenvalues in the iterative case.

    Returns
    -------
    values : Tensor of shape (k,)
        Descending.
    vectors : Tensor of shape (p, k)
        Orthonormal columns.

    Raises
    ------
    ValueError
        If k is not in 1..p.

    Examples
    --------
    >>> from trustml.ihvp import Dense
    >>> top_eigenpairs(Dense(torch.diag(torch.tensor([1.0, 3.0, 2.0]))), 2)[0]
    tensor([3., 2.])
    """
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= operator.size:
        raise ValueError(f"k must be an integer between 1 and p = {operator.size}, got {k}")
    if operator.size <= _DENSE or 3 * k >= operator.size:
        values, vectors = torch.linalg.eigh(operator.dense())
        values, vectors = values[-k:].flip(0), vectors[:, -k:].flip(1)
    else:
        from scipy.sparse.linalg import eigsh

        # Not signs: these are orthogonal to a vector of ones once in a while.
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(operator.size, 1, generator=generator, dtype=torch.float64)
        start = start.to(operator.device, operator.dtype)
        if not bool(operator.matmat(start).any()):  # only zero does that, and ARPACK refuses it
            eye = torch.eye(operator.size, k, dtype=operator.dtype, device=operator.device)
            return eye.new_zeros(k), eye
        v0 = start[:, 0].cpu().numpy()
        found, basis = eigsh(operator.to_scipy(), k=k, which="LA", tol=tol, v0=v0)
        values = torch.as_tensor(found[::-1].copy(), device=operator.device)
        vectors = torch.as_tensor(basis[:, ::-1].copy(), device=operator.device)
    return values.to(operator.dtype), vectors.to(operator.dtype)


@dataclass(frozen=True)
class Krylov:
    """An orthonormal basis (p, m) of a Krylov space, and the tridiagonal matrix in it."""

    basis: Tensor
    diagonal: Tensor
    off_diagonal: Tensor

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Return Ritz values (m,) ascending, and their vectors (m, m) in the basis."""
        matrix = torch.diag(self.diagonal)
        if len(self.off_diagonal):
            matrix += torch.diag(self.off_diagonal, 1) + torch.diag(self.off_diagonal, -1)
        values, vectors = torch.linalg.eigh(matrix)
        return values, vectors


def lanczos(operator: LinearOperator, start: Tensor, steps: int) -> Krylov:
    """Run Lanczos with full reorthogonalisation in float64.

    Parameters
    ----------
    operator : LinearOperator
        A symmetric matrix.
    start : Tensor of shape (p,)
        Nonzero; normalised, it is the basis's first column.
    steps : int
        At most so many; fewer if an invariant space is found.

    Returns
    -------
    Krylov
    """
    steps = min(steps, operator.size)
    basis = torch.empty(operator.size, steps, dtype=torch.float64, device=operator.device)
    alphas: list[float] = []
    betas: list[float] = []
    vector = start.double() / start.double().norm()
    for j in range(steps):
        basis[:, j] = vector
        product = operator.matmat(vector[:, None].to(operator.dtype))[:, 0].double()
        alphas.append(float(product @ vector))
        known = basis[:, : j + 1]
        for _ in range(2):
            product = product - known @ (known.T @ product)
        beta = float(product.norm())
        if j + 1 == steps or beta <= 1e-10 * max(map(abs, alphas + betas)):
            break
        betas.append(beta)
        vector = product / beta
    diagonal, off_diagonal = (torch.tensor(x, dtype=torch.float64) for x in (alphas, betas))
    return Krylov(basis[:, : len(alphas)], diagonal, off_diagonal)


def is_null(value: float, largest: float, dtype: torch.dtype) -> bool:
    """Say whether an eigenvalue is zero up to the rounding of products in this dtype."""
    return abs(value) <= 10 * torch.finfo(dtype).eps * abs(largest)


def lanczos_logdet(operator: LinearOperator, count: int = 30, steps: int = 50) -> float:
    """Estimate log det A by stochastic Lanczos quadrature.

    Parameters
    ----------
    operator : LinearOperator
        Positive definite.
    count, steps : int
        Random signs, and Lanczos steps for each.

    Returns
    -------
    float
        Its standard error is at most ‖log A‖_F √(2 / count).

    Raises
    ------
    ValueError
        If a Ritz value is not positive: the logarithm does not exist.

    References
    ----------
    Ubaru, Chen and Saad (2017), Fast estimation of tr(f(A)) via stochastic Lanczos quadrature.
    """
    total = 0.0
    for z in probes(operator, count).T:
        values, vectors = lanczos(operator, z, steps).ritz()
        weights = vectors[0].square()
        if is_null(float(values[0]), float(values[-1]), operator.dtype):
            return -math.inf
        if float(values[0]) < 0:
            raise ValueError(
                f"logdet needs a positive definite matrix; a Ritz value is {float(values[0]):.3g}: "
                "add damping"
            )
        total += operator.size * float((weights * values.log()).sum())
    return total / count


def hutchinson_trace(
    operator: LinearOperator, function: Callable[[Tensor], Tensor], count: int = 60
) -> float:
    """Estimate the trace of A⁻¹, given a function that solves, from random signs.

    Parameters
    ----------
    operator : LinearOperator
        A.
    function : callable
        Maps (p, m) to A⁻¹ times it.
    count : int
        Random signs; with p of them or fewer the trace is exact.

    Returns
    -------
    float
        inf where A is singular; its standard error is at most ‖A⁻¹‖_F √(2 / count).
    """
    values, _ = lanczos(operator, probes(operator, 1)[:, 0], 50).ritz()
    if is_null(float(values[0]), float(values[-1]), operator.dtype):
        return math.inf
    z = probes(operator, min(count, operator.size))
    if operator.size <= count:
        z = math.sqrt(operator.size) * torch.eye(
            operator.size, dtype=operator.dtype, device=operator.device
        )
    return float((z * function(z)).double().sum()) / z.shape[1]
