"""Robust accuracy against the size of the perturbation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trustml.plotting._style import BLUE, MUTED, TEAL, axes, label, legend, same_length, vector

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def robustness_curve(
    eps: Any,
    accuracy: Any,
    low: Any = None,
    high: Any = None,
    *,
    at: float | None = None,
    required: float | None = None,
    unit: str = "input units",
    ax: Axes | None = None,
) -> Axes:
    """Draw the accuracy that is left under attack, against the perturbation budget.

    Parameters
    ----------
    eps : array of shape (m,)
        Budgets, increasing.
    accuracy : array of shape (m,)
        Robust accuracy at each budget, in [0, 1].
    low, high : array of shape (m,) or None
        Its interval.
    at, required : float or None
        The budget and the accuracy that were asked for: two lines.
    unit : str
        Unit of `eps`.
    ax : Axes or None
        Where to draw; None makes a figure.

    Returns
    -------
    Axes

    Examples
    --------
    >>> ax = robustness_curve([0.0, 0.1], [0.95, 0.6], required=0.5)
    >>> ax.get_ylabel()
    'robust accuracy'
    """
    x, y = vector(eps, "eps"), vector(accuracy, "accuracy")
    same_length(eps=x, accuracy=y)
    ax = axes(ax, 5.6, 3.3)
    if low is not None and high is not None:
        lo, hi = vector(low, "low"), vector(high, "high")
        same_length(eps=x, low=lo, high=hi)
        ax.fill_between(x, lo, hi, color=BLUE, alpha=0.2, linewidth=0)
    ax.plot(x, y, color=BLUE, marker="o", markersize=4.5, linewidth=1.6, label="under attack")
    if required is not None:
        ax.axhline(required, color=TEAL, linewidth=1.3, linestyle=(0, (4, 3)), label="required")
    if at is not None:
        ax.axvline(at, color=MUTED, linewidth=1.2, linestyle=(0, (1, 2)), label="budget judged")
    ax.set_ylim(-0.02, 1.04)
    ax.set_xlim(left=min(0.0, float(np.min(x))))
    label(ax, f"perturbation budget eps ({unit})", "robust accuracy")
    legend(ax, loc="best")
    return ax
