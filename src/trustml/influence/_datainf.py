"""DataInf: the inverse of a mean of rank-one matrices, taken as the mean of their inverses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trustml.core._backends import Terms
from trustml.core._terms import chunks
from trustml.core.batches import Batch
from trustml.influence._attributor import Attributor
from trustml.influence._gradient_products import loss_gradient
from trustml.influence._queries import Queries
from trustml.influence._train_rows import rows_at_once

_FRACTION = 0.1  # of a parameter's mean squared gradient, as the paper has it


class DataInf(Attributor):
    r"""Influence with a closed form for each parameter's inverse curvature.

    The empirical Fisher of a parameter, :math:`\frac1n Σ_i g_i g_i' + λI`, is inverted as if the
    inverse of a mean were the mean of the inverses,

    .. math:: \Bigl(\tfrac1n Σ_i g_i g_i' + λI\Bigr)^{-1} \approx
              \frac1n Σ_i (g_i g_i' + λI)^{-1}
              = \frac1λ \Bigl(I - \frac1n Σ_i \frac{g_i g_i'}{λ + \|g_i\|^2}\Bigr),

    and parameters are taken apart. The swap is exact for one row, good while λ is large beside the
    squared gradients, and otherwise close to a rescaled inner product of gradients: no more than n
    directions are shrunk, each by at most 1/n. ``InfluenceFunctions`` solves the system itself.

    Parameters
    ----------
    model : Model or anything that ``trustml.wrap`` takes
        With its training data, and gradients.
    damping : float or "auto"
        λ > 0 of every parameter, added to its weight decay. "auto": a tenth of the mean eigenvalue
        of each parameter's empirical Fisher.
    parameters : selection or None
        Which parameters, as in ``ihvp.Objective``.

    Attributes
    ----------
    objective_ : Objective
        The training objective.
    damping_ : dict of str to float
        λ of each parameter, weight decay included; infinite where no row has a gradient, and the
        parameter plays no part.

    References
    ----------
    Kwon, Wu, Wu and Zou (2023), DataInf: efficiently estimating data influence in LoRA-tuned LLMs
    and diffusion models, arXiv:2310.00902.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from trustml.model import wrap
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = wrap(Ridge().fit(X[:400], y[:400]), train=(X[:400], y[:400]))
    >>> DataInf(model).fit().scores(X[400:], y[400:]).values.shape
    (42, 400)
    """

    name = "datainf"
    note = "The inverse of the mean curvature is replaced by a mean of inverses: see DataInf."
    curvature_name = "empirical Fisher, parameter by parameter"

    def __init__(
        self,
        model: Any,
        damping: float | str = "auto",
        parameters: str | Sequence[str] | None = None,
    ) -> None:
        self.model = model
        self.damping = damping
        self.parameters = parameters

    def _prepare(self) -> None:
        space = self.objective_.space
        slices = list(space.slices.values())
        decay = torch.stack([self.objective_.weight_decay[s.start] for s in slices]).double()
        if self.damping == "auto":
            sizes = torch.tensor([s.stop - s.start for s in slices], dtype=torch.float64)
            added = _FRACTION * self._mean_squares() / sizes.to(decay.device)
        else:
            added = torch.full_like(decay, _checked(self.damping))
        total = added + decay
        total[total == 0] = math.inf
        self._lambdas = total.to(torch.promote_types(space.dtype, torch.float32))
        self.damping_ = dict(zip(space.names, total.tolist(), strict=True))

    def _raw_scores(self, queries: Queries) -> tuple[Tensor, None]:
        blocks = [self._solved(g) for g in queries.gradient_blocks(self.objective_)]
        return torch.cat([self.objective_.dot(solved.T).T for solved in blocks]), None

    def _raw_self(self) -> Tensor:
        objective = self.objective_

        def part(batch: Batch) -> Tensor:
            gradient = loss_gradient(objective, batch)
            rows = objective.gradients.rows(batch.inputs, gradient)[1]
            return (rows * self._solved(rows)).sum(1)

        return objective.collect(part, rows_at_once=rows_at_once(objective.space.size))

    def _solved(self, gradients: Tensor) -> Tensor:
        """Return the approximate inverse times each of some gradients (b, p)."""
        space = self.objective_.space

        def shrunk(terms: Terms) -> Tensor:
            parts = []
            for (s, term), damping in zip(terms, self._lambdas, strict=True):
                weights = term.dot(gradients[:, s].T) / (damping + term.squared_norm())[:, None]
                pieces = chunks(term.n, s.stop - s.start)
                sums = [weights[w].T @ term.part(w).rows() for w in pieces]
                parts.append(torch.stack(sums).sum(0))
            return torch.cat(parts, dim=1)[None]

        less = self._sum(shrunk)[0].to(gradients) / len(self.objective_.data)
        sizes = [s.stop - s.start for s in space.slices.values()]
        return (gradients - less) / self._lambdas.repeat_interleave(
            torch.tensor(sizes, device=self._lambdas.device)
        )

    def _mean_squares(self) -> Tensor:
        """Return each parameter's mean squared gradient norm, float64."""

        def norms(terms: Terms) -> Tensor:
            found = [term.squared_norm().sum() for _, term in terms]
            return torch.stack(found)[None]

        return self._sum(norms)[0] / len(self.objective_.data)

    def _sum(self, read: Any) -> Tensor:
        """Sum what is read of the training rows' gradients, (1, ...), over the data in float64."""
        objective = self.objective_

        def part(batch: Batch) -> Tensor:
            gradient = loss_gradient(objective, batch)
            found = objective.gradients.measure(batch.inputs, gradient, read)[1]
            return found.sum(0, keepdim=True)

        return objective.total(part)


def _checked(damping: Any) -> float:
    if isinstance(damping, (bool, str)) or not isinstance(damping, (int, float)):
        raise ValueError(f'damping must be a number > 0 or "auto", got {damping!r}')
    if not (math.isfinite(damping) and damping > 0):
        raise ValueError(
            f"damping must be a finite number > 0, got {damping}: DataInf divides by it; pass "
            '"auto" for a tenth of the mean eigenvalue'
        )
    return float(damping)
