"""Weights of a fusion's members, from held-out rows and synthetic shifts of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

_FAR = 50.0  # nats: beyond, a row is told from the others whatever its weight
_RIDGE = 1e-3  # towards equal weights, which decides where the shifts do not
_MOST_INSIDE = 1000


def tuned_weights(inside: Tensor, shifted: Sequence[Tensor]) -> Tensor:
    """Return weights (k,) of at least 0 and mean 1 that tell shifted rows from held-out ones.

    They minimise the mean over shifts of the logistic loss of the weighted sum of surprises, each
    shift with an intercept of its own: a convex problem.

    Parameters
    ----------
    inside : Tensor of shape (m, k)
        Surprises of held-out rows.
    shifted : sequence of Tensor of shape (b, k)
        Surprises of the rows of each shift.

    Returns
    -------
    Tensor of shape (k,)
    """
    step = -(-len(inside) // _MOST_INSIDE)
    a = _clipped(inside[::step])
    groups = [_clipped(part) for part in shifted]
    k, s = a.shape[1], len(groups)

    def loss(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        w, levels = x[:k], x[k:]
        off = w - w.mean()
        total, slope = _RIDGE * (off @ off), np.zeros(k + s)
        slope[:k] = 2 * _RIDGE * off
        at = a @ w
        for j, (b, level) in enumerate(zip(groups, levels, strict=True)):
            low, high = at - level, level - b @ w  # both small where the two are apart
            total += (np.logaddexp(0, low).mean() + np.logaddexp(0, high).mean()) / s
            below, above = expit(low) / len(a), expit(high) / len(b)
            slope[:k] += (below @ a - above @ b) / s
            slope[k + j] = (above.sum() - below.sum()) / s
        return float(total), slope

    start = np.concatenate([np.full(k, 1 / k), np.full(s, a.mean())])
    bounds = [(0, None)] * k + [(None, None)] * s
    exact = {"ftol": 1e-14, "gtol": 1e-8, "maxiter": 1000, "maxfun": 5000}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=exact)
    w = torch.as_tensor(found.x[:k]).to(inside)
    total = w.sum()
    # Shifts that nothing tells apart say nothing.
    return w * (k / total) if float(total) > 0 else torch.ones_like(w)


def _clipped(surprises: Tensor) -> NDArray[np.float64]:
    return np.asarray(surprises.clamp_max(_FAR).cpu().numpy())
