"""Small symmetric matrices in float64, factorised once whatever their definiteness."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trustml.ihvp.solution import Status

# Eigenvalues below this part of the largest one are the rounding of a null direction.
RANK_TOLERANCE = 1e-13
# Up to this size an eigendecomposition costs no more than a second or two.
DENSE = 1500
# So many null directions are looked for in a large matrix.
_NULL = 24
# Below this part, a Cholesky factor loses too many digits.
_CHOLESKY_TOLERANCE = 1e-11


class SpectralFactor:
    """Cholesky of a symmetric matrix, or what it takes where it is not safely definite.

    Small matrices get an eigendecomposition. Large ones that are positive semi-definite with a
    few null directions keep a Cholesky factor, of the matrix plus a jitter of 1e-10 mean
    eigenvalues, with the null directions projected out. Either way null directions are solved by
    least squares on the range.

    Parameters
    ----------
    matrix : Tensor of shape (p, p)
        Symmetric, float64.
    rank_tolerance : float
        Times √p, the part of the largest eigenvalue below which one is null.
    definite : bool
        The caller knows that the smallest eigenvalue is far from zero: nothing is looked for.

    Attributes
    ----------
    status : Status
        CONVERGED (positive definite), INDEFINITE or RANK_DEFICIENT.
    min_ritz : float
        Smallest eigenvalue: exact after an eigendecomposition, else from inverse iterations.
    """

    def __init__(
        self, matrix: Tensor, rank_tolerance: float = RANK_TOLERANCE, definite: bool = False
    ) -> None:
        self.size = matrix.shape[0]
        self._matrix = matrix
        self._eigen: tuple[Tensor, Tensor] | None = None
        self._null = matrix.new_zeros(self.size, 0)
        self._refinements = 1
        self.status = Status.CONVERGED
        self.min_ritz = math.nan
        self._factor, info = torch.linalg.cholesky_ex(matrix)
        failed = int(info) != 0
        if self.size == 0 or (definite and not failed):
            return
        largest = float(matrix.abs().sum(dim=1).max())
        null = rank_tolerance * math.sqrt(self.size) * largest
        if not failed:
            self.min_ritz = self._smallest()
            failed = not self.min_ritz > max(_CHOLESKY_TOLERANCE * largest, null)
        if failed and not (self.size > DENSE and self._deflate(null)):
            self._decompose(rank_tolerance)

    def _decompose(self, rank_tolerance: float) -> None:
        """Compute the eigendecomposition, null eigenvalues set to zero."""
        values, vectors = torch.linalg.eigh(self._matrix)
        largest = float(values.abs().max())
        keep = values.abs() > rank_tolerance * math.sqrt(self.size) * largest
        if bool((values[keep] < 0).any()):
            self.status = Status.INDEFINITE
        elif not bool(keep.all()):
            self.status = Status.RANK_DEFICIENT
        self.min_ritz = float(values[0])
        self._null = self._null[:, :0]
        self._eigen = (torch.where(keep, values, 0.0), vectors)

    def _deflate(self, null: float) -> bool:
        """Factorise with a jitter and find the null space by inverse iteration, or give up."""
        jitter = 1e-10 * float(self._matrix.diagonal().mean())
        shifted = self._matrix.clone()
        shifted.diagonal().add_(jitter)
        self._factor, info = torch.linalg.cholesky_ex(shifted)
        if int(info) != 0:
            return False
        generator = torch.Generator().manual_seed(0)
        z = torch.randn(self.size, _NULL, generator=generator, dtype=torch.float64)
        z = z.to(self._matrix.device)
        for _ in range(3):
            z = torch.linalg.qr(torch.cholesky_solve(z, self._factor))[0]
        values, vectors = torch.linalg.eigh(z.T @ self._matrix @ z)
        empty = values < max(null, jitter)
        if bool(empty.all()):
            return False
        self.min_ritz = float(values[0])
        self._null = z @ vectors[:, empty]
        self._refinements = 3
        if self._null.shape[1]:
            self.status = Status.RANK_DEFICIENT
        return True

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

    def _project(self, b: Tensor) -> Tensor:
        """Remove the null space's part."""
        return b - self._null @ (self._null.T @ b)

    def solve(self, b: Tensor) -> Tensor:
        """Return A⁻¹ b, or the least-squares solution on the range; b (p, k) in float64."""
        if self._eigen is not None:
            values, vectors = self._eigen
            solution: Tensor = vectors @ (_inverse(values)[:, None] * (vectors.T @ b))
            return solution
        x = self._project(torch.cholesky_solve(self._project(b), self._factor))
        for _ in range(self._refinements):
            error = self._project(b - self._matrix @ x)
            x = x + self._project(torch.cholesky_solve(error, self._factor))
        return x

    def quadratic_form(self, b: Tensor) -> Tensor:
        """Return b'A⁻¹b for each column."""
        if self._eigen is not None:
            values, vectors = self._eigen
            form: Tensor = (_inverse(values)[:, None] * (vectors.T @ b).square()).sum(dim=0)
            return form
        if self._refinements > 1:
            return (b * self.solve(b)).sum(dim=0)
        half: Tensor = torch.linalg.solve_triangular(self._factor, b, upper=False)
        return half.square().sum(dim=0)

    def logdet(self) -> float:
        """Return log det A; −inf where A is singular."""
        if self.status is Status.INDEFINITE:
            raise ValueError(
                f"logdet needs a positive definite matrix; the smallest eigenvalue is "
                f"{self.min_ritz:.3g}: add damping above {-1.1 * self.min_ritz:.3g}"
            )
        if self.status is Status.RANK_DEFICIENT:
            return -math.inf
        if self._eigen is not None:
            return float(self._eigen[0].log().sum())
        return 2 * float(self._factor.diagonal().log().sum())

    def trace(self) -> float:
        """Return the trace of A⁻¹; inf where A is singular."""
        if self._eigen is not None:
            values = self._eigen[0]
            return math.inf if bool((values == 0).any()) else float((1 / values).sum())
        if self.status is Status.RANK_DEFICIENT:
            return math.inf
        return float(torch.cholesky_inverse(self._factor).diagonal().sum())


def _inverse(values: Tensor) -> Tensor:
    return torch.where(values == 0, 0.0, 1 / values)
