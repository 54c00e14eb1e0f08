"""The curvature of the loss at the outputs, rotated or averaged without a matrix a row."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from trustml.core.losses import CrossEntropy, OutputLoss

_NUMBERS = 2**22  # of the matrices that are in memory at once, where there is no closed form


def add_curvature(
    total: Tensor, loss: OutputLoss, outputs: Tensor, targets: Tensor, weights: Tensor
) -> None:
    """Add the weighted sum of the Hessians of the loss at outputs (n, ...) to a sum of them.

    Parameters
    ----------
    total : Tensor of shape (c, c)
        Changed in place.
    loss : OutputLoss
        Of outputs with c entries.
    outputs, targets : Tensor of shape (n, ...)
        Outputs in float64.
    weights : Tensor of shape (n,)
        At least 0.
    """
    if _is_softmax(loss, outputs):
        p = outputs.softmax(dim=1)
        total.addmm_(p.T, p * _masses(loss, outputs, targets) * weights[:, None], alpha=-1)
        # Its rows add up to zero: nothing cancels where one class has nearly all the mass.
        total.fill_diagonal_(0)
        total.diagonal().sub_(total.sum(dim=1))
        return
    for some, own, share in _blocks(outputs, targets, weights):
        factor = loss.hessian_factor(some, own)
        total += torch.einsum("n,nir,njr->ij", share, factor, factor)


def curvature_traces(loss: OutputLoss, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the traces (n,) of the Hessians of the loss at float64 outputs (n, ...)."""
    if _is_softmax(loss, outputs):
        p = outputs.softmax(dim=1)
        others = p.scatter(1, outputs.argmax(dim=1, keepdim=True), 0.0)
        mass = others.sum(dim=1)
        # 1 - Σ p² without its cancellation where the likeliest class has nearly all the mass.
        spread = mass * (2 - mass) - others.square().sum(dim=1)
        return spread * _masses(loss, outputs, targets)[:, 0]
    parts = [
        loss.hessian_factor(some, own).square().sum(dim=(1, 2))
        for some, own, _ in _blocks(outputs, targets, targets)
    ]
    return torch.cat(parts)


def rotated_curvature(loss: OutputLoss, outputs: Tensor, targets: Tensor, basis: Tensor) -> Tensor:
    """Return the diagonals (n, c) of Q'ΛQ, Λ the Hessian of the loss at the outputs.

    Parameters
    ----------
    loss : OutputLoss
        Of outputs with c entries.
    outputs, targets : Tensor of shape (n, ...)
        Outputs in float64.
    basis : Tensor of shape (c, c)
        Q.

    Returns
    -------
    Tensor of shape (n, c)
        At least 0.
    """
    if not _is_softmax(loss, outputs):
        parts = [
            torch.einsum("nir,ij->njr", loss.hessian_factor(some, own), basis).square().sum(dim=2)
            for some, own, _ in _blocks(outputs, targets, targets)
        ]
        return torch.cat(parts)
    # The variance of a column of Q under p, taken around its value at the likeliest class: what
    # is left is of the order of the other classes' mass, and nothing cancels.
    top = outputs.argmax(dim=1, keepdim=True)
    others = outputs.softmax(dim=1).scatter(1, top, 0.0)
    centre, mass = basis[top[:, 0]], others.sum(dim=1, keepdim=True)
    first, second = others @ basis, others @ basis.square()
    variance = second - 2 * centre * first + centre.square() * mass
    variance -= (first - centre * mass).square()
    return variance.clamp_min(0) * _masses(loss, outputs, targets)


def _is_softmax(loss: OutputLoss, outputs: Tensor) -> bool:
    return type(loss) is CrossEntropy and outputs.ndim == 2


def _masses(loss: OutputLoss, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return what multiplies each row's Hessian (class weights), (n, 1)."""
    # The Hessian at equal logits has known entries, whatever the targets' weights are.
    c = outputs.shape[1]
    axis = torch.zeros_like(outputs)
    axis[:, 0] = 1
    found = loss.hessian_product(torch.zeros_like(outputs), targets, axis)
    return found[:, :1] * (c * c / (c - 1))


def _blocks(
    outputs: Tensor, targets: Tensor, weights: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    rows = max(1, _NUMBERS // outputs[0].numel() ** 2)
    return zip(*(torch.split(part, rows) for part in (outputs, targets, weights)), strict=True)
