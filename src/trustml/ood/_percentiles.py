"""Shares and percentiles of activations."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from trustml.core.validation import to_numpy


def check_share(value: Any, name: str) -> float:
    """Return a number in (0, 1), or raise a ValueError that names it."""
    share = float(value)
    if not 0 < share < 1:
        raise ValueError(f"{name} must be a share in (0, 1), got {value!r}")
    return share


def percentile(values: Tensor, share: float) -> float:
    """Return the quantile of all numbers, linear between two of them as numpy's."""
    # torch.quantile refuses more than 16 million numbers.
    return float(np.quantile(to_numpy(values), share))


def n_kept(width: int, percentile: float) -> int:
    """Return how many of ``width`` numbers are left when that share is dropped; at least one."""
    return max(1, width - round(width * percentile))
