"""Damping without out-of-distribution data: the likelihood of held-out in-distribution rows."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

_EVERY = 5  # one row of so many is held out
_RELATIVE = 1e-3  # of the mean eigenvalue, where there are too few rows to hold any out
_RANGE = (1e-10, 10.0)  # of the mean eigenvalue: where the choice is looked for
_PER_DECADE, _REFINEMENTS = 4, 40
_MOST = 2**17  # directions that decide; of more, every so many
_NULL = 1e-12  # of the largest eigenvalue
_GOLDEN = (math.sqrt(5) - 1) / 2


def holdout(key: Tensor) -> Tensor:
    """Return which rows are held out, by the rank of a key (n,) and so whatever their order."""
    held = torch.zeros(len(key), dtype=torch.bool)
    held[key.argsort(stable=True).cpu()[_EVERY // 2 :: _EVERY]] = True
    return held if len(key) >= _EVERY else torch.zeros_like(held)


def heldout_damping(
    values: Tensor, held: Tensor, decay: Tensor | float = 0.0, rest: tuple[float, int] = (0.0, 0)
) -> float:
    r"""Return the damping under which held-out gradients are likeliest.

    Gradients of in-distribution rows are taken as draws from a Gaussian of covariance
    :math:`G + \lambda I`, with G learnt from other rows. In G's eigenbasis minus twice the
    log-likelihood is

    .. math:: \sum_k \frac{h_k}{g_k + \lambda} + \log(g_k + \lambda)

    up to a constant. Directions that rows never use are left to the damping, at the value that
    suits the others.

    Parameters
    ----------
    values : Tensor of shape (k,)
        Eigenvalues g of the Gauss-Newton matrix of some rows.
    held : Tensor of shape (k,)
        Second moments h of the held-out rows' gradients in its eigenbasis.
    decay : Tensor of shape (k,) or float
        Weight decay in these directions, part of the covariance.
    rest : (float, int)
        Sum of the held-out second moments in the directions without an eigenvalue, and how many
        such directions there are.

    Returns
    -------
    float
        Positive, within 1e-10 and 10 of the mean eigenvalue.

    References
    ----------
    Friedman (1989), Regularized discriminant analysis: shrinkage by cross-validation.
    """
    step = -(-len(values) // _MOST)
    decays = torch.as_tensor(decay, dtype=values.dtype, device=values.device).expand_as(values)
    g, h, d = values[::step].clamp_min(0), held[::step].clamp_min(0), decays[::step]
    used = (g > _NULL * g.max()) | (h > _NULL * g.max())
    g, h, d = g[used], h[used], d[used]
    if not float(g.sum()) > 0:
        return 1.0
    mean = float(g.mean())

    def loss(log_damping: float) -> float:
        prior = math.exp(log_damping)
        total = float((h / (g + d + prior) + (g + d + prior).log()).sum())
        return total + rest[0] / prior + rest[1] * log_damping

    low, high = (math.log(factor * mean) for factor in _RANGE)
    count = round((high - low) / math.log(10) * _PER_DECADE)
    width = (high - low) / count
    best = min((low + j * width for j in range(count + 1)), key=loss)
    return math.exp(_minimum(loss, best - width, best + width))


def relative_damping(values: Tensor) -> float:
    """Return 1e-3 of the mean eigenvalue; 1 where all are zero."""
    mean = float(values.clamp_min(0).mean())
    return _RELATIVE * mean if mean > 0 else 1.0


def checked_damping(damping: float | str) -> float | None:
    """Return the damping as a number, None for "auto"; a ValueError says what else is wrong."""
    if damping == "auto":
        return None
    if isinstance(damping, (int, float)) and 0 <= damping < math.inf:
        return float(damping)
    raise ValueError(f"damping must be 'auto' or a number of at least 0, got {damping!r}")


def _minimum(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where a function is least between two points, by golden sections."""
    for _ in range(_REFINEMENTS):
        one, two = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if function(one) <= function(two):
            high = two
        else:
            low = one
    return (low + high) / 2
