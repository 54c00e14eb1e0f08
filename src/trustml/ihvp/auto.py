"""``solve`` and ``factorize``: choose a method by predicted cost and memory, and say why."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from trustml.core.distributed import agreed
from trustml.core.memory import gigabytes, total
from trustml.core.validation import check_choice, check_positive_int
from trustml.ihvp.graphs import product_flops
from trustml.ihvp.operators import LinearOperator, leaves
from trustml.ihvp.preconditioners import Preconditioner
from trustml.ihvp.quadratic import probes
from trustml.ihvp.solution import Solution
from trustml.ihvp.solvers import SOLVERS, Factorization
from trustml.ihvp.solvers.compressed import SINGLE, select_rows
from trustml.ihvp.solvers.conjugate_gradient import ConjugateGradientFactorization
from trustml.ihvp.solvers.dual import as_factored, why_not_dual
from trustml.ihvp.solvers.kronecker import closed_form
from trustml.ihvp.solvers.sketch import SKETCH

# An exact direct solve of so many operations (a fraction of a second of one core) is taken without
# looking further.
_CHEAP = 2e10
# Iterations of CG: what it may be taken to need unseen, the least that it could need, and what is
# tried on how many columns before a choice that depends on them.
_ITERATIONS, _LEAST, _TRIED, _COLUMNS = 30, 2, 20, 8
# Directions that many columns need together, in those of a probe (measured on digits: 2 to 3).
_SHARED = 3
# Numbers a row in the factors of the output Hessians, above which their norms are not asked for.
_FACTORS = 2**16
# Right-hand sides that are expected of a factorisation.
_MANY = 1000


def solve(
    A: LinearOperator,
    B: Tensor,
    method: str = "auto",
    tol: float = 1e-3,
    max_iterations: int | None = None,
    preconditioner: str | Preconditioner = "auto",
) -> Solution:
    """Solve A x = b for each column of ``B``, with a certificate.

    Parameters
    ----------
    A : LinearOperator
        The matrix, its damping included: ``G + 1e-3``.
    B : Tensor of shape (p,) or (p, k)
        Right-hand sides in A's dtype and on its device; finite.
    method : str
        "cholesky" assembles A in float64. "dual" works in output space, exact whatever p;
        "compressed" keeps the output rows that matter. "cg" needs products alone. "kfac" and
        "ekfac" apply the inverse of an approximation. The others are in the guide. "auto" takes
        the cheapest that reaches the tolerance, by predicted memory and operations and a few
        probed iterations.
    tol : float
        The relative residual that counts as converged, in (0, 1).
    max_iterations : int or None
        Bound for iterative methods; None chooses.
    preconditioner : str or Preconditioner
        For "cg": "none", "jacobi", "nystrom", "blocks", "kfac", "ekfac", or "auto", which probes.

    Returns
    -------
    Solution
        Numerical trouble is in it, with one warning; it is never NaN.

    Examples
    --------
    >>> import torch
    >>> from trustml.ihvp import Dense
    >>> solve(Dense(2 * torch.eye(2)), torch.ones(2)).x
    tensor([0.5000, 0.5000])
    """
    columns = B.shape[1] if isinstance(B, Tensor) and B.ndim == 2 else 1
    inverse = _prepare(A, method, tol, max_iterations, columns, preconditioner)
    return inverse._solve(B, stacklevel=3)


def factorize(
    A: LinearOperator,
    method: str = "auto",
    tol: float = 1e-3,
    max_iterations: int | None = None,
    columns: int | None = None,
    preconditioner: str | Preconditioner = "auto",
) -> Factorization:
    """Prepare A⁻¹ once, for many questions.

    Parameters
    ----------
    A : LinearOperator
        The matrix, its damping included.
    method, tol, max_iterations, preconditioner
        As for ``solve``.
    columns : int or None
        How many right-hand sides will be asked about: what "auto" weighs a direct solve against.
        None means many.

    Returns
    -------
    Factorization
        With ``solve(B)``, ``quadratic_form(B)``, ``logdet()`` and ``trace()`` (of the inverse).

    Examples
    --------
    >>> import torch
    >>> from trustml.ihvp import Dense
    >>> inverse = factorize(Dense(2 * torch.eye(3)))
    >>> round(inverse.trace(), 6)
    1.5
    """
    many = _MANY if columns is None else check_positive_int(columns, "columns")
    return _prepare(A, method, tol, max_iterations, many, preconditioner)


def _prepare(
    A: LinearOperator,
    method: str,
    tol: float,
    max_iterations: int | None,
    columns: int,
    preconditioner: str | Preconditioner,
) -> Factorization:
    if not isinstance(A, LinearOperator):
        raise TypeError(
            f"A must be a trustml.ihvp operator, got {type(A).__name__}; wrap a matrix with "
            "ihvp.Dense(matrix)"
        )
    check_choice(method, "method", ("auto", *SOLVERS))
    if not (isinstance(tol, (int, float)) and 0 < tol < 1):
        raise ValueError(f"tol must be a number in (0, 1), got {tol!r}")
    if max_iterations is not None:
        check_positive_int(max_iterations, "max_iterations")
    reason = "asked for"
    if method == "auto":
        method, reason = choose_method(A, columns, tol)
    elif preconditioner != "auto" and method != "cg":
        raise ValueError(
            f'preconditioner={preconditioner!r} is for method="cg"; "{method}" takes none'
        )
    if method == "cg":
        return ConjugateGradientFactorization(A, tol, max_iterations, reason, preconditioner)
    factory = SOLVERS[method]
    return factory(A, float(tol), max_iterations, reason)  # type: ignore[call-arg]


def choose_method(A: LinearOperator, columns: int, tol: float = 1e-3) -> tuple[str, str]:
    """Return the cheapest method that reaches the tolerance, and the reason for it.

    A closed form where the matrix has one. Otherwise operations are predicted: of assembling and
    factorising where that fits into the memory; of the output rows that matter at this tolerance,
    from their norms; of conjugate gradients, from the products that a few columns really need.
    The prediction counts operations, not seconds: the choice is the same on every run.

    Parameters
    ----------
    A : LinearOperator
        The matrix.
    columns : int
        How many right-hand sides are expected.
    tol : float
        The relative residual that is wanted.

    Returns
    -------
    method, reason : str
    """
    structured = closed_form(A)
    if structured is not None:
        return structured, "the matrix has a closed-form inverse"
    p, memory, product = A.size, memory_budget(), _product_flops(A)
    direct = _direct_costs(A, columns, memory, product)
    if direct:
        exact = min(direct, key=lambda name: direct[name].flops)
        if direct[exact].flops <= _CHEAP:
            return exact, direct[exact].reason
    compressed = _compressed_cost(A, columns, tol, memory, product)
    if compressed is not None:
        direct["compressed"] = compressed
    if not direct:
        return "cg", f"p = {p}: no direct solve fits into {gigabytes(memory)}"
    best = min(direct, key=lambda name: direct[name].flops)
    cost = direct[best].flops
    if _LEAST * product * columns < cost:
        needed = _products_needed(A, columns, tol, cost / product)
        if needed * product < cost:
            return "cg", (
                f"p = {p}: about {needed:.0f} products, {needed * product:.0e} operations, where "
                f"{best!r} would take {cost:.0e}"
            )
    return best, direct[best].reason


class _Cost(NamedTuple):
    flops: float
    reason: str


def _direct_costs(
    A: LinearOperator, columns: int, memory: float, product: float
) -> dict[str, _Cost]:
    """Return the exact direct methods that fit into the memory, with what they would take."""
    p, factored = A.size, as_factored(A)
    rows = None if factored is None else factored.n_factors
    costs = {}
    if rows is not None and why_not_dual(A) is None and 24 * rows * (p + rows) <= memory:
        told = f"{rows} output rows against p = {p}: exact in output space"
        flops = rows * rows * p + rows**3 / 3 + 8 * rows * p * columns
        costs["dual"] = _Cost(flops, told if rows else f"p = {p}: the matrix is diagonal")
    if 32 * p * p <= memory:
        assemble = p * product if rows is None else p * min(rows * p, product)
        told = f"p = {p}: the dense matrix is cheap, and exact"
        costs["cholesky"] = _Cost(assemble + p**3 / 3 + 4 * p * p * columns, told)
    return costs


def _compressed_cost(
    A: LinearOperator, columns: int, tol: float, memory: float, product: float
) -> _Cost | None:
    """Return what the output rows that matter would take; None where they cannot be told."""
    factored = as_factored(A)
    if factored is None or factored.core is None or not bool((factored.diagonal > 0).all()):
        return None
    n_rows = factored.core.n_factors
    objective = getattr(factored.core, "objective", None)
    if objective is None or (n_rows / len(objective.data)) ** 2 > _FACTORS:
        return None
    selection = select_rows(A, tol)
    m = 0 if selection is None else len(selection.examples)
    size = 4 if A.dtype == torch.float32 and tol >= SINGLE else 8
    if selection is None or 2 * size * m * A.size + 32 * m * m > memory:
        return None
    flops = m * m * A.size + m**3 / 3 + 4 * m * (A.size + m) * columns + SKETCH * product
    return _Cost(flops, f"p = {A.size}: the large rows of the outputs' curvature suffice")


def _products_needed(A: LinearOperator, columns: int, tol: float, most: float) -> float:
    """Predict the products that CG takes, from a few iterations on a few columns."""
    tried = min(columns, _COLUMNS)
    if columns < 2 * _COLUMNS or _TRIED * tried > most:
        return float(_ITERATIONS * columns)
    probe = ConjugateGradientFactorization(A, tol, _TRIED, preconditioner="none")
    found = probe._apply(probes(A, tried).double())
    left = 1.0 if found.norms is None else float(found.norms.max())
    longer = math.log(tol) / math.log(left) if tol < left < 0.9 else 1.0 if left <= tol else 50.0
    # Many columns share a space of search directions: at most what each would take alone, as a
    # rule some probes' worth of directions and two products a column.
    spent = found.products * max(1.0, longer)
    return min(spent * columns / tried, _SHARED * spent + 2 * columns)


def _product_flops(A: LinearOperator) -> float:
    """Guess the operations of one product with one vector."""
    total = 0.0
    for leaf in leaves(A):
        objective = getattr(leaf, "objective", None)
        if objective is None:
            total += 2.0 * leaf.size**2
        else:
            total += len(objective.data) * product_flops(objective)
    return total


def memory_budget() -> float:
    """Return a quarter of the machine's memory in bytes: the same choice on every run."""
    return agreed(total()) / 4


__all__ = ["choose_method", "factorize", "memory_budget", "solve"]
