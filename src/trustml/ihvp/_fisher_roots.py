"""Directions in output space whose gradients make up a Fisher matrix."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from trustml.core.batches import Batch
from trustml.core.losses import Autodiff
from trustml.core.random import RandomState, torch_generator
from trustml.core.validation import check_choice, check_positive_int
from trustml.ihvp.gauss_newton import _roots, _softmax
from trustml.ihvp.objective import Objective
from trustml.ihvp.operators import FactoredOperator, LinearOperator

FisherKind = Literal["auto", "exact", "monte-carlo", "empirical"]

# Signs are drawn for so many rows at a time, from a seed of their own: any batch sees the same.
_BLOCK = 256
# More factor rows of an example than this are sampled, where "auto" may choose.
MANY_OUTPUTS = 64


class FisherRoots:
    """Directions s_ij with Σ_j s_ij s_ij' = Λ_i, the output Hessian of row i, or of that mean.

    "exact" takes the columns of a factor S_i of Λ_i, "monte-carlo" random signs times them,
    S_i ε / √samples, "empirical" the gradient of the loss at the row's own target.
    """

    def __init__(
        self, objective: Objective, fisher: FisherKind, samples: int, random_state: RandomState
    ) -> None:
        check_choice(fisher, "fisher", ("auto", "exact", "monte-carlo", "empirical"))
        self.objective, self.samples = objective, check_positive_int(samples, "samples")
        outputs = objective.outputs(objective.data.rows(0, 1).inputs)
        self._c = outputs.numel()
        rank = self._c - int(_softmax(objective.loss, outputs))
        self.kind: str = fisher
        if fisher == "auto":
            self.kind = "exact" if rank <= MANY_OUTPUTS else "monte-carlo"
        self.rank = {"exact": rank, "monte-carlo": self.samples, "empirical": 1}[self.kind]
        generator = torch_generator(random_state)
        self.seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))

    def __call__(self, batch: Batch) -> Callable[[Tensor], Tensor]:
        """Return what maps a batch's outputs to directions (b, rank, c)."""
        loss, targets = self.objective.loss, self.objective.targets(batch)
        if self.kind == "exact":
            return lambda outputs: _roots(loss, outputs, targets)
        if self.kind == "empirical":
            return lambda outputs: loss.gradient(outputs, targets).reshape(len(outputs), 1, -1)

        def draw(outputs: Tensor) -> Tensor:
            signs = self._signs(batch.indices).to(outputs)
            return loss.hessian_root(outputs, targets, signs) / math.sqrt(self.samples)

        return draw

    def _signs(self, indices: Tensor) -> Tensor:
        """Return ±1 of shape (b, samples, c) that belong to the rows."""
        rows = indices.cpu()
        signs = torch.empty(len(rows), self.samples, self._c, dtype=torch.int8)
        for block in sorted(set((rows // _BLOCK).tolist())):
            state = np.random.SeedSequence([self.seed, block]).generate_state(1, np.uint64)
            generator = torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))
            shape = (_BLOCK, self.samples, self._c)
            drawn = torch.randint(2, shape, generator=generator, dtype=torch.int8)
            here = rows // _BLOCK == block
            signs[here] = drawn[rows[here] % _BLOCK]
        return 2 * signs - 1


def refuse_function(objective: Objective, what: str) -> None:
    """Refuse a loss that is no likelihood: it has no distribution to take a mean over."""
    if isinstance(objective.loss, Autodiff):
        raise TypeError(
            f"{what} is a mean over the model's own distribution, and the loss "
            f"{objective.loss.name} is a function, not a likelihood; use GaussNewton, or "
            "EmpiricalFisher"
        )


def many_outputs(operator: LinearOperator) -> bool:
    """Say whether a row has more factor rows, each a backward pass, than one would take."""
    if not isinstance(operator, FactoredOperator):
        return False
    return operator.n_factors > MANY_OUTPUTS * operator.n_examples
