"""From raw outputs to logits, probabilities and values."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trustml.model.converted import Outputs, Task


def _columns(outputs: Tensor) -> Tensor:
    return outputs[:, None] if outputs.ndim == 1 else outputs


def as_logits(outputs: Tensor, task: Task, kind: Outputs) -> Tensor:
    """Return logits (n, c); one output f is [0, f], probabilities are their logarithms."""
    if kind == "probabilities":
        p = as_probabilities(outputs, task, kind)
        tiny = torch.finfo(p.dtype).tiny
        log_p = p.clamp_min(tiny).log()
        return log_p if task != "multilabel" else log_p - (1 - p).clamp_min(tiny).log()
    if task == "classification":
        f = _columns(outputs)
        return torch.cat([torch.zeros_like(f), f], dim=1) if f.shape[1] == 1 else f
    return _columns(outputs) if task == "multilabel" else outputs


def as_probabilities(outputs: Tensor, task: Task, kind: Outputs) -> Tensor:
    """Return probabilities: softmax over classes, sigmoid of each label."""
    if kind == "probabilities":
        p = _columns(outputs)
        binary = task == "classification" and p.shape[1] == 1
        return torch.cat([1 - p, p], dim=1) if binary else p
    logits = as_logits(outputs, task, kind)
    return logits.sigmoid() if task == "multilabel" else logits.softmax(-1)


def as_values(outputs: Tensor, inverse_link: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Return predicted means: (n,) for one output, (n, m) for several."""
    means = outputs if inverse_link is None else inverse_link(outputs)
    return means.squeeze(1) if means.ndim == 2 and means.shape[1] == 1 else means


def looks_like_probabilities(outputs: Tensor) -> bool:
    """Say whether every row is non-negative and sums to one (two columns at least)."""
    if outputs.ndim != 2 or outputs.shape[1] < 2 or bool((outputs < 0).any()):
        return False
    sums = outputs.double().sum(1)
    return torch.allclose(sums, torch.ones_like(sums), atol=1e-4)


def check_probabilities(outputs: Tensor, one_row_sum: bool) -> None:
    """Refuse what cannot be probabilities.

    Parameters
    ----------
    outputs : Tensor of shape (n, c) or (n,)
        Supposed probabilities.
    one_row_sum : bool
        Whether rows of several columns must sum to one.

    Raises
    ------
    ValueError
        If a value is outside [0, 1], or a row does not sum to one.
    """
    low, high = map(float, outputs.aminmax())
    if low < -1e-6 or high > 1 + 1e-6:
        raise ValueError(
            f"probabilities must lie in [0, 1], got values from {low:.3g} to {high:.3g}; "
            "raw scores are logits"
        )
    if one_row_sum and outputs.ndim == 2 and outputs.shape[1] > 1:
        sums = outputs.double().sum(1)
        worst = float(sums[(sums - 1).abs().argmax()])
        if abs(worst - 1) > 1e-3:
            raise ValueError(
                f"probabilities of a row must sum to one, got a row of sum {worst:.4g}"
            )
