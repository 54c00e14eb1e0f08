"""Block conjugate gradients that judge themselves by the true residual."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trustml.ihvp.operators import LinearOperator
from trustml.ihvp.quadratic import hutchinson_trace, lanczos_logdet
from trustml.ihvp.solution import Status
from trustml.ihvp.solvers.base import Applied, Factorization

# Columns solved together: they share one Krylov space; memory is five (p, BLOCK) blocks.
BLOCK = 64
_REFRESH = 50
_DEPENDENT = 1e-10


class ConjugateGradientFactorization(Factorization):
    """Conjugate gradients on blocks of right-hand sides, with float64 recurrences.

    The search directions of a block are orthonormalised, so dependent, equal or zero columns
    cannot break it down. A converged column is frozen. The residuals that decide are true
    residuals, recomputed every 50 iterations and before a column counts as converged. Directions
    of negative curvature are taken out of the step, and the columns that need them are frozen
    and reported.

    Parameters
    ----------
    operator : LinearOperator
        The matrix, damping included; known by products alone.
    tol : float
        A column stops at ‖b − A x‖ ≤ tol · ‖b‖.
    max_iterations : int or None
        None means min(10·p, 2000).
    reason : str
        Why this method.

    References
    ----------
    O'Leary (1980), The block conjugate gradient algorithm and related methods. Ji and Li (2017),
    A breakdown-free block conjugate gradient method.
    """

    def __init__(
        self,
        operator: LinearOperator,
        tol: float,
        max_iterations: int | None = None,
        reason: str = "asked for",
    ) -> None:
        self.operator, self.tol = operator, tol
        self._exact = operator
        self._max_iterations = max_iterations or min(10 * operator.size, 2000)
        self.method, self.method_reason = "cg", reason

    def _apply(self, b: Tensor) -> Applied:
        parts = [
            _solve_block(self.operator, block, self.tol, self._max_iterations)
            for block in torch.split(b, BLOCK, dim=1)
        ]
        severity = [Status.CONVERGED, Status.MAX_ITERATIONS, Status.NEGATIVE_CURVATURE]
        return Applied(
            torch.cat([part.x for part in parts], dim=1),
            max(part.iterations for part in parts),
            max((part.status for part in parts), key=severity.index),
            min(part.min_ritz for part in parts),
        )

    def _quadratic_form(self, b: Tensor) -> Tensor:
        solution = self._solve(b.to(self.operator.dtype), stacklevel=4)
        return (b * solution.x.double()).sum(dim=0)

    def logdet(self) -> float:
        """Estimate log det A by stochastic Lanczos quadrature with fixed probes (about 1 %)."""
        return lanczos_logdet(self.operator)

    def trace(self) -> float:
        """Estimate the trace of A⁻¹ by Hutchinson's estimator with fixed probes (about 1 %)."""
        return hutchinson_trace(self.operator, lambda z: self._solve(z, stacklevel=5).x)


def _product(operator: LinearOperator, block: Tensor) -> Tensor:
    return operator.matmat(block.to(operator.dtype)).double()


def _orthonormal(block: Tensor) -> Tensor:
    """Return an orthonormal basis of the columns' span; dependent columns vanish."""
    norms = block.norm(dim=0)
    block = block[:, norms > 0] / norms[norms > 0]
    if block.shape[1] == 0:
        return block
    values, vectors = torch.linalg.eigh(block.T @ block)
    keep = values > _DEPENDENT * values[-1]
    basis = block @ (vectors[:, keep] / values[keep].sqrt())
    orthonormal: Tensor = torch.linalg.qr(basis)[0]
    return orthonormal


def _solve_block(operator: LinearOperator, b: Tensor, tol: float, max_iterations: int) -> Applied:
    """Run the block until every column has converged or is frozen."""
    noise = 10 * torch.finfo(operator.dtype).eps
    scale = b.norm(dim=0)
    b = b / scale
    x, residual = torch.zeros_like(b), b.clone()
    active = torch.ones(b.shape[1], dtype=torch.bool, device=b.device)
    negative = torch.zeros_like(active)
    largest, min_ritz = 0.0, math.inf
    iterations, best = 0, math.inf
    directions = _orthonormal(residual)
    while bool(active.any()) and iterations < max_iterations and directions.shape[1]:
        products = _product(operator, directions)
        iterations += 1
        inner = directions.T @ products
        values, vectors = torch.linalg.eigh((inner + inner.T) / 2)
        largest = max(largest, float(values.abs().max()))
        min_ritz = min(min_ritz, float(values[0]))
        coordinates = vectors.T @ (directions.T @ residual)
        # A column whose residual leans on a direction of negative curvature stops here.
        if bool((values < -noise * largest).any()):
            lean = coordinates[values < -noise * largest].norm(dim=0)
            struck = active & (lean > 1e-8 * residual.norm(dim=0))
            negative |= struck
            active &= ~struck
        keep = values > noise * 1e-3 * largest
        vectors, coordinates = vectors[:, keep], coordinates[keep] / values[keep][:, None]
        step = vectors @ coordinates[:, active]
        x[:, active] += directions @ step
        residual[:, active] -= products @ step
        done = active & (residual.norm(dim=0) <= tol)
        drifted = False
        if bool(done.any()) or iterations % _REFRESH == 0:
            check = active if iterations % _REFRESH == 0 else done
            residual[:, check] = b[:, check] - _product(operator, x[:, check])
            truly = residual.norm(dim=0) <= tol
            drifted = bool((done & ~truly).any())
            active &= ~truly
        if drifted:
            # The recurrence was too optimistic: go on from the true residual, afresh, for as
            # long as that helps.
            worst = float(residual[:, done].norm(dim=0).max())
            if worst > 0.5 * best:
                break
            best = worst
            directions = _orthonormal(residual[:, active])
            continue
        fresh = residual[:, active]
        conjugate = vectors @ ((vectors.T @ (products.T @ fresh)) / values[keep][:, None])
        directions = _orthonormal(fresh - directions @ conjugate)
    if bool(negative.any()):
        status = Status.NEGATIVE_CURVATURE
    else:
        status = Status.MAX_ITERATIONS if bool(active.any()) else Status.CONVERGED
    return Applied(x * scale, iterations, status, min_ritz)
