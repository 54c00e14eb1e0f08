"""What iterative solvers share: quantities of the inverse, from solves and from Lanczos."""

from __future__ import annotations

import torch
from torch import Tensor

from trustml.ihvp.quadratic import hutchinson_trace, lanczos_logdet
from trustml.ihvp.solvers.base import NOT_FINITE, Factorization


class IterativeFactorization(Factorization):
    """A factorisation without an inverse in memory; concrete ones add ``_apply``, ``_product``."""

    def _quadratic_form(self, b: Tensor) -> Tensor:
        solution = self._solve(b.to(self.operator.dtype), stacklevel=4)
        return (b * solution.x.double()).sum(dim=0)

    def logdet(self) -> float:
        """Estimate log det A by stochastic Lanczos quadrature with fixed probes."""
        return lanczos_logdet(self.operator)

    def trace(self) -> float:
        """Estimate the trace of A⁻¹ by Hutchinson's estimator with fixed probes."""
        return hutchinson_trace(self.operator, lambda z: self._solve(z, stacklevel=5).x)


def checked(product: Tensor) -> Tensor:
    """Return a product in float64, or say that it is not finite."""
    if not bool(torch.isfinite(product).all()):
        raise ValueError(NOT_FINITE)
    return product.double()
