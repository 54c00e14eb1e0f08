"""The closed-form inverse of the randomised Nyström approximation, with its complement."""

from __future__ import annotations

from trustml.ihvp.solvers.low_rank import LowRankFactorization


class NystromFactorization(LowRankFactorization):
    """A⁻¹ from the randomised Nyström approximation plus the known diagonal.

    One pass of products, all columns together: cheapest where products are batched. See
    ``LowRankFactorization`` for what is promised.

    References
    ----------
    Frangella, Tropp and Udell (2023), Randomized Nyström preconditioning, arXiv:2110.02820. Hataya
    and Yamada (2023), Nyström method for accurate and scalable implicit differentiation,
    arXiv:2302.09726.
    """

    kind = "nystrom"
