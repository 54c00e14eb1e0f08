"""The solvers: one algorithm a file; ``SOLVERS`` is their register, in the order of preference."""

from trustml.ihvp.solvers.astra import AstraFactorization
from trustml.ihvp.solvers.base import Factorization
from trustml.ihvp.solvers.blocks import BlockFactorization
from trustml.ihvp.solvers.cholesky import CholeskyFactorization
from trustml.ihvp.solvers.compressed import CompressedFactorization
from trustml.ihvp.solvers.conjugate_gradient import ConjugateGradientFactorization
from trustml.ihvp.solvers.dual import DualFactorization
from trustml.ihvp.solvers.kronecker import EkfacFactorization, KfacFactorization
from trustml.ihvp.solvers.lanczos import LanczosFactorization
from trustml.ihvp.solvers.lissa import LissaFactorization
from trustml.ihvp.solvers.minres import MinresFactorization
from trustml.ihvp.solvers.neumann import NeumannFactorization
from trustml.ihvp.solvers.nystrom import NystromFactorization

SOLVERS: dict[str, type[Factorization]] = {
    "cholesky": CholeskyFactorization,
    "dual": DualFactorization,
    "compressed": CompressedFactorization,
    "ekfac": EkfacFactorization,
    "kfac": KfacFactorization,
    "blocks": BlockFactorization,
    "cg": ConjugateGradientFactorization,
    "minres": MinresFactorization,
    "nystrom": NystromFactorization,
    "lanczos": LanczosFactorization,
    "lissa": LissaFactorization,
    "neumann": NeumannFactorization,
    "astra": AstraFactorization,
}

__all__ = ["SOLVERS", "Factorization"]
