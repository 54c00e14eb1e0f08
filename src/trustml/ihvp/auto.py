"""``solve`` and ``factorize``: choose a method by predicted cost and memory, and say why."""

from __future__ import annotations

from torch import Tensor, nn

from trustml.core.distributed import agreed
from trustml.core.memory import gigabytes, total
from trustml.core.validation import check_positive_int
from trustml.ihvp.objective import Objective
from trustml.ihvp.operators import LinearOperator, leaves
from trustml.ihvp.solution import Solution
from trustml.ihvp.solvers import SOLVERS, Factorization
from trustml.ihvp.solvers.dual import as_low_rank, why_not_dual
from trustml.ihvp.solvers.kronecker import closed_form

_LATER = ("minres", "nystrom", "lissa", "astra", "lanczos")
# A direct solve is exact and serves every later question, so it is worth this many flops
# (some seconds of one core) even where iterating once would be cheaper.
_DIRECT_BUDGET = 1e11
# Iterations, and operations a use of a parameter and column, that block CG is taken to need.
_ITERATIONS, _FLOPS = 30, 12
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Right-hand sides that are expected of a factorisation.
_MANY = 1000


def solve(
    A: LinearOperator,
    B: Tensor,
    method: str = "auto",
    tol: float = 1e-3,
    max_iterations: int | None = None,
) -> Solution:
    """Solve A x = b for each column of ``B``, with a certificate.

    Parameters
    ----------
    A : LinearOperator
        The matrix, its damping included: ``G + 1e-3``.
    B : Tensor of shape (p,) or (p, k)
        Right-hand sides in A's dtype and on its device; finite.
    method : {"auto", "cholesky", "dual", "cg"}
        "cholesky" assembles A in float64. "dual" works in output space, exact whatever p.
        "cg" needs products alone. "auto" chooses by predicted cost and memory.
    tol : float
        The relative residual that counts as converged, in (0, 1).
    max_iterations : int or None
        Bound for "cg"; None chooses.

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
    return _prepare(A, method, tol, max_iterations, columns)._solve(B, stacklevel=3)


def factorize(
    A: LinearOperator,
    method: str = "auto",
    tol: float = 1e-3,
    max_iterations: int | None = None,
    columns: int | None = None,
) -> Factorization:
    """Prepare A⁻¹ once, for many questions.

    Parameters
    ----------
    A : LinearOperator
        The matrix, its damping included.
    method, tol, max_iterations
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
    return _prepare(A, method, tol, max_iterations, many)


def _prepare(
    A: LinearOperator, method: str, tol: float, max_iterations: int | None, columns: int
) -> Factorization:
    if not isinstance(A, LinearOperator):
        raise TypeError(
            f"A must be a trustml.ihvp operator, got {type(A).__name__}; wrap a matrix with "
            "ihvp.Dense(matrix)"
        )
    available = ["auto", *SOLVERS]
    if method not in available:
        later = " (it comes with a later version)" if method in _LATER else ""
        raise ValueError(f"method must be one of {available}, got {method!r}{later}")
    if not (isinstance(tol, (int, float)) and 0 < tol < 1):
        raise ValueError(f"tol must be a number in (0, 1), got {tol!r}")
    if max_iterations is not None and (
        isinstance(max_iterations, bool)
        or not isinstance(max_iterations, int)
        or max_iterations < 1
    ):
        raise ValueError(f"max_iterations must be a positive integer, got {max_iterations!r}")
    reason = "asked for"
    if method == "auto":
        method, reason = choose_method(A, columns)
    factory = SOLVERS[method]
    return factory(A, float(tol), max_iterations, reason)  # type: ignore[call-arg]


def choose_method(A: LinearOperator, columns: int) -> tuple[str, str]:
    """Return a method and the reason for it.

    Parameters
    ----------
    A : LinearOperator
        The matrix.
    columns : int
        How many right-hand sides are expected.

    Returns
    -------
    method, reason : str
        The cheapest exact method if it fits into the memory and costs seconds, else "cg".
    """
    p = A.size
    structured = closed_form(A)
    if structured is not None:
        return structured, "the cheapest exact inverse"
    memory = memory_budget()
    low_rank = as_low_rank(A)
    rows = low_rank.n_factors if low_rank is not None else None
    product = _product_flops(A)
    costs: dict[str, float] = {}
    if 32 * p * p <= memory:
        assemble = rows * p * p if rows is not None else p * product
        costs["cholesky"] = assemble + p**3 / 3
    if rows is not None and why_not_dual(A) is None and 24 * rows * (p + rows) <= memory:
        costs["dual"] = rows * rows * p + rows**3 / 3
    iterative = _ITERATIONS * product * max(1, columns)
    if not costs:
        return "cg", f"p = {p}: neither the matrix nor its factors fit into {gigabytes(memory)}"
    best = min(costs, key=lambda name: costs[name])
    if costs[best] > max(_DIRECT_BUDGET, iterative):
        return "cg", f"p = {p}: a direct solve would take about {costs[best]:.0e} operations"
    if rows == 0:
        return "dual", f"p = {p}: the matrix is diagonal"
    if best == "dual":
        return "dual", f"{rows} output rows against p = {p}: exact in output space"
    return "cholesky", f"p = {p}: the dense matrix is cheap, and exact"


def _product_flops(A: LinearOperator) -> float:
    """Guess the operations of one product with one vector."""
    total = 0.0
    for leaf in leaves(A):
        objective = getattr(leaf, "objective", None)
        if objective is None:
            total += 2.0 * leaf.size**2
        else:
            total += _FLOPS * len(objective.data) * _forward_uses(objective)
    return total


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


def memory_budget() -> float:
    """Return a quarter of the machine's memory in bytes: the same choice on every run."""
    return agreed(total()) / 4


__all__ = ["choose_method", "factorize", "memory_budget", "solve"]
