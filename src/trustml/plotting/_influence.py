"""What influence scores are worth: removal curves, and wrong labels found by inspection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trustml.plotting._style import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    TEAL,
    axes,
    label,
    legend,
    plain,
    vector,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DASHES = (0, (4, 3))


def removal_curves(
    names: Sequence[str],
    removed: Any,
    values: Any,
    low: Any,
    high: Any,
    *,
    x: str = "share of the training rows left out",
    y: str = "mean test loss",
    ax: Axes | None = None,
) -> Axes:
    """Draw a measurement against how many training rows are left out, one line an order.

    Parameters
    ----------
    names : sequence of str
        Of the orders; one called "random" is grey.
    removed : array of shape (f,)
        Rows, or their share.
    values, low, high : array of shape (orders, f)
        The measurement and its interval.
    x, y : str
        Axis labels.
    ax : Axes or None
        Where to draw; None makes a figure.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If shapes disagree.

    Examples
    --------
    >>> ends = [[0, 1], [0, 1]], [[2, 3], [2, 3]]
    >>> ax = removal_curves(["helpful", "random"], [0, 0.1], [[1, 2], [1, 1]], *ends)
    >>> len(ax.lines)
    2
    """
    at = vector(removed, "removed")
    shape = (len(names), len(at))
    arrays = [np.asarray(a, dtype=np.float64) for a in (values, low, high)]
    if any(a.shape != shape for a in arrays):
        raise ValueError(
            f"values, low and high must have shape {shape}, got {[a.shape for a in arrays]}"
        )
    ax = axes(ax)
    colours = iter((BLUE, ORANGE, TEAL) * len(names))
    for name, mean, lo, hi in zip(names, *arrays, strict=True):
        plain_order = name == "random"
        colour = MUTED if plain_order else next(colours)
        ax.fill_between(at, lo, hi, color=colour, alpha=0.14, linewidth=0)
        style: dict[str, Any] = {"linestyle": _DASHES} if plain_order else {"marker": "o"}
        ax.plot(at, mean, color=colour, markersize=4, linewidth=1.6, label=plain(name), **style)
    label(ax, x, y)
    legend(ax, loc="best")
    return ax


def inspection_curve(found: Any, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw precision and recall of wrong labels against the share of rows inspected.

    Parameters
    ----------
    found : array of shape (n,)
        Wrong labels among the k most suspicious rows, k = 1 .. n.
    title : str
        Above the figure.
    ax : Axes or None
        Where to draw; None makes a figure.

    Returns
    -------
    Axes

    Examples
    --------
    >>> ax = inspection_curve([1, 2, 2, 2])
    >>> ax.get_xlabel()
    'share of the rows inspected'
    """
    counts = vector(found, "found")
    n, wrong = len(counts), counts[-1]
    inspected = np.arange(1, n + 1)
    ax = axes(ax)
    best = np.minimum(inspected, wrong) / max(wrong, 1)
    ax.plot(inspected / n, best, color=MUTED, linestyle=_DASHES, linewidth=1.1, label="best recall")
    ax.plot([0, 1], [0, 1], color=INK, linestyle=(0, (1, 2)), linewidth=1.1, label="chance")
    ax.plot(inspected / n, counts / max(wrong, 1), color=BLUE, linewidth=1.7, label="recall")
    ax.plot(inspected / n, counts / inspected, color=ORANGE, linewidth=1.7, label="precision")
    ax.set_xlim(0, 1)
    ax.set_ylim(-0.02, 1.04)
    label(ax, "share of the rows inspected", "share", title)
    legend(ax, loc="best")
    return ax


def correlations(
    per_query: Any,
    low: float,
    high: float,
    *,
    ceiling: float | None = None,
    bins: int = 40,
    ax: Axes | None = None,
) -> Axes:
    """Draw the datamodeling correlations of the queries, with the interval of their mean.

    Parameters
    ----------
    per_query : array of shape (q,)
        Rank correlations in [-1, 1].
    low, high : float
        Interval of the mean.
    ceiling : float or None
        What the luck of the training leaves to reach.
    bins : int
        Number of bins.
    ax : Axes or None
        Where to draw; None makes a figure.

    Returns
    -------
    Axes

    Examples
    --------
    >>> ax = correlations([0.4, 0.6, 0.7], 0.45, 0.65, ceiling=0.9)
    >>> ax.get_ylabel()
    'queries'
    """
    values = vector(per_query, "per_query")
    ax = axes(ax, 5.6, 3.3)
    edges = np.linspace(min(0.0, float(values.min())), 1.0, bins + 1)
    ax.hist(values, [float(edge) for edge in edges], color=BLUE, alpha=0.55)
    ax.axvspan(low, high, color=ORANGE, alpha=0.25, linewidth=0, label="interval of the mean")
    ax.axvline(float(values.mean()), color=INK, linewidth=1.2, linestyle=_DASHES, label="mean")
    if ceiling is not None:
        ax.axvline(ceiling, color=TEAL, linewidth=1.2, label="noise ceiling")
    label(ax, "rank correlation of predicted and actual", "queries")
    legend(ax, loc="best")
    return ax
