r"""What one more training row does to a model, for every label at once, without a refit.

With the new row (x, y) training would minimise J + ℓ_y(f(x)) / n. J is replaced by its quadratic
model, the new row's loss is kept as it is: its curvature vanishes where the model is sure while
its gradient does not, so a step with the fitted curvature overshoots for the labels that matter.
The loss sees the parameters through the outputs alone, which leaves c equations,

.. math:: u = -B \nabla ℓ_y(f + u), \qquad B = \tfrac1n J_x H^{-1} J_x'.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trustml.core.batches import Batch, Data
from trustml.core.losses import CrossEntropy, OutputLoss
from trustml.influence import InfluenceFunctions

_STEPS = 50
_HALVINGS = 30
_NUMBERS = 2**24  # of the Jacobians that are held at once
_LEAST_REST = 1e-9  # 1 - leverage below this: the row alone holds a direction in place


@dataclass(frozen=True)
class Pull:
    """Where a new row with each label, or value, pulls the model.

    Attributes
    ----------
    outputs : Tensor of shape (b, c, o)
        The new row's outputs f + u of the model that has learnt it, label by label.
    gradient : Tensor of shape (b, c, o)
        ∇ℓ_y there: the parameters move by -H⁻¹ J_x' gradient / n.
    """

    outputs: Tensor
    gradient: Tensor


def pulls(loss: OutputLoss, outputs: Tensor, spread: Tensor, targets: Tensor) -> Pull:
    """Solve the equations of every row and label, or value, by Newton's method.

    Parameters
    ----------
    loss : OutputLoss
        Convex in the outputs.
    outputs : Tensor of shape (b, ...)
        f, in float64.
    spread : Tensor of shape (b, o, o)
        B, symmetric and positive semi-definite.
    targets : Tensor of shape (b, c)
        Labels or values that are tried for each row.

    Returns
    -------
    Pull
    """
    shape, (b, c) = outputs.shape[1:], targets.shape
    f = outputs.reshape(b, -1).repeat_interleave(c, 0)
    labels = targets.reshape(-1)
    B = spread.repeat_interleave(c, 0)
    eye = torch.eye(f.shape[1], dtype=f.dtype, device=f.device)

    def times(a: Tensor) -> Tensor:
        return (B @ a[:, :, None])[:, :, 0]

    def at(a: Tensor) -> Tensor:
        return (f - times(a)).reshape(-1, *shape)

    def value(a: Tensor) -> Tensor:
        return (a * times(a)).sum(1) / 2 + loss(at(a), labels)

    # u = -B a turns them into the minimum over a of a'Ba / 2 + ℓ(f - B a), also for a singular B.
    a = torch.zeros_like(f)
    for _ in range(_STEPS):
        gap = loss.gradient(at(a), labels).reshape(a.shape) - a
        if float(gap.abs().max()) < 1e-10:
            break
        factor = loss.hessian_factor(at(a), labels)
        step = torch.linalg.solve(eye + factor @ factor.mT @ B, gap)
        now, slope, length = value(a), (gap * times(step)).sum(1), torch.ones_like(a[:, :1])
        for _ in range(_HALVINGS):
            worse = value(a + length * step) > now - 1e-4 * length[:, 0] * slope + 1e-12
            if not bool(worse.any()):
                break
            length = torch.where(worse[:, None], length / 2, length)
        a = a + length * step
    several = (b, c, f.shape[1])
    return Pull(at(a).reshape(several), a.reshape(several))


class Kernel:
    """J H⁻¹ J' / n between new rows and the training rows, a block of outputs each.

    Parameters
    ----------
    influence : InfluenceFunctions
        Fitted; it holds H⁻¹ and the training rows.

    Attributes
    ----------
    outputs : Tensor of shape (n, o)
        Of the training rows, in float64.
    left_out : Tensor of shape (n, o)
        By the models that have not seen them: one Newton step each.
    freed : Tensor of shape (n, o, o)
        (I - S Λ)⁻¹: how much farther a row's outputs move when the row does not hold them itself.
    """

    def __init__(self, influence: InfluenceFunctions) -> None:
        self.influence, self.objective = influence, influence.objective_
        found = self.objective.collect(self._of_training, rows_at_once=self._rows_at_once())
        self.outputs, self.freed = found[:, :, 0], found[:, :, 1:]
        self.left_out = influence.leave_one_out_outputs().reshape(self.outputs.shape).double()

    def with_rows(self, rows: Data) -> tuple[Tensor, Tensor]:
        """Return B (b, o, o) of new rows, and their blocks (n, o, b, o) with the training rows."""
        objective = self.objective
        jacobian = objective.rows(rows, self._cotangents)
        solved, own = self._solved(jacobian)
        columns = solved.reshape(-1, solved.shape[2]).T
        across = objective.dot(columns, None, self._cotangents).double() / objective.n
        return own, across.reshape(*across.shape[:2], *jacobian.shape[:2])

    def _of_training(self, batch: Batch) -> Tensor:
        objective = self.objective
        inputs, targets = batch.inputs, objective.targets(batch)
        outputs, jacobian = objective.gradients.rows(
            inputs, lambda outputs: self._cotangents(outputs, inputs, targets)
        )
        factor = objective.loss.hessian_factor(outputs, targets).double()
        own = self._solved(jacobian)[1]
        inner = factor.mT @ own @ factor
        eye = torch.eye(inner.shape[1], dtype=inner.dtype, device=inner.device)
        values, vectors = torch.linalg.eigh(eye - inner)
        rest = torch.where(values <= _LEAST_REST, 0.0, 1 / values)
        solved = (vectors * rest[:, None, :]) @ vectors.mT
        free = torch.eye(own.shape[1], dtype=own.dtype, device=own.device)
        freed = free + own @ factor @ solved @ factor.mT
        return torch.cat([outputs.reshape(len(outputs), -1, 1).double(), freed], dim=2)

    def _solved(self, jacobian: Tensor) -> tuple[Tensor, Tensor]:
        """Return H⁻¹ of the rows (b, o, p) of some J, and J H⁻¹ J' / n (b, o, o)."""
        columns = jacobian.reshape(-1, jacobian.shape[2]).T
        solved = self.influence.solve(columns).x.T.reshape(jacobian.shape)
        own = (jacobian @ solved.mT).double() / self.objective.n
        return solved, (own + own.mT) / 2

    def _cotangents(self, outputs: Tensor, inputs: Any, targets: Tensor | None) -> Tensor:
        o = outputs[0].numel()
        directions = torch.eye(o, dtype=outputs.dtype, device=outputs.device)
        if isinstance(self.objective.loss, CrossEntropy):
            # No loss sees a shift of all logits, and H does not hold one: it is left out.
            directions = directions - 1 / o
        return directions.expand(len(outputs), o, o)

    def _rows_at_once(self) -> int:
        o = self.objective.outputs(self.objective.data.rows(0, 1).inputs).numel()
        return max(1, _NUMBERS // (2 * o * self.objective.space.size))
