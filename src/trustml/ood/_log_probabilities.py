"""Logarithms of class probabilities and of their complements, without rounding to zero."""

from __future__ import annotations

import torch
from torch import Tensor

from trustml.model import Observation
from trustml.ood._seen import as_double


def log_probabilities(observation: Observation) -> Tensor:
    """Return float64 log probabilities (n, c)."""
    return as_double(observation.logits).log_softmax(dim=1)


def log_complements(log_p: Tensor) -> Tensor:
    """Return log(1 - p) of log probabilities (n, c), finite where p rounds to 1."""
    # 1 - p of the likeliest class is the sum of the others; no other class has more than 1/2.
    top = log_p.argmax(dim=1, keepdim=True)
    others = log_p.scatter(1, top, -torch.inf).logsumexp(dim=1, keepdim=True)
    return torch.log1p(-log_p.exp().clamp_max(0.5)).scatter(1, top, others)
