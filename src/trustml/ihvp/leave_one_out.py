"""Leave-one-out losses in closed form, for many dampings at once."""

from __future__ import annotations

import torch
from torch import Tensor

from trustml.core.batches import Batch, map_batches
from trustml.ihvp.objective import Objective

_ROWS = 256


def leave_one_out_losses(
    objective: Objective, values: Tensor, vectors: Tensor, dampings: list[float]
) -> Tensor:
    """Approximate each row's loss had it been left out, by one Newton step without it.

    With B_i = J_i (A+λ)⁻¹ J_i' / n, gradient u_i and Hessian Λ_i of the loss at the outputs, the
    outputs without row i are f_i + (I − B_i Λ_i)⁻¹ B_i u_i.

    Parameters
    ----------
    objective : Objective
        In float64.
    values, vectors : Tensor of shape (p,) and (p, p)
        Eigenpairs of the undamped curvature.
    dampings : list of float
        Candidates; each must make the matrix positive on its range.

    Returns
    -------
    Tensor of shape (len(dampings), m)
        For m ≤ 256 rows spread over the data; inf where the row alone decides its outputs.

    References
    ----------
    Rad and Maleki (2020), A scalable estimate of the out-of-sample prediction error via
    approximate leave-one-out, arXiv:1801.10243.
    """
    n = len(objective.data)
    rows = torch.unique(torch.linspace(0, n - 1, min(n, _ROWS)).round().long())
    null = values.abs() <= 1e-10 * values.abs().mean()

    def part(batch: Batch) -> Tensor:
        def identity(outputs: Tensor) -> Tensor:
            c = outputs[0].numel()
            return torch.eye(c, dtype=outputs.dtype, device=outputs.device).expand(
                len(outputs), c, c
            )

        outputs, jacobian = objective.gradients.rows(batch.inputs, identity)
        targets = objective.targets(batch)
        projected = jacobian.double() @ vectors
        u = objective.loss.gradient(outputs, targets).reshape(len(outputs), -1, 1).double()
        factor = objective.loss.hessian_factor(outputs, targets).double()
        losses = []
        for damping in dampings:
            inverse = torch.where(null & (damping == 0), 0.0, 1 / (values + damping))
            b = (projected * inverse) @ projected.mT / objective.n
            system = torch.eye(b.shape[1], dtype=b.dtype, device=b.device) - b @ factor @ factor.mT
            shift, _ = torch.linalg.solve_ex(system, b @ u)
            moved = outputs.double() + shift.reshape(outputs.shape)
            loss = objective.loss(torch.nan_to_num(moved), targets)
            losses.append(
                torch.where(torch.isfinite(moved.reshape(len(u), -1)).all(1), loss, torch.inf)
            )
        return torch.stack(losses)

    data = objective.data.subset(rows)
    size = max(1, 2**24 // (objective.space.size * 8))
    return torch.cat(list(map_batches(part, data, size)), dim=1)
