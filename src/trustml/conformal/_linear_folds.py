r"""Models that are linear in their parameters, trained without blocks of rows: all blocks at once.

With W_S the rows of the block S, each times a root of its loss's curvature, the block leaves the
curvature H of the objective by Woodbury's identity,

.. math:: (H - W_S'W_S)^{-1} = (I - H^{-1} W_S'W_S)^{-1} H^{-1} .

One step with it is the exact refit for squared error. Any other loss takes a few more, until the
gradient of the remaining objective is what the whole one's was.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trustml.core.batches import Batch
from trustml.influence import InfluenceFunctions

_NUMBERS = 2**24  # of the rows' Jacobians
_WORK = 2**28  # products in the blocks' inverses: above, passes over the data cost less
_STEPS = 50
_HALVINGS = 8
_SLOW = 0.1  # of the gradient remains after a step: the curvature is brought up to date
_ENOUGH = 1e-10  # of the block's pull is left
_ROUGH = 1e-6  # as much is left: the steps did not arrive
_SINGULAR = 1e9  # what is left of the curvature is singular: the block alone holds a direction


def linear_steps(influence: InfluenceFunctions, blocks: Tensor) -> Tensor | None:
    """Return θ₋ₛ − θ of every block; None where it is not to be had in this way.

    Parameters
    ----------
    influence : InfluenceFunctions
        Fitted, of a model that is linear in its parameters.
    blocks : bool Tensor of shape (k, n)
        Which rows each block takes out.

    Returns
    -------
    Tensor of shape (k, p) or None
        None if the model is large, or the rows that stay leave a direction free.
    """
    objective = influence.objective_
    n, p = len(objective.data), objective.space.size
    shape = objective.outputs(objective.data.rows(0, 1).inputs).shape[1:]
    o = math.prod(shape)
    large = max(n * o * p, len(blocks) * p * n) > _NUMBERS or len(blocks) * p**3 > _WORK
    if large or influence.damping_.value > 0:
        return None

    def part(batch: Batch) -> Tensor:
        outputs, jacobian = objective.gradients.rows(
            batch.inputs,
            lambda out: torch.eye(o, dtype=out.dtype, device=out.device).expand(len(out), o, o),
        )
        return torch.cat([outputs.reshape(-1, o, 1), jacobian], dim=2).double()

    found = objective.collect(part)
    outputs, jacobian = found[:, :, 0].reshape(-1, *shape), found[:, :, 1:]
    targets, loss = objective.collect(objective.targets), objective.loss
    decay, blocks = objective.weight_decay.to(jacobian), blocks.to(jacobian.device)

    def moved(step: Tensor) -> Tensor:
        return outputs + (jacobian @ step).reshape(outputs.shape)

    def pulled(steps: Tensor, rows: Tensor) -> Tensor:
        """Return the loss gradients (k, p) of rows (k, n), over n, after the steps (k, p)."""
        sums = []
        for step, mask in zip(steps, rows.to(jacobian), strict=True):
            of_rows = loss.gradient(moved(step), targets).reshape(n, o) * mask[:, None]
            sums.append(of_rows.reshape(-1) @ jacobian.reshape(-1, p))
        return torch.stack(sums) / objective.n

    def curved(steps: Tensor, rows: Tensor) -> Tensor:
        """Return the curvatures W'W (k, p, p) of rows (k, n), over n, after the steps (k, p)."""
        sums = []
        for step, mask in zip(steps, rows, strict=True):
            factor = loss.hessian_factor(moved(step)[mask], targets[mask])
            W = (factor.mT @ jacobian[mask]).reshape(-1, p)
            sums.append(W.T @ W)
        return torch.stack(sums) / objective.n

    step = jacobian.new_zeros(len(blocks), p)
    taken, left = curved(step, blocks), pulled(step, blocks)
    whole, wanted = taken.sum(0), left + pulled(step, ~blocks)
    size, inverse = left.norm(dim=1), _inverse(influence, taken)
    for _ in range(_STEPS):
        if inverse is None:
            return None
        # No certificate: the gradient that remains says more.
        solved = influence.inverse_.apply(left.T.to(objective.space.dtype)).T.to(step)
        direction, length = (inverse @ solved[:, :, None])[:, :, 0], torch.ones_like(size)
        open_ = left.norm(dim=1) > _ENOUGH * size
        for _ in range(_HALVINGS):
            further = step + (length * open_)[:, None] * direction
            remains = wanted - pulled(further, ~blocks) - decay * further
            ratio = remains.norm(dim=1) / left.norm(dim=1)
            worse = open_ & (ratio > 1 - length / 10)
            if not bool(worse.any()):
                break
            length = torch.where(worse, length / 2, length)
        slow = bool((open_ & (ratio > _SLOW)).any())
        if bool(worse.any()) or not bool(open_.any()):
            break
        step, left = further, remains
        if slow:  # with the curvature where the steps have come to
            inverse = _inverse(influence, whole - curved(step, ~blocks))
    return None if bool((left.norm(dim=1) > _ROUGH * size).any()) else step


def _inverse(influence: InfluenceFunctions, taken: Tensor) -> Tensor | None:
    """Return (I - H⁻¹ T)⁻¹ for what each block takes of H, (k, p, p); None if it is none."""
    k, p = taken.shape[:2]
    columns = taken.transpose(0, 1).reshape(p, k * p).to(influence.objective_.space.dtype)
    solved = influence.inverse_.apply(columns).to(taken).reshape(p, k, p).transpose(0, 1)
    inverse, info = torch.linalg.inv_ex(torch.eye(p).to(taken) - solved)
    sound = not bool(info.any()) and bool((inverse.abs().amax((1, 2)) < _SINGULAR).all())
    return inverse if sound else None
