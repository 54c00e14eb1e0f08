r"""Leave-one-out parameters of a small network, followed until the remaining gradient is gone.

A network's objective is not quadratic, and the rows that matter to it move it farthest: there one
Newton step misses most. With the gradient of J without row i at θ + δ_i, which is cheap for all i
together, the steps go on,

.. math:: δ_i \leftarrow δ_i + H_{-i}^{-1} (\nabla J(θ) - \nabla J_{-i}(θ + δ_i)) .
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from trustml.core.gradients import PerExampleGradients
from trustml.core.losses import SquaredError
from trustml.core.modes import evaluating
from trustml.ihvp import Objective
from trustml.influence import InfluenceFunctions

_WORK = 2**28  # products a step: n passes over n rows
_STEPS = 10
_ENOUGH = 1e-3  # of the row's pull is left


class RefinedSteps:
    """The n leave-one-out models of a network.

    Parameters
    ----------
    influence : InfluenceFunctions
        Fitted with the Hessian and undamped; of squared error and one output.

    Attributes
    ----------
    places : Tensor of shape (n, p)
        Their parameters.
    """

    def __init__(self, influence: InfluenceFunctions) -> None:
        self.objective = objective = influence.objective_
        every = objective.data.rows(0, len(objective.data))
        self.inputs, targets, n = every.inputs, objective.targets(every), len(every)
        theta, whole = objective.space.vector(), objective.gradient()

        def without(place: Tensor, kept: Tensor) -> Tensor:
            losses = objective.loss(self._outputs(place, self.inputs), targets) * kept
            return losses.sum() / objective.n + (objective.weight_decay * place.square()).sum() / 2

        kept = 1 - torch.eye(n, dtype=theta.dtype, device=theta.device)

        def left(steps: Tensor, rows: Tensor) -> Tensor:
            with evaluating(objective.module):
                pulled: Tensor = vmap(grad(without))(theta + steps, kept[rows])
            return whole - pulled

        J = objective.rows(None, lambda outputs, *_: torch.ones_like(outputs))
        V = influence.inverse_.apply(J.T).T
        freed = (2 / objective.n) / (1 - 2 * (J * V).sum(1) / objective.n)
        steps = influence.parameter_changes(torch.arange(n)).T.clone()
        rows = torch.arange(n, device=theta.device)
        size, remains = left(torch.zeros_like(steps), rows).norm(dim=1), left(steps, rows)
        for _ in range(_STEPS):
            # Only rows that are not there yet, and came nearer, go on.
            z = influence.inverse_.apply(remains.T).T
            z = z + V[rows] * (freed[rows] * (J[rows] * z).sum(1))[:, None]
            now = left(steps[rows] + z, rows)
            better = now.norm(dim=1) < remains.norm(dim=1)
            steps[rows[better]] += z[better]
            on = better & (now.norm(dim=1) > _ENOUGH * size[rows])
            rows, remains = rows[on], now[on]
            if len(rows) == 0:
                break
        self.places = theta + steps

    def own(self) -> Tensor:
        """Return the outputs (n,) of each training row by the model without it."""
        with evaluating(self.objective.module), torch.no_grad():
            found: Tensor = vmap(lambda place, row: self._outputs(place, row[None]))(
                self.places, self.inputs
            )
        return found.reshape(-1)

    def outputs(self, inputs: Any) -> Tensor:
        """Return the outputs (b, n) of rows by every model."""
        with evaluating(self.objective.module), torch.no_grad():
            found: Tensor = vmap(lambda place: self._outputs(place, inputs))(self.places)
        return found.reshape(len(found), -1).T

    def _outputs(self, place: Tensor, inputs: Any) -> Tensor:
        module = self.objective.module
        state = {name: p.detach() for name, p in module.named_parameters()}
        out: Tensor = functional_call(module, state | self.objective.space.unflatten(place), inputs)
        return out


def can_refine(influence: InfluenceFunctions) -> bool:
    """Say whether n passes over n rows are cheap, and possible for all models at once."""
    objective: Objective = influence.objective_
    n = len(objective.data)
    probe = objective.data.rows(0, min(n, 4)).inputs
    if (
        influence.curvature != "hessian"  # another is too rough to go on with
        or influence.damping_.value > 0
        or not isinstance(objective.loss, SquaredError)
        or not isinstance(probe, Tensor)
        or n * n * objective.space.size > _WORK
    ):
        return False
    vmapped = PerExampleGradients(objective.module, objective.space, "vmap")
    try:
        vmapped.rows(probe, torch.ones_like)
    except ValueError:  # the probe's answer: the module's code does not run under vmap
        return False
    return True
