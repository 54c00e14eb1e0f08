"""How attributions depend on the parameters: gradients of gradients, row by row."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from trustml.core.batches import forward
from trustml.core.modes import evaluating
from trustml.core.progress import track
from trustml.explain._explainer import Explainer, GradientExplainer
from trustml.explain._gradients import Field
from trustml.explain._question import Question
from trustml.ihvp import Objective
from trustml.influence import InfluenceFunctions
from trustml.model import Model
from trustml.warnings import BackendWarning, ConvergenceWarning

_LOOSE = 0.05  # a relative mismatch above this is worth a warning


def engine(
    model: Model, correction: Any, influence: InfluenceFunctions | None
) -> InfluenceFunctions:
    """Return fitted influence functions of the model: the given ones, or new ones.

    Returns
    -------
    InfluenceFunctions

    Raises
    ------
    ValueError
        If the given ones belong to another model.
    """
    if influence is None:
        return InfluenceFunctions(model, correction=correction).fit()
    fitted = influence if hasattr(influence, "inverse_") else influence.fit()
    if fitted.model_.module is not model.module:
        raise ValueError("influence= belongs to another model than the explainer's")
    return fitted


def differentiable(explainer: Explainer, what: str) -> GradientExplainer:
    """Return the explainer if its attributions have derivatives.

    Returns
    -------
    GradientExplainer

    Raises
    ------
    TypeError
        If it samples, or is no explainer.
    """
    if isinstance(explainer, GradientExplainer):
        return explainer
    raise TypeError(
        f"{what} differentiates the attributions with respect to the parameters, and "
        f"{type(explainer).__name__} cannot be differentiated: use IntegratedGradients, "
        "InputXGradient or Saliency"
    )


def attribution_gradients(
    explainer: GradientExplainer,
    X: Any,
    target: Any,
    y: Any,
    objective: Objective,
    read: Callable[[Tensor], Tensor],
) -> Iterator[Tensor]:
    """Yield, row by row, the parameter gradients (q, p) of q numbers read from attributions.

    Parameters
    ----------
    explainer : GradientExplainer
    X, target, y
        As for ``attribute``.
    objective : Objective
        Its parameter space is differentiated in.
    read : callable
        Maps a row's attributions (*features[, c]) to the numbers (q,).

    Yields
    ------
    Tensor of shape (q, p)
    """
    model, rows, question = explainer.prepare(X, target, y)
    module = _wide(objective.module, rows)
    leaves = _leaves(module, objective)
    mismatch = 0.0
    with evaluating(module):
        for i in track(range(len(rows)), "attribution gradients"):
            row = rows[i : i + 1].to(next(iter(leaves.values())).dtype)
            field = _field(question.select(torch.tensor([i], device=rows.device)), module, leaves)
            plan = explainer.explain(model, field, row, thorough=True).plan
            values = explainer.again(field, row, plan)
            if explainer.adds_up:
                mismatch = max(mismatch, _mismatch(values, field, row, plan, leaves, objective))
            numbers = read(values[0])
            yield torch.stack([_gradient(number, leaves, objective) for number in numbers])
    if mismatch > _LOOSE:
        warnings.warn(
            "the parameter derivatives of the attributions do not add up to that of the output: "
            f"off by up to {mismatch:.0%}; raise max_passes, or explain a smoother model",
            ConvergenceWarning,
            stacklevel=3,
        )


def _wide(module: nn.Module, rows: Tensor) -> nn.Module:
    """Return a float64 copy, in which small kinks are seen; a plain copy if it cannot run."""
    wide = deepcopy(module).double()
    try:
        with torch.no_grad(), evaluating(wide):
            forward(wide, rows[:1].double())
    except RuntimeError as error:
        warnings.warn(
            f"the module does not run in float64 ({error}); the parameter derivatives of its "
            f"attributions are taken in {rows.dtype}, and are rough where it has kinks",
            BackendWarning,
            stacklevel=4,
        )
        return deepcopy(module)
    return wide


def _leaves(module: nn.Module, objective: Objective) -> dict[str, Tensor]:
    """Return parameters of our own, to differentiate in."""
    found = dict(module.named_parameters())
    return {name: found[name].detach().requires_grad_() for name in objective.space.names}


def _field(question: Question, module: nn.Module, leaves: dict[str, Tensor]) -> Field:
    """Return the explained field as a function of these parameters."""

    def field(points: Tensor, owner: Tensor) -> Tensor:
        def call(inputs: Tensor) -> Any:
            return functional_call(module, leaves, (inputs,))

        return question.select(owner).read(forward(call, points))

    return field


def _gradient(number: Tensor, leaves: dict[str, Tensor], objective: Objective) -> Tensor:
    """Return the gradient of one number, (p,)."""
    if not number.requires_grad:
        return torch.zeros(objective.space.size, dtype=objective.space.dtype, device=number.device)
    found = torch.autograd.grad(
        number, list(leaves.values()), retain_graph=True, materialize_grads=True
    )
    return objective.space.flatten(dict(zip(leaves, found, strict=True)))


def _mismatch(
    values: Tensor,
    field: Field,
    row: Tensor,
    plan: Any,
    leaves: dict[str, Tensor],
    objective: Objective,
) -> float:
    """Return by how much the derivatives of the attributions miss that of their sum."""
    owner = torch.zeros(len(plan.base), dtype=torch.long, device=row.device)
    rise = field(row, owner[:1])[0] - field(plan.base, owner).mean(0)
    sums = values[0].flatten(0, row.ndim - 2).sum(0)
    worst = 0.0
    for expected, got in zip(rise.reshape(-1), sums.reshape(-1), strict=True):
        true, taken = (_gradient(number, leaves, objective) for number in (expected, got))
        worst = max(worst, float((true - taken).norm() / true.norm().clamp_min(1e-300)))
    return worst
