"""ASTRA: a stochastic Neumann series preconditioned by EK-FAC."""

from __future__ import annotations

from trustml.ihvp.preconditioners import Preconditioner, build_preconditioner
from trustml.ihvp.solvers.richardson import (
    _SAFETY,
    MiniBatches,
    RichardsonFactorization,
    largest_of_parts,
)


class AstraFactorization(RichardsonFactorization):
    """x ← x + M⁻¹(r − A_t x)/s with M the damped EK-FAC and A_t a mini-batch's matrix.

    EK-FAC makes the eigenvalues nearly equal, so that far fewer terms are needed than by LiSSA;
    everything else is as there. Where the layers have no Kronecker structure, a Nystrom
    preconditioner takes its place, and ``method_reason`` says so.

    Parameters
    ----------
    operator : LinearOperator
        A curvature of an Objective, damping included; positive definite.
    tol : float
        The relative residual that counts as converged.
    max_iterations : int or None
        Passes over the data; None means 2000.
    reason : str
        Why this method.

    Raises
    ------
    ValueError
        If the operator is of no objective.

    References
    ----------
    Wang et al. (2025), Better training data attribution via better inverse Hessian-vector
    products, arXiv:2507.14740.
    """

    method = "astra"

    trust = (
        "The series sees random mini-batches, drawn from a fixed seed: the residual, by the matrix "
        "of all data, includes their noise, and answers from other draws differ by as much"
    )

    def _prepare(self) -> None:
        super()._prepare()
        self._batches = MiniBatches(self.operator, self.method)
        self.preconditioner: Preconditioner
        try:
            self.preconditioner = build_preconditioner("ekfac", self.operator)
            told = "preconditioned by EK-FAC"
        except ValueError as error:
            self.preconditioner = build_preconditioner("nystrom", self.operator)
            told = f"preconditioned by Nystrom, for EK-FAC does not suit: {error}"
        self._precondition = self.preconditioner.apply
        self._scale = _SAFETY * largest_of_parts(self._batches, self._precondition)
        self.method_reason += (
            f"; {told}; scale {self._scale:.3g}, {self._batches.count} mini-batches"
        )
