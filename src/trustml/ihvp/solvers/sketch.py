"""A certificate that costs a few products for any number of right-hand sides.

For Gaussian columns z that are drawn once, z'(b − A x) = z'b − (A z)'x has the variance
‖b − A x‖²: no product with x is needed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# How many random columns, and the part of a χ² variable's mean that it falls short of with a
# probability of 1e-9 (64 degrees of freedom).
SKETCH, _QUANTILE = 64, 0.27
# What a residual by a sketch is, in words.
BOUND = (
    "an upper bound from products with 64 random columns, which a column exceeds with a "
    "probability below 1e-9"
)


class Sketch:
    """Products with random columns, against which any answer can be held.

    Parameters
    ----------
    product : callable
        X → A X, of columns in ``dtype``.
    size : int
        p.
    dtype : torch.dtype
        Of the columns, and of the sums.
    device : torch.device
        Of the columns.

    Attributes
    ----------
    z, az : Tensor of shape (p, SKETCH)
        Standard normal columns, and their products.
    """

    def __init__(
        self,
        product: Callable[[Tensor], Tensor],
        size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        z = torch.randn(size, SKETCH, generator=generator, dtype=torch.float64)
        self.z = z.to(device, dtype)
        self.az = product(self.z).to(dtype)

    def bound(self, x: Tensor, b: Tensor) -> Tensor:
        """Return what ‖b − A x‖ / ‖b‖ is below, but for a probability of 1e-9 a column."""
        kind = self.z.dtype
        seen = self.z.T @ b.to(kind) - self.az.T @ x.to(kind)
        # Sums of squares: torch's norms of row-major columns are slow.
        sizes: Tensor = seen.double().square().sum(dim=0) / (_QUANTILE * SKETCH)
        return sizes.div(b.square().sum(dim=0)).sqrt()

    def step(self, residual: Tensor) -> float:
        """Return the α for which residual − α A residual looks smallest, one for all columns."""
        kind = self.z.dtype
        seen, product = self.z.T @ residual.to(kind), self.az.T @ residual.to(kind)
        size = float(product.square().sum())
        return float((seen * product).sum()) / size if size > 0 else 0.0
