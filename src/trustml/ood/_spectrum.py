"""Leading eigenpairs of a Gauss-Newton matrix of the rows of fit, by the cheapest way there is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trustml.core.losses import Autodiff
from trustml.ihvp import Fisher, GaussNewton, LowRankApproximation, Objective, top_eigenpairs
from trustml.ihvp.operators import FactoredOperator
from trustml.ihvp.solvers.dual import as_factored, stack_factors
from trustml.ood._heldout_damping import heldout_damping, relative_damping
from trustml.ood._jacobian import Question, answers

_DENSE = 500  # parameters whose matrix is decomposed as it is
_ROWS = 1000  # output rows whose inner products are
_NUMBERS = 2**25  # in those rows: 256 MiB
_NULL = 1e-13  # of the largest eigenvalue


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenpairs of G = (1/n) Σ J'ΛJ, and what held-out rows say of the damping.

    Attributes
    ----------
    values : Tensor of shape (k,)
        Descending, in float64.
    vectors : Tensor of shape (p, k)
        In the gradients' precision.
    decay : float
        Mean weight decay of the parameters.
    damping : float
        Under which the held-out gradients are likeliest; 1e-3 mean eigenvalues without any.
    """

    values: Tensor
    vectors: Tensor
    decay: float
    damping: float

    @property
    def complete(self) -> bool:
        """Whether there is an eigenpair for each parameter."""
        return self.vectors.shape[0] == self.vectors.shape[1]


def spectrum(objective: Objective, held: Tensor, rank: int) -> Spectrum:
    """Return at most ``rank`` eigenpairs of the rows that are not held out.

    Parameters
    ----------
    objective : Objective
        On all rows; its weight decay is left out of G.
    held : bool Tensor of shape (n,)
        Which rows choose the damping.
    rank : int
        How many pairs.

    Returns
    -------
    Spectrum
    """
    decay = float(objective.weight_decay.double().mean())
    known = undecayed(objective, ~held)
    values, vectors = _pairs(known, min(rank, objective.space.size))
    vectors = vectors.to(objective.gradients.dtype)
    if not bool(held.any()):
        return Spectrum(values, vectors, decay, relative_damping(values))
    data = objective.data.subset(held)
    rows = data.rows(0, len(data))
    question = Question(objective.gradients, objective.loss, vectors)
    answer = answers({"": question}, rows.inputs, objective.targets(rows))[""]
    moments, total = answer.along.mean(dim=0), float(answer.total.mean())
    left = len(vectors) - len(values)
    rest = (max(total - float(moments.sum()), 0.0) if left else 0.0, left)
    return Spectrum(values, vectors, decay, heldout_damping(values, moments, decay, rest))


def undecayed(objective: Objective, which: Tensor) -> Objective:
    """Return the mean loss of some rows, without weight decay."""
    return Objective(
        objective.module,
        objective.loss,
        objective.data.subset(which),
        objective.space,
        batch_size=objective.batch_size,
    )


def _pairs(objective: Objective, rank: int) -> tuple[Tensor, Tensor]:
    exact, p, n = GaussNewton(objective), objective.space.size, len(objective.data)
    if p <= _DENSE:
        values, vectors = top_eigenpairs(exact.double(), rank)
        return values.double().clamp_min(0), vectors
    if exact.n_factors <= _ROWS and exact.n_factors * p <= _NUMBERS:
        return _dual(exact, rank)
    samples = min(_ROWS // n, _NUMBERS // (n * p))
    if samples and not isinstance(objective.loss, Autodiff):
        return _dual(Fisher(objective, samples), rank)
    rows = LowRankApproximation(exact, rank, "nystrom").rows
    sizes = rows.norm(dim=1)
    keep = sizes > 0
    return sizes[keep].square(), (rows[keep] / sizes[keep, None]).T


def _dual(operator: FactoredOperator, rank: int) -> tuple[Tensor, Tensor]:
    """Return the eigenpairs of W'W from those of WW'."""
    factored = as_factored(operator)
    if factored is None:
        raise TypeError(f"{type(operator).__name__} has no factors")
    rows = stack_factors(factored)
    values, left = torch.linalg.eigh(rows @ rows.T)
    keep = (values > _NULL * values[-1].clamp_min(1e-300)).nonzero().flatten().flip(0)[:rank]
    return values[keep], rows.T @ (left[:, keep] / values[keep].sqrt())
