"""Woodbury in output space: exact for a low-rank sum plus a diagonal, whatever p.

With A = D + W'W, where W stacks the scaled factors (N rows):

    A⁻¹ = D⁻¹ − D⁻¹ W' (I + W D⁻¹ W')⁻¹ W D⁻¹.

The factor of the output Hessian is used, never its inverse: softmax Hessians are singular.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trustml.core import distributed
from trustml.core.memory import check_fits
from trustml.ihvp.matrices import Diagonal
from trustml.ihvp.operators import Damped, FactoredOperator, LinearOperator, Scaled, Sum
from trustml.ihvp.solution import Status
from trustml.ihvp.solvers.base import NOT_FINITE, Applied, Factorization, verify
from trustml.ihvp.solvers.spectral import RANK_TOLERANCE, SpectralFactor

# So many unpenalised coordinates are eliminated exactly; more would be a dense solve in disguise.
MAX_FREE = 2000


@dataclass(frozen=True)
class FactoredForm:
    """A = scale · Σ K'K + diag(diagonal), the factors K from ``core``; None where A is diagonal."""

    core: FactoredOperator | None
    scale: float
    diagonal: Tensor

    @property
    def n_factors(self) -> int:
        """The rows of all K."""
        return 0 if self.core is None else self.core.n_factors


def as_factored(operator: LinearOperator) -> FactoredForm | None:
    """Read an expression as a low-rank sum plus a diagonal, or return None if it is not one."""
    if isinstance(operator, FactoredOperator):
        return FactoredForm(operator, operator.scale, operator.shift.double())
    diagonal = _as_diagonal(operator)
    if diagonal is not None:
        return FactoredForm(None, 0.0, diagonal)
    if isinstance(operator, Damped):
        inner = as_factored(operator.inner)
        if inner is not None:
            return FactoredForm(inner.core, inner.scale, inner.diagonal + operator.damping)
    if isinstance(operator, Scaled) and operator.factor > 0:
        inner, c = as_factored(operator.inner), operator.factor
        if inner is not None:
            return FactoredForm(inner.core, c * inner.scale, c * inner.diagonal)
    if isinstance(operator, Sum):
        for one, other in ((operator.left, operator.right), (operator.right, operator.left)):
            inner, diagonal = as_factored(one), _as_diagonal(other)
            if inner is not None and diagonal is not None:
                return FactoredForm(inner.core, inner.scale, inner.diagonal + diagonal)
    return None


def _as_diagonal(operator: LinearOperator) -> Tensor | None:
    if isinstance(operator, Diagonal):
        return operator.entries.double()
    if isinstance(operator, Scaled):
        inner = _as_diagonal(operator.inner)
        return None if inner is None else inner * operator.factor
    if isinstance(operator, Damped):
        inner = _as_diagonal(operator.inner)
        return None if inner is None else inner + operator.damping
    return None


def stack_factors(factored: FactoredForm) -> Tensor:
    """Return W of shape (N, p) in float64 with W'W = scale · Σ K'K."""
    size, core = len(factored.diagonal), factored.core
    if core is None:
        return factored.diagonal.new_empty(0, size)
    n = core.n_factors
    check_fits(
        8 * n * (size + 2 * n),
        f"the {n:,} x {size:,} factors and {n:,} x {n:,} inner products of a dual solve",
        'use method="cg" or method="ekfac"',
        core.device,
    )
    examples = distributed.shard(core.n_examples)

    def own() -> Tensor:
        share = n * len(examples) // core.n_examples
        stacked = factored.diagonal.new_empty(share, size)
        start = 0
        for _, factor in core.factors(examples):
            rows = factor.reshape(-1, size)
            stacked[start : start + len(rows)] = rows
            start += len(rows)
        return stacked

    return distributed.gather(own).mul_(math.sqrt(factored.scale))


def why_not_dual(operator: LinearOperator) -> str | None:
    """Say why the dual solve cannot take this operator, or None if it can."""
    factored = as_factored(operator)
    if factored is None:
        return (
            "it needs a GaussNewton, EmpiricalFisher, Covariance or Diagonal operator plus "
            "non-negative diagonals"
        )
    diagonal = factored.diagonal
    if bool((diagonal < 0).any()):
        return "the diagonal has negative entries"
    free = int((diagonal == 0).sum())
    if factored.core is not None and MAX_FREE < free < operator.size:
        return (
            f"{free} of {operator.size} parameters have neither weight decay nor damping, more "
            f"than the {MAX_FREE} that can be eliminated exactly: add damping"
        )
    return None


class DualFactorization(Factorization):
    """Exact solve with a low-rank sum plus a diagonal; cost N²p + N³, memory N·p + N².

    Coordinates whose diagonal entry is zero (unpenalised intercepts) are eliminated exactly. If
    all entries are zero, the answer is least squares on the range. A diagonal matrix has N = 0.

    Parameters
    ----------
    operator : LinearOperator
        The matrix, damping included.
    tol : float
        The relative residual that counts as converged.
    reason : str
        Why this method.
    """

    trust = (
        "A direct solve in output space, exact for the whole matrix in float64: what it misses "
        "is rounding, times the matrix's condition number"
    )

    def __init__(
        self,
        operator: LinearOperator,
        tol: float,
        max_iterations: int | None = None,
        reason: str = "asked for",
    ) -> None:
        refusal = why_not_dual(operator)
        if refusal is not None:
            raise ValueError(
                f'method "dual" cannot solve this operator: {refusal}. '
                'Use method="cholesky" or "cg".'
            )
        self.operator, self.tol = operator, tol
        self.method, self.method_reason = "dual", reason
        exact = operator.double()
        factored = as_factored(exact)
        if factored is None:  # unreachable: why_not_dual has looked
            raise ValueError("the operator is not a low-rank sum plus a diagonal")
        rows, diagonal = stack_factors(factored), factored.diagonal
        if not bool(torch.isfinite(rows).all()):
            raise ValueError(NOT_FINITE)
        self._rows, self._diagonal = rows, diagonal
        self._certify = verify(exact, self._copy, operator.dtype)
        # Parameters that nothing depends on (dead units): zero rows and columns of A.
        alive = (diagonal != 0) | (rows != 0).any(dim=0)
        self._alive = alive.nonzero().flatten()
        self._dead = len(self._alive) < len(alive)
        if self._dead:
            rows, diagonal = rows[:, self._alive], diagonal[self._alive]
        self._inverse: _Penalised | _RangeOnly
        if len(rows) and bool((diagonal == 0).all()):
            self._inverse = _RangeOnly(rows)
        else:
            self._inverse = _Penalised(rows, diagonal)

    def _solve_alive(self, b: Tensor) -> Tensor:
        x = torch.zeros_like(b)
        x[self._alive] = self._inverse.solve(b[self._alive])
        return x

    def _apply(self, b: Tensor) -> Applied:
        x = self._solve_alive(b)
        # D⁻¹b and its correction nearly cancel when the damping is small.
        x = x + self._solve_alive(b - self._copy(x))
        status, smallest = self._inverse.status, self._inverse.min_ritz
        if self._dead:
            status, smallest = Status.RANK_DEFICIENT, min(smallest, 0.0)
        return Applied(x, 0, status, smallest)

    def _product(self, x: Tensor) -> Tensor:
        return self._certify(x)

    def _copy(self, x: Tensor) -> Tensor:
        return self._diagonal[:, None] * x + self._rows.T @ (self._rows @ x)

    def _quadratic_form(self, b: Tensor) -> Tensor:
        return (b * self._apply(b).x).sum(dim=0)

    def logdet(self) -> float:
        """Return log det A; −inf where A is singular."""
        return -math.inf if self._dead else self._inverse.logdet()

    def trace(self) -> float:
        """Return the trace of A⁻¹; inf where A is singular."""
        return math.inf if self._dead else self._inverse.trace()


class _Penalised:
    """A = D + W'W with some entries of D positive; the zero entries are a bordered block."""

    def __init__(self, rows: Tensor, diagonal: Tensor) -> None:
        self._held = (diagonal > 0).nonzero().flatten()
        self._free = (diagonal == 0).nonzero().flatten()
        self._d = diagonal[self._held][:, None]
        self._w = rows[:, self._held] if len(self._free) else rows
        gram = (self._w / self._d.T) @ self._w.T
        gram.diagonal().add_(1.0)
        self._gram = SpectralFactor(gram, definite=True)  # I + a positive semi-definite matrix
        # Schur complement without cancellation: W2'(I − W1 A11⁻¹ W1')W2 = W2' M⁻¹ W2.
        self._v = rows[:, self._free]
        self._schur = SpectralFactor(_symmetric(self._v.T @ self._gram.solve(self._v)))
        self.status = self._schur.status
        if self.status is Status.INDEFINITE:  # rounding below zero: W2' M⁻¹ W2 cannot be
            self.status = Status.RANK_DEFICIENT
        self.min_ritz = float(self._d.min()) if len(self._d) else math.inf
        if len(self._free):
            self.min_ritz = min(self.min_ritz, self._schur.min_ritz)

    def _solve_held(self, b: Tensor) -> Tensor:
        y = b / self._d
        return y - (self._w.T @ self._gram.solve(self._w @ y)) / self._d

    def solve(self, b: Tensor) -> Tensor:
        if not len(self._free):
            return self._solve_held(b)
        x = torch.empty_like(b)
        first = self._solve_held(b[self._held])
        border = b[self._free] - self._v.T @ (self._w @ first)
        x[self._free] = self._schur.solve(border)
        x[self._held] = first - self._solve_held(self._w.T @ (self._v @ x[self._free]))
        return x

    def logdet(self) -> float:
        if self.status is Status.RANK_DEFICIENT:
            return -math.inf
        return float(self._d.log().sum()) + self._gram.logdet() + self._schur.logdet()

    def trace(self) -> float:
        if self.status is Status.RANK_DEFICIENT:
            return math.inf
        scaled = self._w / self._d.T
        total = float((1 / self._d).sum()) - float((scaled * self._gram.solve(scaled)).sum())
        if len(self._free):
            cross = self._solve_held(self._w.T @ self._v)
            total += self._schur.trace()
            total += float((cross * self._schur.solve(cross.T).T).sum())
        return total


class _RangeOnly:
    """A = W'W without a diagonal: the pseudo-inverse W' (WW')⁻² W."""

    status = Status.RANK_DEFICIENT

    def __init__(self, rows: Tensor) -> None:
        values, vectors = torch.linalg.eigh(rows @ rows.T)
        keep = values > RANK_TOLERANCE * math.sqrt(len(values)) * values[-1]
        self._values, self._vectors = values[keep], vectors[:, keep]
        self._full = 0 < int(keep.sum()) == rows.shape[1]
        if self._full:
            self.status = Status.CONVERGED
        self._rows = rows
        self.min_ritz = float(self._values[0]) if self._full else 0.0

    def solve(self, b: Tensor) -> Tensor:
        middle = self._vectors.T @ (self._rows @ b) / self._values.square()[:, None]
        x: Tensor = self._rows.T @ (self._vectors @ middle)
        return x

    def logdet(self) -> float:
        return float(self._values.log().sum()) if self._full else -math.inf

    def trace(self) -> float:
        return float((1 / self._values).sum()) if self._full else math.inf


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.T) / 2
