"""The Gauss-Newton matrix: the outputs linearised, the loss's own curvature kept."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from trustml.core import distributed
from trustml.core.batches import Batch, map_batches
from trustml.core.losses import Autodiff, CrossEntropy, OutputLoss
from trustml.ihvp._intake import check_dense
from trustml.ihvp.graphs import (
    GraphSum,
    Product,
    backward_columns,
    join,
    product_flops,
    split,
)
from trustml.ihvp.last_layer import is_linear, linear_dense, linear_diagonal
from trustml.ihvp.objective import Objective, check_objective
from trustml.ihvp.operators import FactoredOperator, dense_from_products

# Factors of one batch stay below this many numbers.
FACTOR_BUDGET = 2**23


class GaussNewton(FactoredOperator):
    """G = (1/n) Σ J_i' Λ_i J_i + diag(wd), with Λ_i the Hessian of the loss at the outputs.

    Positive semi-definite. It equals the Hessian where the outputs are linear in the parameters,
    and the Fisher matrix for cross-entropy and squared error (up to its factor). For a loss that
    is not convex in the outputs, Λ_i is its positive semi-definite part.

    Parameters
    ----------
    objective : Objective
        At the parameters where the matrix is wanted.

    References
    ----------
    Schraudolph (2002), Fast curvature matrix-vector products for second-order gradient descent.

    Examples
    --------
    >>> import torch
    >>> from trustml.ihvp import Objective
    >>> module = torch.nn.Linear(2, 1, bias=False)
    >>> J = Objective(module, torch.nn.MSELoss(), (torch.eye(2), torch.ones(2, 1)))
    >>> GaussNewton(J) @ torch.ones(2)
    tensor([1., 1.])
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = check_objective(objective)
        space = objective.space
        self.size, self.dtype, self.device = space.size, space.dtype, space.device
        self.is_psd = True
        self.scale, self.shift = 1.0 / objective.n, objective.weight_decay
        outputs = objective.outputs(objective.data.rows(0, 1).inputs)
        self._rank = outputs.numel() - int(_softmax(objective.loss, outputs))
        self.n_factors = len(objective.data) * self._rank
        self._sum = GraphSum(objective, _build)
        self._norms: Tensor | None = None

    def matmat(self, vectors: Tensor) -> Tensor:
        """Return the product with ``vectors`` of shape (p, k)."""
        return self._sum(vectors)

    def factors(self, examples: range | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (row indices (b,), K (b, r, p)) with G = (1/n) Σ K_i' K_i + diag(wd)."""
        objective = self.objective
        size = max(1, FACTOR_BUDGET // (self.size * self._rank))

        def part(batch: Batch) -> tuple[Tensor, Tensor]:
            def roots(outputs: Tensor) -> Tensor:
                return _roots(objective.loss, outputs, objective.targets(batch))

            return batch.indices, objective.gradients.rows(batch.inputs, roots)[1]

        size = objective.capped(size)
        yield from map_batches(part, objective.data, size, rows=examples)

    def factor_norms(self) -> Tensor:
        """Return the squared norms of the rows of the K_i, shape (n, r)."""
        if self._norms is None:
            objective = self.objective

            def part(batch: Batch) -> Tensor:
                def roots(outputs: Tensor) -> Tensor:
                    return _roots(objective.loss, outputs, objective.targets(batch))

                return objective.gradients.squared_norm(batch.inputs, roots)

            self._norms = objective.collect(part)
        return self._norms

    def factor_rows(self, examples: Tensor, columns: Tensor) -> Tensor:
        """Return the rows ``columns[j]`` of K at ``examples[j]``, shape (m, p)."""
        objective = self.objective

        def part(batch: Batch) -> Tensor:
            def chosen(outputs: Tensor) -> Tensor:
                roots = _roots(objective.loss, outputs, objective.targets(batch))
                which = columns[batch.indices.to(columns.device)].to(roots.device)
                return roots[torch.arange(len(which)), which].reshape(outputs.shape)

            return objective.gradients.rows(batch.inputs, chosen)[1]

        data = objective.data.subset(examples)
        size = max(1, FACTOR_BUDGET // self.size)
        return objective.collect(part, data, size)

    def dense(self) -> Tensor:
        """Return the matrix in float64, computed in float64."""
        exact = self.double()
        if not is_linear(exact.objective):
            # Many outputs a row: p products take less than all rows of the K_i.
            few = self._rank * self.size <= product_flops(exact.objective)
            return dense_from_factors(exact) if few else dense_from_products(exact)
        total = linear_dense(exact.objective).mul_(self.scale)
        total.diagonal().add_(exact.shift)
        return total

    def diagonal(self) -> Tensor:
        """Return the diagonal of shape (p,), from one pass over the data."""
        if not is_linear(self.objective):
            return diagonal_from_factors(self)
        return (self.scale * linear_diagonal(self.objective) + self.shift).to(self.dtype)

    def double(self) -> GaussNewton:
        """Return the same matrix with products in float64."""
        return self if self.dtype == torch.float64 else GaussNewton(self.objective.double())


def _softmax(loss: OutputLoss, outputs: Tensor) -> bool:
    return isinstance(loss, CrossEntropy) and outputs.ndim == 2


def _roots(loss: OutputLoss, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return S' of shape (n, r, c) with S S' = Λ; the null column of a softmax is left out."""
    factor = loss.hessian_factor(outputs, targets)
    if _softmax(loss, outputs):
        # S √p = 0: reflect √p onto the first axis, where its column vanishes.
        axis = outputs.softmax(dim=1).sqrt()
        axis[:, 0] += 1
        reflected = (factor @ axis[:, :, None]) * axis[:, None, :]
        factor = factor - 2 * reflected / axis.square().sum(dim=1)[:, None, None]
        factor = factor[:, :, 1:]
    return factor.mT


def dense_from_factors(operator: FactoredOperator) -> Tensor:
    """Assemble scale · Σ K'K + diag(shift) in float64."""
    p = operator.size
    check_dense(p, operator.device)
    width = max(256, p // 8)
    examples = distributed.shard(operator.n_examples)

    def own() -> Tensor:
        total = torch.zeros(p, p, dtype=torch.float64, device=operator.device)
        for _, factor in operator.factors(examples):
            rows = factor.reshape(-1, p).double()
            for start in range(0, p, width):  # the lower triangle, by blocks
                block = slice(start, start + width)
                total[start:, block].addmm_(rows[:, start:].T, rows[:, block])
        return total

    total = distributed.all_sum(own)
    total = total.tril_().add_(total.tril(-1).T)
    total *= operator.scale
    total.diagonal().add_(operator.shift.double())
    return total


def diagonal_from_factors(operator: FactoredOperator) -> Tensor:
    """Return the diagonal of scale · Σ K'K + diag(shift)."""
    examples = distributed.shard(operator.n_examples)

    def own() -> Tensor:
        total = torch.zeros(operator.size, dtype=torch.float64, device=operator.device)
        for _, factor in operator.factors(examples):
            total += factor.reshape(-1, operator.size).double().square().sum(dim=0)
        return total

    total = distributed.all_sum(own)
    return (operator.scale * total + operator.shift).to(operator.dtype)


def _build(objective: Objective, leaves: dict[str, Tensor], batch: Batch) -> Product:
    outputs = objective.call(leaves, batch.inputs)
    targets = objective.targets(batch)
    values = outputs.detach()
    loss = objective.loss
    if isinstance(loss, Autodiff):
        # Its Hessian may be indefinite; the factor is of the positive part.
        factor = loss.hessian_factor(values, targets)
        block = factor @ factor.mT

        def curve(v: Tensor) -> Tensor:
            return (block @ v.reshape(len(v), -1, 1)).reshape(v.shape)
    else:

        def curve(v: Tensor) -> Tensor:
            return loss.hessian_product(values, targets, v)

    return sandwich(outputs, list(leaves.values()), curve)


def sandwich(outputs: Tensor, parameters: list[Tensor], curve: Product) -> Product:
    """Return V → J' curve(J V), both directions through one kept graph."""
    # The Jacobian's product is the derivative of its transpose's product with respect to the
    # cotangent: no forward mode, so every layer that can be differentiated twice will do.
    if not outputs.requires_grad:
        return torch.zeros_like
    dummy = torch.zeros_like(outputs, requires_grad=True)
    with torch.enable_grad():
        transposed = torch.autograd.grad(
            outputs,
            parameters,
            dummy,
            create_graph=True,
            materialize_grads=True,
            allow_unused=True,
        )

    def product(vectors: Tensor) -> Tensor:
        (tangents,) = backward_columns(transposed, [dummy], split(vectors, parameters))
        curved = torch.vmap(curve)(tangents)
        return join(backward_columns([outputs], parameters, [curved]))

    return product
