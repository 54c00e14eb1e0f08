"""The Hessian of the training objective, matrix-free."""

from __future__ import annotations

import torch
from torch import Tensor

from trustml.core.batches import Batch
from trustml.core.losses import Autodiff
from trustml.ihvp.gauss_newton import GaussNewton
from trustml.ihvp.graphs import GraphSum, Product, backward_columns, join, split
from trustml.ihvp.last_layer import is_linear
from trustml.ihvp.objective import Objective, check_objective
from trustml.ihvp.operators import LinearOperator, dense_from_products, diagonal_from_products


class Hessian(LinearOperator):
    """∇²J of an objective: mean loss, regulariser included, by double backward.

    Each batch's graph is built once and kept while the graphs fit into memory, so a product costs
    little more than a backward pass. The matrix may be indefinite.

    Parameters
    ----------
    objective : Objective
        At the parameters where the Hessian is wanted.

    References
    ----------
    Pearlmutter (1994), Fast exact multiplication by the Hessian.

    Examples
    --------
    >>> import torch
    >>> from trustml.ihvp import Objective
    >>> module = torch.nn.Linear(2, 1, bias=False)
    >>> J = Objective(module, torch.nn.MSELoss(), (torch.eye(2), torch.ones(2, 1)))
    >>> Hessian(J) @ torch.ones(2)
    tensor([1., 1.])
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = check_objective(objective)
        space = objective.space
        self.size, self.dtype, self.device = space.size, space.dtype, space.device
        self.is_psd = False
        self._sum = GraphSum(objective, _build)

    def matmat(self, vectors: Tensor) -> Tensor:
        """Return the product with ``vectors`` of shape (p, k)."""
        return self._sum(vectors)

    def dense(self) -> Tensor:
        """Return the matrix in float64, computed in float64."""
        exact = self.double()
        if is_linear(exact.objective) and not isinstance(exact.objective.loss, Autodiff):
            return GaussNewton(exact.objective).dense()  # the same, without products
        return dense_from_products(exact)

    def diagonal(self) -> Tensor:
        """Return the diagonal of shape (p,), from p products."""
        return diagonal_from_products(self)

    def double(self) -> Hessian:
        """Return the same matrix with products in float64."""
        return self if self.dtype == torch.float64 else Hessian(self.objective.double())


def _build(objective: Objective, leaves: dict[str, Tensor], batch: Batch) -> Product:
    parameters = list(leaves.values())
    outputs = objective.call(leaves, batch.inputs)
    total = objective.loss(outputs, objective.targets(batch)).sum()
    gradient = torch.autograd.grad(
        total, parameters, create_graph=True, materialize_grads=True, allow_unused=True
    )

    def product(vectors: Tensor) -> Tensor:
        return join(backward_columns(gradient, parameters, split(vectors, parameters)))

    return product
