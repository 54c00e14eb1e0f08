"""Fisher matrices."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from trustml.core.batches import Batch, map_batches
from trustml.ihvp.gauss_newton import (
    FACTOR_BUDGET,
    dense_from_factors,
    diagonal_from_factors,
    sandwich,
)
from trustml.ihvp.graphs import GraphSum, Product
from trustml.ihvp.objective import Objective, check_objective
from trustml.ihvp.operators import FactoredOperator


class EmpiricalFisher(FactoredOperator):
    """F = (1/n) Σ ∇ℓ_i ∇ℓ_i' + diag(wd): second moments of the training gradients.

    It is not the Fisher matrix, and it vanishes where the model interpolates its training data;
    GaussNewton is the better curvature as a rule.

    Parameters
    ----------
    objective : Objective
        At the parameters where the matrix is wanted.

    References
    ----------
    Kunstner, Balles and Hennig (2019), Limitations of the empirical Fisher approximation for
    natural gradient descent, arXiv:1905.12558.

    Examples
    --------
    >>> import torch
    >>> from trustml.ihvp import Objective
    >>> module = torch.nn.Linear(2, 1, bias=False)
    >>> J = Objective(module, torch.nn.MSELoss(), (torch.eye(2), torch.ones(2, 1)))
    >>> EmpiricalFisher(J).shape
    (2, 2)
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = check_objective(objective)
        space = objective.space
        self.size, self.dtype, self.device = space.size, space.dtype, space.device
        self.is_psd = True
        self.scale, self.shift = 1.0 / objective.n, objective.weight_decay
        self.n_factors = len(objective.data)
        self._sum = GraphSum(objective, _build)

    def matmat(self, vectors: Tensor) -> Tensor:
        """Return the product with ``vectors`` of shape (p, k)."""
        total = self._sum(vectors) * self.scale
        total += self.shift[:, None].double() * vectors.double()
        return total.to(self.dtype)

    def factors(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (row indices (b,), K (b, 1, p)): the per-example gradients."""
        objective = self.objective
        size = max(1, FACTOR_BUDGET // self.size)

        def part(batch: Batch) -> tuple[Tensor, Tensor]:
            def slope(outputs: Tensor) -> Tensor:
                return objective.loss.gradient(outputs, objective.targets(batch))

            return batch.indices, objective.gradients.rows(batch.inputs, slope)[1][:, None]

        yield from map_batches(part, objective.data, objective.capped(size))

    def dense(self) -> Tensor:
        """Return the matrix in float64, computed in float64."""
        return dense_from_factors(self.double())

    def diagonal(self) -> Tensor:
        """Return the diagonal of shape (p,), from one pass over the gradients."""
        return diagonal_from_factors(self)

    def double(self) -> EmpiricalFisher:
        """Return the same matrix with products in float64."""
        return self if self.dtype == torch.float64 else EmpiricalFisher(self.objective.double())


def _build(objective: Objective, leaves: dict[str, Tensor], batch: Batch) -> Product:
    outputs = objective.call(leaves, batch.inputs)
    losses = objective.loss(outputs, objective.targets(batch))
    return sandwich(losses, list(leaves.values()), lambda v: v)
