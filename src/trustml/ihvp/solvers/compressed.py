"""The dual solve on the output rows that matter, refined and certified by the exact operator.

At a trained model's parameters most of the loss's curvatures Λ_i are tiny. With A = M + R, where
M = D + W'W stacks the few large factor rows and R = Σ k k' the many small ones, M⁻¹ is cheap and
x ← x + M⁻¹(b − A x) contracts the error by tr(R) / min D at least, which the norms of the rows
tell before any of them is formed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trustml.ihvp.operators import LinearOperator
from trustml.ihvp.solution import Status, relative_norms
from trustml.ihvp.solvers.base import NOT_FINITE, Applied, Factorization
from trustml.ihvp.solvers.dual import as_factored
from trustml.ihvp.solvers.sketch import BOUND, SKETCH, Sketch

# tr(R) over the smallest diagonal entry: at tolerance t one answer is as good as t as a rule where
# this is 100 t, and one refinement mends the others. Above a tenth they would be too many.
_SLACK, _CONTRACTION = 100.0, 0.1
# Above this tolerance float32 may keep enough digits; its relative rounding.
SINGLE, _ROUNDING = 1e-4, 6e-8
_REFINEMENTS = 20
_BLOCK = 1024


@dataclass(frozen=True)
class Selection:
    """Which factor rows are kept.

    Attributes
    ----------
    examples, columns : Tensor of shape (m,)
        The kept rows: training example, and column of its factor.
    condition : float
        Bound of the condition number of A.
    """

    examples: Tensor
    columns: Tensor
    condition: float


def select_rows(operator: LinearOperator, tol: float) -> Selection | None:
    """Return the fewest factor rows whose remainder is small enough for a tolerance.

    Parameters
    ----------
    operator : LinearOperator
        A sum of factor rows and a diagonal.
    tol : float
        The relative residual that is wanted.

    Returns
    -------
    Selection or None
        None where the operator is no such sum, or some parameter has neither weight decay nor
        damping, so that no remainder is small against it.

    Raises
    ------
    ValueError
        If a row is not finite.
    """
    factored = as_factored(operator)
    if factored is None or factored.core is None or not bool((factored.diagonal > 0).all()):
        return None
    norms = factored.scale * factored.core.factor_norms().double()
    if not bool(torch.isfinite(norms).all()):
        raise ValueError(NOT_FINITE)
    sizes, order = norms.flatten().sort()
    least = float(factored.diagonal.min())
    allowed = min(_SLACK * tol, _CONTRACTION) * least
    dropped = int((sizes.cumsum(0) <= allowed).sum())
    kept = order[dropped:].sort().values
    width = norms.shape[1]
    condition = (float(factored.diagonal.max()) + float(sizes.sum())) / least
    return Selection(kept // width, kept % width, condition)


class CompressedFactorization(Factorization):
    """Dual solve on the m rows that matter; cost m²p + m³, memory m·p + m².

    Parameters
    ----------
    operator : LinearOperator
        A Gauss-Newton or Fisher matrix plus a positive diagonal.
    tol : float
        The relative residual that counts as converged; it decides how many rows are kept.
    max_iterations : int or None
        Refinements of an answer that the exact operator does not certify; None means 20.
    reason : str
        Why this method.

    Attributes
    ----------
    n_kept : int
        m.
    """

    trust = (
        "Output rows of little curvature are left out of the solve but not of the certificate: "
        "the residual is " + BOUND
    )

    def __init__(
        self,
        operator: LinearOperator,
        tol: float,
        max_iterations: int | None = None,
        reason: str = "asked for",
    ) -> None:
        self._exact = operator if tol >= SINGLE else operator.double()
        selection, factored = select_rows(self._exact, tol), as_factored(self._exact)
        if selection is not None and selection.condition * _ROUNDING > tol:
            self._exact = operator.double()
            factored = as_factored(self._exact)
        if selection is None or factored is None or factored.core is None:
            raise ValueError(
                'method "compressed" needs a GaussNewton, Fisher or EmpiricalFisher operator with '
                "weight decay or damping on every parameter; add damping, or use "
                'method="cholesky", "dual" or "cg"'
            )
        self.operator, self.tol, self.n_kept = operator, tol, len(selection.examples)
        self._refinements = _REFINEMENTS if max_iterations is None else max_iterations
        total = factored.core.n_factors
        self.method = "compressed"
        self.method_reason = f"{reason}; {self.n_kept} of {total} output rows kept"
        self._diagonal = factored.diagonal[:, None]
        rows = torch.zeros(0, operator.size, dtype=self._exact.dtype, device=operator.device)
        if self.n_kept:
            rows = factored.core.factor_rows(selection.examples, selection.columns)
        self._rows = rows.mul_(math.sqrt(factored.scale))
        self._factor = torch.linalg.cholesky(self._middle())
        self._sketch = Sketch(self._exact.matmat, operator.size, rows.dtype, rows.device)
        if not bool(torch.isfinite(self._sketch.az).all()):
            raise ValueError(NOT_FINITE)

    def _middle(self) -> Tensor:
        """Return I + W D⁻¹ W' in float64, block by block."""
        m, w = self.n_kept, self._rows
        same = bool((self._diagonal == self._diagonal[0]).all())
        scaled = w if same else w / self._diagonal.T.to(w)
        gram = torch.empty(m, m, dtype=torch.float64, device=w.device)
        for start in range(0, m, _BLOCK):  # the lower triangle
            block = slice(start, start + _BLOCK)
            gram[start:, block] = w[start:] @ scaled[block].T
            stop = start + _BLOCK
            gram[block, stop:] = gram[stop:, block].T
        if same:
            gram /= self._diagonal[0]
        gram.diagonal().add_(1.0)
        return gram

    def _apply(self, b: Tensor) -> Applied:
        x = self._rounded(self._inverse(b))
        norms, products, iterations = self._sketch.bound(x, b), 0, 0
        left = norms > self.tol
        while bool(left.any()) and iterations < self._refinements:
            residual = b[:, left] - self._product(x[:, left])
            products += residual.shape[1]
            norms[left] = relative_norms(residual, b[:, left])
            still = norms[left] > self.tol
            left[left.clone()] = still
            if bool(still.any()):
                x[:, left] = self._rounded(x[:, left] + self._inverse(residual[:, still]))
                norms[left] = self._sketch.bound(x[:, left], b[:, left])
                iterations += 1
        status = Status.MAX_ITERATIONS if bool(left.any()) else Status.CONVERGED
        smallest = float(self._diagonal.min())
        return Applied(x, iterations, status, smallest, products, norms=norms)

    def _rounded(self, x: Tensor) -> Tensor:
        """Round to the operator's dtype: what is certified is what the caller gets."""
        return x.to(self.operator.dtype).double()

    def _inverse(self, b: Tensor) -> Tensor:
        """Return M⁻¹ b."""
        y = b / self._diagonal
        seen = (self._rows @ y.to(self._rows.dtype)).double()
        weights = torch.cholesky_solve(seen, self._factor)
        gone: Tensor = (self._rows.T @ weights.to(self._rows.dtype)).double()
        return y - gone / self._diagonal

    def _product(self, x: Tensor) -> Tensor:
        return self._exact.matmat(x.to(self._exact.dtype)).double()

    def _quadratic_form(self, b: Tensor) -> Tensor:
        return (b * self._apply(b).x).sum(dim=0)

    def _left_out(self) -> Tensor:
        """Return R z for the random columns."""
        z = self._sketch.z
        kept = self._diagonal.to(z) * z + self._rows.T @ (self._rows @ z)
        return (self._sketch.az - kept).double()

    def logdet(self) -> float:
        """Estimate log det A: exact for the rows that are kept, to first order for the others."""
        exact = float(self._diagonal.log().sum() + 2 * self._factor.diagonal().log().sum())
        return exact + float((self._sketch.z * self._inverse(self._left_out())).sum()) / SKETCH

    def trace(self) -> float:
        """Estimate the trace of A⁻¹: exact for the kept rows, to first order for the others."""
        scaled = self._rows.double() / self._diagonal.T
        half = torch.linalg.solve_triangular(self._factor, scaled, upper=False)
        exact = float((1 / self._diagonal).sum() - half.square().sum())
        solved = self._inverse(self._sketch.z.double())
        return exact - float((solved * self._inverse(self._left_out())).sum()) / SKETCH
