"""The Neumann series on all data."""

from __future__ import annotations

from trustml.ihvp.solvers.richardson import RichardsonFactorization


class NeumannFactorization(RichardsonFactorization):
    """A⁻¹b = (1/s) Σ_t (I − A/s)ᵗ b, with s above the largest eigenvalue that Lanczos saw.

    The terms are added until the true residual passes. Conjugate gradients need about the square
    root of its iterations: it is here for comparison. A scale at which it diverges is doubled.

    Parameters
    ----------
    operator : LinearOperator
        The matrix, damping included; positive definite.
    tol : float
        The relative residual that counts as converged.
    max_iterations : int or None
        Terms; None means 2000.
    reason : str
        Why this method.

    References
    ----------
    Lorraine, Vicol and Duvenaud (2020), Optimizing millions of hyperparameters by implicit
    differentiation, arXiv:1911.02590.
    """

    method = "neumann"
