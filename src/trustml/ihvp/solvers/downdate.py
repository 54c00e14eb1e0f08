"""A factorised matrix after some of its rows have left, by Woodbury's identity."""

from __future__ import annotations

import torch
from torch import Tensor

from trustml.ihvp.auto import factorize
from trustml.ihvp.operators import FactoredOperator, LinearOperator
from trustml.ihvp.solution import Status
from trustml.ihvp.solvers.base import Applied, Factorization
from trustml.ihvp.solvers.dual import as_factored, stack_factors
from trustml.ihvp.solvers.spectral import SpectralFactor


def downdate(
    inverse: Factorization, operator: LinearOperator, removed: FactoredOperator
) -> Factorization:
    """Return a factorisation of what is left of a matrix, from that of the whole.

    Cheap where few rows leave: no second assembly, no second factorisation. Where many leave, or
    the whole was not solved directly, what is left is factorised afresh by the same method.

    Parameters
    ----------
    inverse : Factorization
        Of A.
    operator : LinearOperator
        A − scale · Σ K'K, the exact matrix that is left; it certifies the answers.
    removed : FactoredOperator
        The rows that left: its scale and its factors K; its diagonal stays in ``operator``.

    Returns
    -------
    Factorization

    Examples
    --------
    >>> from trustml.ihvp import GaussNewton, Objective, factorize
    >>> J = Objective(torch.nn.Linear(2, 1), torch.nn.MSELoss(), (torch.eye(2), torch.ones(2, 1)))
    >>> whole, kept, gone = GaussNewton(J) + 0.1, J.without([1]), J.without([0])
    >>> rest = downdate(factorize(whole), GaussNewton(kept) + 0.1, GaussNewton(gone))
    >>> rest.solve(torch.ones(3)).converged
    tensor([True])
    """
    gone = as_factored(removed.double()) if inverse.method in ("cholesky", "dual") else None
    if gone is not None and 2 * gone.n_factors <= operator.size:
        rows = stack_factors(gone)
        solved = inverse._apply(rows.T)
        if solved.status is not Status.RANK_DEFICIENT:
            return DowndatedFactorization(inverse, operator, rows, solved.x)
    return factorize(operator, inverse.method, inverse.tol)


class DowndatedFactorization(Factorization):
    """(A − W'W)⁻¹ = A⁻¹ + Z (I − W Z)⁻¹ Z' with Z = A⁻¹ W'.

    Parameters
    ----------
    inverse : Factorization
        Of A.
    operator : LinearOperator
        A − W'W.
    rows : Tensor of shape (N, p)
        W in float64.
    solved : Tensor of shape (p, N)
        Z.
    """

    def __init__(
        self, inverse: Factorization, operator: LinearOperator, rows: Tensor, solved: Tensor
    ) -> None:
        self.operator, self.tol = operator, inverse.tol
        self.method = inverse.method
        self.method_reason = f"{inverse.method_reason}; {len(rows)} factor rows were taken out"
        self.trust = inverse.trust
        self._inverse, self._solved = inverse, solved
        self._exact = operator.double()
        left = -(rows @ solved)
        left.diagonal().add_(1.0)
        self._left = SpectralFactor((left + left.T) / 2)

    def _apply(self, b: Tensor) -> Applied:
        whole = self._inverse._apply(b)
        x = whole.x + self._solved @ self._left.solve(self._solved.T @ b)
        status = self._left.status if whole.status is Status.CONVERGED else whole.status
        return Applied(x, 0, status, whole.min_ritz * min(1.0, self._left.min_ritz))

    def _product(self, x: Tensor) -> Tensor:
        return self._exact.matmat(x)

    def _quadratic_form(self, b: Tensor) -> Tensor:
        return (b * self._apply(b).x).sum(dim=0)

    def logdet(self) -> float:
        """Return log det (A − W'W)."""
        return self._inverse.logdet() + self._left.logdet()

    def trace(self) -> float:
        """Return the trace of (A − W'W)⁻¹."""
        gained = self._left.solve(self._solved.T @ self._solved)
        return self._inverse.trace() + float(torch.trace(gained))
