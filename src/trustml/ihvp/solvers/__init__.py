"""The solvers: one algorithm a file; ``SOLVERS`` is their register, in the order of preference."""

from trustml.ihvp.solvers.base import Factorization
from trustml.ihvp.solvers.cholesky import CholeskyFactorization
from trustml.ihvp.solvers.conjugate_gradient import ConjugateGradientFactorization
from trustml.ihvp.solvers.dual import DualFactorization

SOLVERS: dict[str, type[Factorization]] = {
    "cholesky": CholeskyFactorization,
    "dual": DualFactorization,
    "cg": ConjugateGradientFactorization,
}

__all__ = ["SOLVERS", "Factorization"]
