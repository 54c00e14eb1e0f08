"""LiSSA: a Neumann series whose every term sees a mini-batch."""

from __future__ import annotations

from trustml.ihvp.solvers.richardson import (
    _SAFETY,
    MiniBatches,
    RichardsonFactorization,
    largest_of_parts,
)


class LissaFactorization(RichardsonFactorization):
    """x ← x + (r − A_t x)/s on unbiased mini-batches, averaged, restarted from the true residual.

    The scale s lies above the largest eigenvalue of every mini-batch's matrix, which may be far
    above that of A; where it diverges nevertheless it is doubled. The iterates of a round's last
    half are averaged, and the next round solves for the residual that is left, so that the noise
    vanishes with it. The draws are seeded: the answer is the same on every run. λ is the operator's
    own damping, there is no other.

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
    Agarwal, Bullins and Hazan (2017), Second-order stochastic optimization for machine learning in
    linear time, arXiv:1602.03943. Klochkov and Liu (2024), Revisiting inverse Hessian vector
    products for calculating influence functions, arXiv:2409.17357.
    """

    method = "lissa"

    trust = (
        "The series sees random mini-batches, drawn from a fixed seed: the residual, by the matrix "
        "of all data, includes their noise, and answers from other draws differ by as much"
    )

    def _prepare(self) -> None:
        super()._prepare()
        self._batches = MiniBatches(self.operator, self.method)
        self._scale = _SAFETY * max(largest_of_parts(self._batches), self._max_ritz)
        self.method_reason += f"; scale {self._scale:.3g}, {self._batches.count} mini-batches"
