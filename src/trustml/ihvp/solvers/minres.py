"""MINRES: symmetric matrices of any definiteness, by products alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from trustml.ihvp.operators import LinearOperator
from trustml.ihvp.solution import Status, relative_norms
from trustml.ihvp.solvers.base import Applied
from trustml.ihvp.solvers.iterative import IterativeFactorization, checked

# Ritz values are computed from the Lanczos matrices of so many columns and steps.
_LOOKED_AT, _LOOKED_FAR = 8, 200
# ‖A r‖ below so many units of rounding of ‖A‖ ‖r‖: no x makes the residual smaller.
_STATIONARY = 300.0
# Rounding lets ‖A r‖ rise again after about √rounding: the x where it was least is kept, and taken
# if ‖A r‖ rises a thousandfold, or ‖r‖ has not fallen by a hundredth so many iterations later.
_PATIENCE = 20


class MinresFactorization(IterativeFactorization):
    """Minimal residuals over Krylov spaces, all columns side by side, in float64 recurrences.

    It needs no positive definiteness: residuals never grow. For a singular matrix it converges to
    the least-squares solution of smallest norm, and the residual says what no x can reach. Memory
    is nine blocks (p, k). When the recurrence says that a column has converged, its true residual
    is computed, and the solve goes on from there where they differ.

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
    Paige and Saunders (1975), Solution of sparse indefinite systems of linear equations. Liu,
    Milzarek and Roosta (2023), Obtaining pseudo-inverse solutions with MINRES, arXiv:2309.17096.
    """

    method = "minres"

    trust = (
        "The residual is a true one, by a product with the matrix itself: the relative error of x "
        "is at most that times the matrix's condition number, "
        "and where no x solves the system it is what least squares leaves"
    )

    def __init__(
        self,
        operator: LinearOperator,
        tol: float,
        max_iterations: int | None = None,
        reason: str = "asked for",
    ) -> None:
        self.operator, self.tol, self.method_reason = operator, tol, reason
        self._max_iterations = max_iterations or min(10 * operator.size, 2000)
        self._rounding = torch.finfo(operator.dtype).eps

    def _apply(self, b: Tensor) -> Applied:
        goal = self.tol * b.norm(dim=0)
        x, residual = torch.zeros_like(b), b.clone()
        iterations, products, min_ritz = 0, 0, math.inf
        active = torch.ones(b.shape[1], dtype=torch.bool, device=b.device)
        squares = ~active
        while bool(active.any()) and iterations < self._max_iterations:
            left = self._max_iterations - iterations
            run = _Run(self._product, residual[:, active], goal[active], left, self._rounding)
            places = active.nonzero().flatten()
            start = x[:, active] + run.x
            trial = self._lifted(start, b[:, active] - self._product(start), run.least_squares)
            error = b[:, active] - self._product(trial)
            iterations, products = iterations + run.steps, products + run.products
            products += 2 * len(places)
            min_ritz = min(min_ritz, run.min_ritz())
            before, after = residual[:, active].norm(dim=0), error.norm(dim=0)
            better = (after <= before) | run.least_squares
            x[:, places[better]] = trial[:, better]
            residual[:, places[better]] = error[:, better]
            squares[places[run.least_squares]] = True
            # What did not halve will not: the rest is rounding, or outside the range.
            over = run.least_squares | (after > 0.5 * before) | (after <= goal[active])
            active[places[over]] = False
        open_ = residual.norm(dim=0) > goal
        status = Status.CONVERGED
        if bool((open_ & squares).any()):
            status = Status.RANK_DEFICIENT
        elif bool(open_.any()):
            spent = iterations >= self._max_iterations
            status = Status.MAX_ITERATIONS if spent else Status.INACCURATE
        norms = relative_norms(residual, b)
        return Applied(x, iterations, status, min_ritz, products, norms)

    def _lifted(self, x: Tensor, residual: Tensor, which: Tensor) -> Tensor:
        """Round x; a least-squares solution loses its null part, which lies along the residual."""
        along = (residual * x).sum(dim=0) / residual.square().sum(dim=0).clamp_min(1e-300)
        x = x - torch.where(which, along, 0.0) * residual
        return x.to(self.operator.dtype).double()

    def _product(self, x: Tensor) -> Tensor:
        return checked(self.operator.matmat(x.to(self.operator.dtype)))


class _Run:
    """One run from a right-hand side; columns that have stopped are taken out of the products."""

    def __init__(
        self,
        multiply: Callable[[Tensor], Tensor],
        b: Tensor,
        goal: Tensor,
        max_iterations: int,
        rounding: float,
    ) -> None:
        k = b.shape[1]
        self.x = torch.zeros_like(b)
        self.least_squares = torch.zeros(k, dtype=torch.bool, device=b.device)
        self.steps = self.products = 0
        self._alphas: list[Tensor] = []
        self._betas: list[Tensor] = []
        eta = b.norm(dim=0)
        places = torch.arange(k, device=b.device)
        zero, one = torch.zeros_like(eta), torch.ones_like(eta)
        old, v = torch.zeros_like(b), b / eta
        w_old, w, x = (torch.zeros_like(b) for _ in range(3))
        beta, c0, c1, s0, s1, size = zero, one, one, zero, zero, zero
        kept, least, eta_kept, age = x, zero + math.inf, eta, zero
        for _ in range(max_iterations):
            image = multiply(v)
            self.steps, self.products = self.steps + 1, self.products + v.shape[1]
            alpha = (v * image).sum(dim=0)
            fresh = image - alpha * v - beta * old
            following = fresh.norm(dim=0)
            self._remember(alpha, following, len(places) == k)
            size = torch.maximum(size, (alpha.square() + beta.square() + following.square()).sqrt())
            invariant = following <= 10 * rounding * size
            following = torch.where(invariant, 0.0, following)
            delta = c1 * alpha - c0 * s1 * beta
            # ‖A r‖ of the residual before this step.
            slope = torch.hypot(delta, c1 * following)
            better = (slope < least) & (slope <= 10 * math.sqrt(rounding) * size)
            kept, least = torch.where(better, x, kept), torch.where(better, slope, least)
            eta_kept = torch.where(better, eta.abs(), eta_kept)
            age = torch.where(better, 0.0, age + torch.isfinite(least))
            flat = slope <= _STATIONARY * rounding * size
            flat |= (age >= _PATIENCE) & (eta.abs() > 0.99 * eta_kept)
            flat |= (slope > 1e3 * least) & (eta.abs() > 0.5 * eta_kept)
            x = torch.where(flat, kept, x)
            rho1 = torch.hypot(delta, following)
            rho2, rho3 = s1 * alpha + c0 * c1 * beta, s0 * beta
            safe = torch.where(flat, 1.0, rho1)
            w_old, w = w, torch.where(flat, 0.0, (v - rho3 * w_old - rho2 * w) / safe)
            c0, c1, s0, s1 = c1, delta / safe, s1, following / safe
            x = x + torch.where(flat, 0.0, c1 * eta) * w
            eta = torch.where(flat, eta, -s1 * eta)
            old, v = v, fresh / torch.where(invariant, 1.0, following)
            beta = following
            over = flat | invariant | (eta.abs() <= goal[places])
            self.least_squares[places] = flat
            if bool(over.any()):
                self.x[:, places[over]] = x[:, over]
                on = ~over
                places = places[on]
                old, v, w_old, w, x, kept = (part[:, on] for part in (old, v, w_old, w, x, kept))
                beta, c0, c1, s0, s1, size, eta, least, eta_kept, age = (
                    part[on] for part in (beta, c0, c1, s0, s1, size, eta, least, eta_kept, age)
                )
                if not len(places):
                    break
        self.x[:, places] = x

    def _remember(self, alpha: Tensor, beta: Tensor, complete: bool) -> None:
        if complete and len(self._alphas) < _LOOKED_FAR:
            self._alphas.append(alpha[:_LOOKED_AT].cpu())
            self._betas.append(beta[:_LOOKED_AT].cpu())

    def min_ritz(self) -> float:
        """Return the smallest Ritz value of the first columns."""
        alphas, betas = torch.stack(self._alphas, dim=1), torch.stack(self._betas, dim=1)[:, :-1]
        matrices = torch.diag_embed(alphas)
        matrices = matrices + torch.diag_embed(betas, 1) + torch.diag_embed(betas, -1)
        return float(torch.linalg.eigvalsh(matrices).min())
