"""Unlearning: the parameters without some rows, from one Newton step, with a certificate."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from trustml.ihvp import (
    Damping,
    FactoredOperator,
    Factorization,
    Objective,
    Solution,
    curvature,
    downdate,
    factorize,
)
from trustml.influence._train_rows import TrainRows
from trustml.warnings import ConvergenceWarning

DOUBTFUL = 0.5  # of the removed rows' pull on the parameters is still there after the step
_HALVINGS = 6  # of a step that leaves more in the gradient than there was
_ENOUGH = 1e-3  # of the pull is left: another step would change nothing that matters


@dataclass(frozen=True, eq=False)
class Removal:
    """Certificate of a Newton removal.

    Attributes
    ----------
    indices : Tensor of shape (m,)
        The rows that left.
    gradient_norm_before, gradient_norm_after : float
        ‖∇J₋ₛ‖, of the objective without the rows, before and after the step. After a perfect
        removal it is what ‖∇J‖ was for the full model.
    gradient_norm_full : float
        ‖∇J‖ of the full objective at the model's parameters.
    remaining : float
        Part of the rows' pull on the parameters that is still there: 0 after a perfect removal,
        about 1 if nothing was removed.
    step_norm : float
        ‖θ₋ₛ − θ‖.
    steps : int
        Newton steps that were taken, all with the curvature at θ.
    solution : Solution
        Of the linear system behind the step.
    """

    indices: Tensor
    gradient_norm_before: float
    gradient_norm_after: float
    gradient_norm_full: float
    remaining: float
    step_norm: float
    steps: int
    solution: Solution


def newton_step(
    objective: Objective,
    curvature_name: str,
    damping: Damping,
    inverse: Factorization,
    rows: TrainRows,
    indices: Tensor,
    most: int = 1,
) -> tuple[Tensor, Removal]:
    """Return θ₋ₛ − θ (p,) for the rows S, and its certificate.

    Parameters
    ----------
    objective : Objective
        Of all rows.
    curvature_name : str
        Which curvature of the remaining rows.
    damping : Damping
        The same λ as for all rows.
    inverse : Factorization
        Of all rows; the rows are taken out of it where they are few.
    rows : TrainRows
        The rows' loss gradients.
    indices : Tensor of shape (m,)
        S.
    most : int
        Steps at most: one pass over the data each, while they halve what is left of the pull.

    Returns
    -------
    step : Tensor of shape (p,)
    removal : Removal
    """
    rest = objective.without(indices)
    pull = (rows.total(indices) / objective.n).to(objective.space.dtype)
    operator = curvature(curvature_name, rest) + damping
    kept = torch.ones(len(objective.data), dtype=torch.bool)
    kept[indices] = False
    removed = curvature(curvature_name, objective.without(kept))
    if isinstance(removed, FactoredOperator):
        left = downdate(inverse, operator, removed)
    else:
        left = factorize(operator, inverse.method, inverse.tol)
    solution = left.solve(pull)
    step = solution.x
    full = objective.gradient()
    before = full - pull  # J₋ₛ = J − Σ_S ℓ_i / n
    after = rest.at(objective.space.vector() + step).gradient()
    # A model that is not at a minimum keeps the gradient it had; only the rest counts as error.
    size = float(pull.norm())
    remaining = float((after - full).norm()) / size if size > 0 else 0.0
    for _ in range(_HALVINGS):
        if remaining <= 1:
            break
        # Too far: the curvature at θ does not reach that way, and the model would be worse.
        shorter = step / 2
        nearer = rest.at(objective.space.vector() + shorter).gradient()
        step, after, remaining = shorter, nearer, float((nearer - full).norm()) / size
    taken = 1
    while taken < most and remaining > _ENOUGH:
        longer = step - left.solve(after - full).x
        further = rest.at(objective.space.vector() + longer).gradient()
        left_over = float((further - full).norm()) / size
        if not left_over < remaining:
            break
        halved, remaining = left_over < 0.5 * remaining, left_over
        step, after, taken = longer, further, taken + 1
        if not halved:
            break
    if remaining > DOUBTFUL:
        held = damping.value * float(step.norm()) / size
        cure = (
            f"the damping {damping.value:.2g} holds the parameters back: lower it, or retrain"
            if held > remaining / 2
            else "one step is too short a way: remove fewer rows, or retrain"
        )
        warnings.warn(
            f"the Newton step leaves {remaining:.0%} of the pull of the {len(indices)} removed "
            f"rows in the gradient; {cure}",
            ConvergenceWarning,
            stacklevel=4,
        )
    removal = Removal(
        indices=indices,
        gradient_norm_before=float(before.norm()),
        gradient_norm_after=float(after.norm()),
        gradient_norm_full=float(full.norm()),
        remaining=remaining,
        step_norm=float(torch.linalg.vector_norm(step)),
        steps=taken,
        solution=solution,
    )
    return step, removal
