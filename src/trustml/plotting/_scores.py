"""Histograms of scores, in and out of distribution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trustml.plotting._style import CYCLE, INK, axes, label, legend, plain, vector

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SLIVER = 15  # times the spread of the first set: beyond it, an even axis hides that set


def score_histogram(
    scores: Mapping[str, Any],
    *,
    threshold: float | None = None,
    threshold_name: str = "alarm above",
    x: str = "score (higher = further out of distribution)",
    bins: int = 40,
    ax: Axes | None = None,
) -> Axes:
    """Draw the distribution of a score in several sets of rows.

    Parameters
    ----------
    scores : mapping of str to array of shape (n_k,)
        Scores of each set; the first is filled, the others are outlines. A heavy tail beyond
        the 0.5 and 99.5 % quantiles is gathered in the outermost bins, and where the others lie
        far from the first, the axis is logarithmic beyond it.
    threshold : float or None
        A vertical line.
    threshold_name, x : str
        Label of that line and of the axis.
    bins : int
        Number of bins.
    ax : Axes or None
        Where to draw; None makes a figure.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If there is no set, or one is empty.

    Examples
    --------
    >>> ax = score_histogram({"test": [0.0, 1.0, 2.0], "noise": [4.0, 5.0]}, threshold=3.0)
    >>> len(ax.lines)
    1
    """
    if not scores:
        raise ValueError("scores must hold at least one set of rows, got an empty mapping")
    sets = {name: vector(values, f"scores[{name!r}]") for name, values in scores.items()}
    every = np.concatenate(list(sets.values()))
    finite = every[np.isfinite(every)]
    if finite.size == 0:
        raise ValueError("scores are all infinite or NaN: there is nothing to draw")
    low, high = np.quantile(finite, [0.005, 0.995])
    if threshold is not None and np.isfinite(threshold):
        low, high = min(low, threshold), max(high, threshold)
    if low == high:
        low, high = low - 0.5, high + 0.5
    ax = axes(ax, 5.6, 3.3)
    edges = _edges(ax, next(iter(sets.values())), low, high, bins)
    for k, (name, values) in enumerate(sets.items()):
        clipped = np.clip(values, low, high)
        share = np.full(len(clipped), 1 / len(clipped))
        style: dict[str, Any] = {"color": CYCLE[k % len(CYCLE)], "label": plain(name)}
        if k == 0:
            ax.hist(clipped, edges, weights=share, alpha=0.55, **style)
        else:
            ax.hist(clipped, edges, weights=share, histtype="step", linewidth=1.6, **style)
    if threshold is not None and np.isfinite(threshold):
        ax.axvline(threshold, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), label=threshold_name)
    label(ax, x, "share of rows")
    legend(ax, loc="best")
    return ax


def _edges(ax: Axes, first: NDArray[np.float64], low: float, high: float, bins: int) -> list[float]:
    """Return bin edges, even on the axis; bend the axis where the first set would be a sliver."""
    lower, upper = np.quantile(first[np.isfinite(first)], [0.05, 0.95])
    width = max(abs(float(upper)), abs(float(lower)), float(upper - lower))
    if high - low <= _SLIVER * (upper - lower) or width == 0 or upper == lower:
        return [float(edge) for edge in np.linspace(low, high, bins + 1)]
    ax.set_xscale("asinh", linear_width=width)
    powers = 10.0 ** np.arange(np.ceil(np.log10(width)), np.ceil(np.log10(max(-low, high))) + 1)
    ticks = [t for t in (*-powers[::-1], 0.0, *powers) if low <= t <= high]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.set_xticks([], minor=True)
    even = np.linspace(np.arcsinh(low / width), np.arcsinh(high / width), bins + 1)
    edges = width * np.sinh(even)
    edges[[0, -1]] = low, high  # rounding must not push the outermost rows out
    return [float(edge) for edge in edges]
