"""Histograms of scores, in and out of distribution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from trustml.plotting._style import CYCLE, INK, axes, label, legend, plain, vector

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
        the 0.5 and 99.5 % quantiles is gathered in the outermost bins.
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
    edges = np.linspace(low, high, bins + 1).tolist()
    ax = axes(ax, 5.6, 3.3)
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
