"""Fisher matrices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from trustml.core.batches import Batch, map_batches
from trustml.core.random import RandomState
from trustml.ihvp._fisher_roots import FisherKind, FisherRoots, refuse_function
from trustml.ihvp.gauss_newton import (
    FACTOR_BUDGET,
    GaussNewton,
    dense_from_factors,
    diagonal_from_factors,
    sandwich,
)
from trustml.ihvp.gauss_newton import (
    _build as build_gauss_newton,
)
from trustml.ihvp.graphs import GraphSum, Product
from trustml.ihvp.objective import Objective, check_objective
from trustml.ihvp.operators import FactoredOperator


class Fisher(FactoredOperator):
    """F = (1/n) Σ E[∇ℓ ∇ℓ'] + diag(wd), targets drawn from the model's own distribution.

    In closed form by default, and then equal to GaussNewton for every likelihood here: the losses
    are taken as the negative log-likelihoods that they are (squared error unhalved: a Gaussian of
    variance ½), so that no factor lies between the two. Class weights, label smoothing and ignored
    tokens scale each row as they scale its loss. With ``samples`` it is an unbiased draw of that
    matrix, of rank n · samples: random signs times a factor of each output Hessian, which vary less
    than sampled targets.

    Parameters
    ----------
    objective : Objective
        At the parameters where the matrix is wanted; its loss a likelihood.
    samples : int or None
        Draws a row; None takes the mean in closed form.
    random_state : int, generator or None
        Of the draws; a row's do not depend on its batch.

    Raises
    ------
    TypeError
        If the loss is a bare function, not a likelihood.

    References
    ----------
    Martens (2020), New insights and perspectives on the natural gradient method, arXiv:1412.1193.

    Examples
    --------
    >>> import torch
    >>> from trustml.ihvp import GaussNewton, Objective
    >>> module = torch.nn.Linear(2, 1, bias=False)
    >>> J = Objective(module, torch.nn.MSELoss(), (torch.eye(2), torch.ones(2, 1)))
    >>> torch.equal(Fisher(J).dense(), GaussNewton(J).dense())
    True
    """

    def __init__(
        self, objective: Objective, samples: int | None = None, random_state: RandomState = 0
    ) -> None:
        self.objective = check_objective(objective)
        refuse_function(objective, "the Fisher matrix")
        space = objective.space
        self.size, self.dtype, self.device = space.size, space.dtype, space.device
        self.is_psd = True
        self.scale, self.shift = 1.0 / objective.n, objective.weight_decay
        self.samples = samples
        kind: FisherKind = "exact" if samples is None else "monte-carlo"
        self._roots = FisherRoots(objective, kind, 1 if samples is None else samples, random_state)
        self.n_factors = len(objective.data) * self._roots.rank
        self._sum = GraphSum(objective, build_gauss_newton if samples is None else self._build)

    def _build(self, objective: Objective, leaves: dict[str, Tensor], batch: Batch) -> Product:
        outputs = objective.call(leaves, batch.inputs)
        roots = self._roots(batch)(outputs.detach())

        def curve(v: Tensor) -> Tensor:
            return (roots.mT @ (roots @ v.reshape(len(v), -1, 1))).reshape(v.shape)

        return sandwich(outputs, list(leaves.values()), curve)

    def matmat(self, vectors: Tensor) -> Tensor:
        """Return the product with ``vectors`` of shape (p, k)."""
        return self._sum(vectors)

    def factors(self, examples: range | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (row indices (b,), K (b, r, p)) with F = (1/n) Σ K_i' K_i + diag(wd)."""
        objective = self.objective
        size = max(1, FACTOR_BUDGET // (self.size * self._roots.rank))

        def part(batch: Batch) -> tuple[Tensor, Tensor]:
            return batch.indices, objective.gradients.rows(batch.inputs, self._roots(batch))[1]

        size = objective.capped(size)
        yield from map_batches(part, objective.data, size, rows=examples)

    def factor_norms(self) -> Tensor:
        """Return the squared norms of the rows of the K_i, shape (n, r)."""
        gradients = self.objective.gradients
        return self.objective.collect(
            lambda batch: gradients.squared_norm(batch.inputs, self._roots(batch))
        )

    def factor_rows(self, examples: Tensor, columns: Tensor) -> Tensor:
        """Return the rows ``columns[j]`` of K at ``examples[j]``, shape (m, p)."""
        objective = self.objective

        def part(batch: Batch) -> Tensor:
            own = replace(batch, indices=examples[batch.indices])  # draws belong to the rows

            def chosen(outputs: Tensor) -> Tensor:
                which = columns[batch.indices.to(columns.device)].to(outputs.device)
                roots = self._roots(own)(outputs)
                return roots[torch.arange(len(which)), which].reshape(outputs.shape)

            return objective.gradients.rows(batch.inputs, chosen)[1]

        size = max(1, FACTOR_BUDGET // self.size)
        data = objective.data.subset(examples)
        return objective.collect(part, data, size)

    def dense(self) -> Tensor:
        """Return the matrix in float64, computed in float64."""
        if self.samples is None:
            return GaussNewton(self.objective).dense()
        return dense_from_factors(self.double())

    def diagonal(self) -> Tensor:
        """Return the diagonal of shape (p,), from one pass over the factors."""
        if self.samples is None:
            return GaussNewton(self.objective).diagonal()
        return diagonal_from_factors(self)

    def double(self) -> Fisher:
        """Return the same matrix, its draws included, with products in float64."""
        if self.dtype == torch.float64:
            return self
        twin = Fisher(self.objective.double(), self.samples)
        twin._roots.seed = self._roots.seed
        return twin


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
        return self._sum(vectors)

    def factors(self, examples: range | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (row indices (b,), K (b, 1, p)): the per-example gradients."""
        objective = self.objective
        size = max(1, FACTOR_BUDGET // self.size)

        def part(batch: Batch) -> tuple[Tensor, Tensor]:
            def slope(outputs: Tensor) -> Tensor:
                return objective.loss.gradient(outputs, objective.targets(batch))

            return batch.indices, objective.gradients.rows(batch.inputs, slope)[1][:, None]

        size = objective.capped(size)
        yield from map_batches(part, objective.data, size, rows=examples)

    def factor_norms(self) -> Tensor:
        """Return the squared norms of the per-example gradients, shape (n, 1)."""
        objective = self.objective

        def part(batch: Batch) -> Tensor:
            targets = objective.targets(batch)
            return objective.gradients.squared_norm(
                batch.inputs, lambda outputs: objective.loss.gradient(outputs, targets)
            )

        return objective.collect(part)[:, None]

    def factor_rows(self, examples: Tensor, columns: Tensor) -> Tensor:
        """Return the gradients at ``examples``, shape (m, p)."""
        return self.objective.rows(self.objective.data.subset(examples))

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
