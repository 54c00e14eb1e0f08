"""Block conjugate gradients that judge themselves by the true residual."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from trustml.ihvp.operators import LinearOperator
from trustml.ihvp.quadratic import hutchinson_trace, lanczos_logdet
from trustml.ihvp.solution import Status
from trustml.ihvp.solvers.base import NOT_FINITE, Applied, Factorization

# Columns solved together: they share one Krylov space.
BLOCK = 64
_REFRESH = 50
_DEPENDENT = 1e-10
# Bytes for search directions that are kept, to stay conjugate to them and to start later blocks.
_HISTORY = 2**29


class ConjugateGradientFactorization(Factorization):
    """Conjugate gradients on blocks of right-hand sides, with float64 recurrences.

    The search directions of a block are orthonormalised, so dependent, equal or zero columns
    cannot break it down, and kept conjugate to all earlier ones that fit into memory; later
    blocks start from them. A converged column is frozen. The residuals that decide are true
    residuals, recomputed every 50 iterations and before a column counts as converged. Directions
    of negative curvature are left out of the step, and the columns that lean on them are frozen
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
        self._rounding = torch.finfo(operator.dtype).eps
        self._max_iterations = max_iterations or min(10 * operator.size, 2000)
        self.method, self.method_reason = "cg", reason

    def _apply(self, b: Tensor) -> Applied:
        history = _Directions(self.operator.size)
        parts: list[Applied] = []
        for block in torch.split(b, BLOCK, dim=1):
            part, open_columns = self._solve_block(block, history)
            if part.status is Status.NEGATIVE_CURVATURE:
                # The space that the columns share met it: see which of them do so on their own.
                history = _Directions(self.operator.size)
                if block.shape[1] > 1:
                    part = self._one_by_one(block, part, open_columns)
            parts.append(part)
        return _worst(torch.cat([part.x for part in parts], dim=1), parts)

    def _one_by_one(self, block: Tensor, part: Applied, open_columns: Tensor) -> Applied:
        x = part.x.clone()
        alone = []
        for j in open_columns.nonzero().flatten().tolist():
            single, _ = self._solve_block(block[:, j : j + 1], _Directions(self.operator.size))
            x[:, j : j + 1] = single.x
            alone.append(single)
        return _worst(x, alone)

    def _solve_block(self, block: Tensor, history: _Directions) -> tuple[Applied, Tensor]:
        return _solve_block(
            self._product, block, self.tol, self._max_iterations, history, self._rounding
        )

    def _product(self, x: Tensor) -> Tensor:
        product = self.operator.matmat(x.to(self.operator.dtype)).double()
        if not bool(torch.isfinite(product).all()):
            raise ValueError(NOT_FINITE)
        return product

    def _quadratic_form(self, b: Tensor) -> Tensor:
        solution = self._solve(b.to(self.operator.dtype), stacklevel=4)
        return (b * solution.x.double()).sum(dim=0)

    def logdet(self) -> float:
        """Estimate log det A by stochastic Lanczos quadrature with fixed probes."""
        return lanczos_logdet(self.operator)

    def trace(self) -> float:
        """Estimate the trace of A⁻¹ by Hutchinson's estimator with fixed probes."""
        return hutchinson_trace(self.operator, lambda z: self._solve(z, stacklevel=5).x)


def _worst(x: Tensor, parts: list[Applied]) -> Applied:
    """Join the verdicts of several solves: the gravest one counts."""
    gravity = [
        Status.CONVERGED,
        Status.INACCURATE,
        Status.MAX_ITERATIONS,
        Status.NEGATIVE_CURVATURE,
    ]
    return Applied(
        x,
        max(part.iterations for part in parts),
        max((part.status for part in parts), key=gravity.index),
        min(part.min_ritz for part in parts),
    )


class _Directions:
    """Search directions P and products Q = A P with P'Q = I, as many as fit."""

    def __init__(self, size: int) -> None:
        self._room = max(1, _HISTORY // (16 * size))
        self._p: list[Tensor] = []
        self._q: list[Tensor] = []

    def append(self, p: Tensor, q: Tensor) -> None:
        self._p.append(p)
        self._q.append(q)
        while len(self._p) > 1 and sum(block.shape[1] for block in self._p) > self._room:
            del self._p[0], self._q[0]
        if len(self._p) > 16 and self._p[0].shape[1] < self._room // 2:
            # A few large blocks multiply faster than many small ones.
            self._p, self._q = [torch.cat(self._p, dim=1)], [torch.cat(self._q, dim=1)]

    def conjugate(self, block: Tensor) -> Tensor:
        """Remove from the columns what is not A-orthogonal to the directions."""
        for p, q in zip(self._p, self._q, strict=True):
            block = block - p @ (q.T @ block)
        return block

    def project(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best step within the directions, and its product with A."""
        step, product = torch.zeros_like(residual), torch.zeros_like(residual)
        for p, q in zip(self._p, self._q, strict=True):
            weights = p.T @ residual
            step += p @ weights
            product += q @ weights
        return step, product


def _orthonormal(block: Tensor) -> Tensor:
    """Return an orthonormal basis of the columns' span; dependent columns vanish."""
    norms = block.norm(dim=0)
    block = block[:, norms > 0] / norms[norms > 0]
    if block.shape[1] == 0:
        return block
    values, vectors = torch.linalg.eigh(block.T @ block)
    keep = values > _DEPENDENT * values[-1]
    basis: Tensor = torch.linalg.qr(block @ (vectors[:, keep] / values[keep].sqrt()))[0]
    return basis


def _basis(coordinates: Tensor, inner: Tensor, floor: float) -> tuple[Tensor, Tensor] | None:
    """Return a basis of the columns' span where ``inner`` is diagonal, or None if it is not PD."""
    span = _orthonormal(coordinates)
    values, vectors = torch.linalg.eigh(span.T @ inner @ span)
    if len(values) and float(values[0]) < -floor:
        return None
    keep = values > floor
    return span @ vectors[:, keep], values[keep]


def _solve_block(
    multiply: Callable[[Tensor], Tensor],
    b: Tensor,
    tol: float,
    max_iterations: int,
    history: _Directions,
    rounding: float,
) -> tuple[Applied, Tensor]:
    """Run a block until all converge or curvature is negative; and say which are still open."""
    scale = b.norm(dim=0)
    b = b / scale
    x, product = history.project(b)
    residual = b - product
    active = torch.ones(b.shape[1], dtype=torch.bool, device=b.device)
    negative = inaccurate = False
    noise = 10 * rounding
    best_x, best = torch.zeros_like(b), torch.ones_like(scale)
    earlier = torch.full_like(scale, math.inf)
    largest, min_ritz, drift, iterations = 0.0, math.inf, math.inf, 0
    while True:
        norms = residual.norm(dim=0)
        done = active & (norms <= tol)
        refresh = iterations > 0 and iterations % _REFRESH == 0
        if bool(done.any()) or refresh:
            check = active if refresh else done
            residual[:, check] = b[:, check] - multiply(x[:, check])
            norms = residual.norm(dim=0)
            active &= norms > tol
            if refresh:
                # Near the rounding of x and of the products with it, no progress means the end.
                near = norms <= 100 * rounding * largest * x.norm(dim=0)
                stuck = active & near & (norms > 0.5 * earlier)
                inaccurate |= bool(stuck.any())
                active &= ~stuck
                earlier = norms
            drifted = done & active
            if bool(drifted.any()):
                # The recurrence was too optimistic: go on from the true residual while it helps.
                worst = float(norms[drifted].max())
                if worst > 0.5 * drift:
                    break
                drift = worst
                step, product = history.project(residual[:, active])
                x[:, active] += step
                residual[:, active] -= product
        better = norms < 0.5 * best
        best_x[:, better], best[better] = x[:, better], norms[better]
        if not bool(active.any()) or iterations >= max_iterations:
            break
        fresh = history.conjugate(_orthonormal(residual[:, active]))
        directions = _orthonormal(history.conjugate(fresh))
        if directions.shape[1] == 0:
            break
        products = multiply(directions)
        iterations += 1
        inner = directions.T @ products
        inner = (inner + inner.T) / 2
        values = torch.linalg.eigvalsh(inner)
        largest = max(largest, float(values.abs().max()))
        min_ritz = min(min_ritz, float(values[0]))
        coordinates = directions.T @ residual
        basis = _basis(coordinates[:, active], inner, noise * largest)
        if basis is None:
            negative = True
            break
        vectors, curvatures = basis
        if not len(curvatures):
            break
        vectors = vectors / curvatures.sqrt()
        p, q = directions @ vectors, products @ vectors
        history.append(p, q)
        step = p.T @ residual[:, active]
        x[:, active] += p @ step
        residual[:, active] -= q @ step
    worse = (norms > best) & (norms > tol)
    x[:, worse] = best_x[:, worse]
    if negative:
        status = Status.NEGATIVE_CURVATURE
    elif bool(active.any()):
        status = Status.MAX_ITERATIONS
    else:
        status = Status.INACCURATE if inaccurate else Status.CONVERGED
    return Applied(x * scale, iterations, status, min_ritz), active
