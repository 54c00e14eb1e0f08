"""Which preconditioner: a few iterations with each that could pay, and the cheapest wins."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from trustml.ihvp.operators import LinearOperator
from trustml.ihvp.preconditioners import (
    Preconditioner,
    Unpreconditioned,
    build_preconditioner,
    expected_products,
)
from trustml.ihvp.solvers.krylov import Directions, Matrix, solve_block

# Columns of a probe, and iterations of one with a preconditioner.
_COLUMNS, _STEPS = 2, 10
# What building and probing may cost, as a part of what the unpreconditioned solve would.
_SHARE = 1 / 3
# A solve that needs no more iterations than this is not worth a preconditioner. So many are tried
# without one: early residuals predict badly, and the directions serve the solve anyway.
_FAST = 25


@dataclass(frozen=True)
class Choice:
    """A preconditioner, why, what choosing it cost, and the search directions that it found."""

    preconditioner: Preconditioner
    reason: str
    products: int
    history: Directions


def choose_preconditioner(
    operator: LinearOperator,
    matrix: Matrix,
    b: Tensor,
    tol: float,
    max_iterations: int,
    block: int,
    memory: int,
) -> Choice:
    """Probe the preconditioners on some right-hand sides and keep the cheapest.

    A probe's rate of convergence predicts the iterations, and these times the columns of a block,
    plus what building costs, the products. A candidate is only built if building and probing it
    cost less than a third of the best prediction so far. Products are counted, not seconds: the
    choice is the same on every run and machine.

    Parameters
    ----------
    operator : LinearOperator
        The matrix, damping included.
    matrix : Matrix
        Its products.
    b : Tensor of shape (p, k)
        Right-hand sides in float64.
    tol : float
        The relative residual that is asked for.
    max_iterations : int
        A prediction is never above it.
    block : int
        Columns that are solved together.
    memory : int
        Bytes for search directions.

    Returns
    -------
    Choice
    """
    columns = b[:, :: max(1, b.shape[1] // _COLUMNS)][:, :_COLUMNS]
    width = min(b.shape[1], block)

    def probe(candidate: Preconditioner, most: int) -> tuple[float, int, Directions]:
        steps = min(most, max_iterations)
        history = Directions(operator.size, memory, operator.dtype)
        found, _ = solve_block(matrix, columns, tol, steps, history, candidate.apply)
        if found.norms is None:
            return math.inf, found.products, history
        left = float(found.norms.max())
        iterations = float(found.iterations)
        if left > tol:
            rate = math.log(max(left, 1e-300)) / max(iterations, 1.0)
            iterations = math.log(tol) / rate if rate < -1e-3 else float(max_iterations)
        return min(iterations, float(max_iterations)), found.products, history

    best: Preconditioner = Unpreconditioned()
    iterations, spent, history = probe(best, _FAST)
    cost = iterations * width
    told = [f"none {iterations:.0f}"]
    for name in ("jacobi", "ekfac", "nystrom", "blocks") if iterations > _FAST else ():
        expected = expected_products(name, operator, most=int(cost * _SHARE))
        if expected is None or expected + _STEPS * columns.shape[1] > cost * _SHARE:
            continue
        try:
            candidate = build_preconditioner(name, operator, most=int(cost * _SHARE))
        except ValueError:  # it does not suit this operator: no candidate
            continue
        found, products, directions = probe(candidate, _STEPS)
        spent += products + candidate.products
        told.append(f"{name} {found:.0f}")
        if found * width < cost:
            best, cost, history = candidate, found * width, directions
    reason = f"preconditioner {best.name!r}: iterations predicted by probes: {', '.join(told)}"
    return Choice(best, reason, spent, history)
