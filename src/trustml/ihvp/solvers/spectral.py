"""Small symmetric matrices in float64, factorised once whatever their definiteness."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trustml.ihvp.solution import Status

# Eigenvalues below this part of the largest one are the rounding of a null direction.
RANK_TOLERANCE = 1e-13
# Below this part, a Cholesky factor loses so many digits that the eigendecomposition is taken.
_CHOLESKY_TOLERANCE = 1e-11


class SpectralFactor:
    """Cholesky of a symmetric matrix, or its eigendecomposition where it is not safely definite.

    Null directions are solved by least squares on the range. ``rank_tolerance`` times √p is the
    part of the largest eigenvalue below which one is null.

    Attributes
    ----------
    status : Status
        CONVERGED (positive definite), INDEFINITE or RANK_DEFICIENT.
    min_ritz : float
        Smallest eigenvalue: exact after an eigendecomposition, else from inverse Lanczos steps.
    """

    def __init__(self, matrix: Tensor, rank_tolerance: float = RANK_TOLERANCE) -> None:
        self.size = matrix.shape[0]
        self._matrix, self._rank_tolerance = matrix, rank_tolerance
        self._eigen: tuple[Tensor, Tensor] | None = None
        self.status = Status.CONVERGED
        self.min_ritz = math.nan
        self._factor, info = torch.linalg.cholesky_ex(matrix)
        if self.size == 0:
            return
        if int(info) == 0:
            self.min_ritz = self._smallest()
        largest = float(matrix.abs().sum(dim=1).max())
        floor = max(_CHOLESKY_TOLERANCE, self._rank_tolerance * math.sqrt(self.size)) * largest
        if int(info) != 0 or not self.min_ritz > floor:
            self._decompose(matrix)

    def _decompose(self, matrix: Tensor) -> None:
        values, vectors = torch.linalg.eigh(matrix)
        largest = float(values.abs().max())
        keep = values.abs() > self._rank_tolerance * math.sqrt(self.size) * largest
        if bool((values[keep] < 0).any()):
            self.status = Status.INDEFINITE
        elif not bool(keep.all()):
            self.status = Status.RANK_DEFICIENT
        self.min_ritz = float(values[0])
        self._eigen = (torch.where(keep, values, 0.0), vectors)

    def _smallest(self) -> float:
        """Estimate the smallest eigenvalue by Lanczos on the inverse from a fixed start."""
        steps = min(12, self.size)
        generator = torch.Generator().manual_seed(0)
        q = torch.randn(self.size, generator=generator, dtype=torch.float64).to(self._factor.device)
        basis = [q / q.norm()]
        tridiagonal = torch.zeros(steps, steps, dtype=torch.float64)
        for j in range(steps):
            w = torch.cholesky_solve(basis[j][:, None], self._factor)[:, 0]
            if not bool(torch.isfinite(w).all()):
                return 0.0
            tridiagonal[j, j] = w @ basis[j]
            stacked = torch.stack(basis, dim=1)
            for _ in range(2):
                w = w - stacked @ (stacked.T @ w)
            beta = float(w.norm())
            if j + 1 == steps or beta <= 1e-10 * float(tridiagonal[0, 0].abs()):
                steps = j + 1
                break
            tridiagonal[j, j + 1] = tridiagonal[j + 1, j] = beta
            basis.append(w / beta)
        return 1.0 / float(torch.linalg.eigvalsh(tridiagonal[:steps, :steps])[-1])

    def solve(self, b: Tensor) -> Tensor:
        """Return A⁻¹ b, or the least-squares solution on the range; b (p, k) in float64."""
        if self._eigen is None:
            x = torch.cholesky_solve(b, self._factor)
            refined: Tensor = x + torch.cholesky_solve(b - self._matrix @ x, self._factor)
            return refined
        values, vectors = self._eigen
        solution: Tensor = vectors @ (_inverse(values)[:, None] * (vectors.T @ b))
        return solution

    def quadratic_form(self, b: Tensor) -> Tensor:
        """Return b'A⁻¹b for each column."""
        if self._eigen is None:
            half: Tensor = torch.linalg.solve_triangular(self._factor, b, upper=False)
            return half.square().sum(dim=0)
        values, vectors = self._eigen
        form: Tensor = (_inverse(values)[:, None] * (vectors.T @ b).square()).sum(dim=0)
        return form

    def logdet(self) -> float:
        """Return log det A; −inf where A is singular."""
        if self._eigen is None:
            return 2 * float(self._factor.diagonal().log().sum())
        values = self._eigen[0]
        if self.status is Status.INDEFINITE:
            raise ValueError(
                f"logdet needs a positive definite matrix; the smallest eigenvalue is "
                f"{self.min_ritz:.3g}: add damping above {-1.1 * self.min_ritz:.3g}"
            )
        return float(values.log().sum())

    def trace(self) -> float:
        """Return the trace of A⁻¹; inf where A is singular."""
        if self._eigen is None:
            return float(torch.cholesky_inverse(self._factor).diagonal().sum())
        values = self._eigen[0]
        return math.inf if bool((values == 0).any()) else float((1 / values).sum())


def _inverse(values: Tensor) -> Tensor:
    return torch.where(values == 0, 0.0, 1 / values)
