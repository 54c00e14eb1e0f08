"""The closed-form inverse of the Krylov space of a block Lanczos iteration, with its complement."""

from __future__ import annotations

from trustml.ihvp.solvers.low_rank import LowRankFactorization


class LanczosFactorization(LowRankFactorization):
    """A⁻¹ from the Krylov space of a block Lanczos iteration plus the known diagonal.

    The best low-rank part for a number of products. See
    ``LowRankFactorization`` for what is promised.

    References
    ----------
    Schioppa et al. (2022), Scaling up influence functions, arXiv:2112.03052; their inverse has no
    complement.
    """

    kind = "lanczos"
