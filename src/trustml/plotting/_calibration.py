"""Reliability diagram."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trustml.plotting._style import (
    BLUE,
    MUTED,
    axes,
    error_bars,
    label,
    legend,
    same_length,
    vector,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def reliability_diagram(
    confidence: Any,
    accuracy: Any,
    low: Any,
    high: Any,
    count: Any,
    *,
    predicted: str = "predicted probability",
    observed: str = "observed frequency",
    ax: Axes | None = None,
) -> Axes:
    """Draw how often predictions come true, against how sure the model was.

    Parameters
    ----------
    confidence, accuracy : array of shape (n_bins,)
        Mean predicted probability and observed frequency in each bin.
    low, high : array of shape (n_bins,)
        Interval of the frequency.
    count : array of shape (n_bins,)
        Rows in each bin; the areas of the points.
    predicted, observed : str
        Axis labels.
    ax : Axes or None
        Where to draw; None makes a figure.

    Returns
    -------
    Axes

    Examples
    --------
    >>> ax = reliability_diagram([0.2, 0.8], [0.3, 0.7], [0.1, 0.5], [0.5, 0.9], [40, 60])
    >>> ax.get_xlabel()
    'predicted probability'
    """
    x, y = vector(confidence, "confidence"), vector(accuracy, "accuracy")
    lo, hi, n = vector(low, "low"), vector(high, "high"), vector(count, "count")
    same_length(confidence=x, accuracy=y, low=lo, high=hi, count=n)
    ax = axes(ax, 4.6, 3.9)
    ax.plot([0, 1], [0, 1], color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2, label="calibrated")
    ax.errorbar(
        x, y, error_bars(y, lo, hi), color=BLUE, fmt="none", elinewidth=1.4, capsize=2.5, alpha=0.8
    )
    ax.plot(x, y, color=BLUE, linewidth=1.4)
    ax.scatter(x, y, s=18 + 110 * n / n.sum(), color=BLUE, zorder=3, label="model")
    edge = max(0.0, float(np.floor(10 * min(x.min(), lo.min())) / 10))
    ax.set_xlim(edge - 0.02, 1.02)
    ax.set_ylim(edge - 0.02, 1.02)
    label(ax, predicted, observed)
    legend(ax, loc="upper left")
    return ax
