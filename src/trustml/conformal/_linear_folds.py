r"""Models that are linear in their parameters, trained without blocks of rows: all blocks at once.

With W_S the rows of the block S, each times a root of its loss's curvature, the block leaves the
curvature H of the objective by Woodbury's identity,

.. math:: (H - W_S'W_S)^{-1} = (I - H^{-1} W_S'W_S)^{-1} H^{-1} .

One step with it is the exact refit for squared error. Any other loss takes a few more, with the
same matrix, until the gradient of the remaining objective is what the whole one's was.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trustml.core.batches import Batch
from trustml.influence import InfluenceFunctions

_NUMBERS = 2**24  # of the rows' Jacobians, and of the blocks' matrices
_STEPS = 50
_ENOUGH = 1e-10  # of the block's pull is left
_ROUGH = 1e-4  # as much is left: the steps did not arrive
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
    large = max(n * o * p, len(blocks) * p * max(p, n)) > _NUMBERS
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

    def pulled(steps: Tensor, rows: Tensor) -> Tensor:
        """Return the loss gradients (k, p) of rows (k, n), over n, after the steps (k, p)."""
        sums = []
        for step, mask in zip(steps, rows.to(jacobian), strict=True):
            moved = outputs + (jacobian @ step).reshape(outputs.shape)
            of_rows = loss.gradient(moved, targets).reshape(n, o) * mask[:, None]
            sums.append(of_rows.reshape(-1) @ jacobian.reshape(-1, p))
        return torch.stack(sums) / objective.n

    inverse = _inverse(influence, loss.hessian_factor(outputs, targets).mT @ jacobian, blocks)
    if inverse is None:
        return None
    step = jacobian.new_zeros(len(blocks), p)
    left = pulled(step, blocks)
    wanted, size = left + pulled(step, ~blocks), left.norm(dim=1)
    for _ in range(_STEPS):
        solved = influence.solve(left.T.to(objective.space.dtype)).x.T.to(step)
        further = step + (inverse @ solved[:, :, None])[:, :, 0]
        remains = wanted - pulled(further, ~blocks) - decay * further
        better = remains.norm(dim=1) < left.norm(dim=1) / 2
        step = torch.where(better[:, None], further, step)
        left = torch.where(better[:, None], remains, left)
        if not bool((better & (left.norm(dim=1) > _ENOUGH * size)).any()):
            break
    return None if bool((left.norm(dim=1) > _ROUGH * size).any()) else step


def _inverse(influence: InfluenceFunctions, roots: Tensor, blocks: Tensor) -> Tensor | None:
    """Return (I - H⁻¹ W'W)⁻¹ of every block, (k, p, p); None if one does not exist."""
    p = roots.shape[2]
    rows = [roots[block].reshape(-1, p) for block in blocks]
    taken = torch.cat([W.T @ W for W in rows], dim=1) / influence.objective_.n
    solved = influence.solve(taken.to(influence.objective_.space.dtype)).x.to(roots)
    rest = torch.eye(p).to(roots) - solved.reshape(p, len(blocks), p).transpose(0, 1)
    inverse, info = torch.linalg.inv_ex(rest)
    sound = not bool(info.any()) and bool((inverse.abs().amax((1, 2)) < _SINGULAR).all())
    return inverse if sound else None
