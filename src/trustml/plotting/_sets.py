"""Prediction sets by their size, prediction intervals row by row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from trustml.core.validation import to_numpy
from trustml.plotting._style import BLUE, CYCLE, MUTED, RED, axes, label, legend, plain, vector

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def set_sizes(sets: Mapping[str, Any], *, ax: Axes | None = None) -> Axes:
    """Draw how many labels the prediction sets hold.

    Parameters
    ----------
    sets : mapping of str to bool array of shape (n_k, c)
        Sets of each predictor, level or group of rows, from ``predict_set``.
    ax : Axes or None
        Where to draw; None makes a figure.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If there are none, or these are no sets.

    Examples
    --------
    >>> import numpy as np
    >>> ax = set_sizes({"lac": np.array([[True, False], [True, True], [True, False]])})
    >>> [round(float(bar.get_height()), 2) for bar in ax.patches]
    [0.67, 0.33]
    """
    shares = {name: _shares(name, to_numpy(given)) for name, given in sets.items()}
    if not shares:
        raise ValueError("sets must hold at least one predictor's sets, got an empty mapping")
    present = sum(np.pad(s, (0, max(map(len, shares.values())) - len(s))) for s in shares.values())
    sizes = np.arange(np.flatnonzero(present)[0], np.flatnonzero(present)[-1] + 1)
    ax = axes(ax, 5.6, 3.3)
    width = 0.8 / len(shares)
    for k, (name, share) in enumerate(shares.items()):
        heights = np.pad(share, (0, max(0, sizes[-1] + 1 - len(share))))[sizes]
        left = sizes - 0.4 + (k + 0.5) * width
        ax.bar(left, heights, width * 0.92, color=CYCLE[k % len(CYCLE)], label=plain(name))
    ax.set_xticks(sizes[:: -(-len(sizes) // 15)])
    label(ax, "labels in the set", "share of rows")
    legend(ax, loc="best")
    return ax


def prediction_intervals(
    x: Any, intervals: Any, y: Any = None, *, x_name: str = "x", ax: Axes | None = None
) -> Axes:
    """Draw each row's interval over a variable, and which true values it missed.

    Parameters
    ----------
    x : array of shape (n,)
        Where each row stands: an input, the prediction, the time.
    intervals : array of shape (n, 2)
        Low and high ends, from ``predict_interval``; an infinite end reaches the frame.
    y : array of shape (n,) or None
        True values.
    x_name : str
        Axis label.
    ax : Axes or None
        Where to draw; None makes a figure.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the shapes disagree, or an end is NaN.

    Examples
    --------
    >>> ax = prediction_intervals([0.0, 1.0], [[-1.0, 1.0], [0.0, 2.0]], [0.5, 3.0])
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['interval', 'covered', 'missed']
    """
    at, ends = vector(x, "x"), np.asarray(to_numpy(intervals), dtype=np.float64)
    truth = None if y is None else vector(to_numpy(y), "y")
    if ends.shape != (len(at), 2) or np.isnan(ends).any():
        raise ValueError(f"intervals must be ({len(at)}, 2) without NaN, got shape {ends.shape}")
    if truth is not None and len(truth) != len(at):
        raise ValueError(f"y must have one value a row, {len(at)}, got {len(truth)}")
    seen = np.concatenate([ends.ravel(), [] if truth is None else truth])
    seen = seen[np.isfinite(seen)]
    bottom, top = (seen.min(), seen.max()) if len(seen) else (-1.0, 1.0)
    margin = 0.05 * (top - bottom) or 1.0
    ax = axes(ax, 5.6, 3.6)
    ax.set_ylim(bottom - margin, top + margin)
    low, high = np.clip(ends, bottom - margin, top + margin).T
    kept = ends[:, 0] <= ends[:, 1]  # an interval may be empty
    ax.vlines(at[kept], low[kept], high[kept], color=MUTED, alpha=0.55, label="interval")
    if truth is not None:
        hit = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
        for name, rows, colour in (("covered", hit, BLUE), ("missed", ~hit, RED)):
            ax.scatter(at[rows], truth[rows], s=13, color=colour, zorder=3, label=name)
    label(ax, x_name, "y")
    legend(ax, loc="best")
    return ax


def _shares(name: str, sets: np.ndarray) -> np.ndarray:
    if sets.dtype != bool or sets.ndim != 2 or len(sets) == 0:
        raise ValueError(
            f"sets[{name!r}] must be bool (n, c) at one alpha, got {sets.dtype} of shape "
            f"{sets.shape}"
        )
    found: np.ndarray = np.bincount(sets.sum(axis=1), minlength=1) / len(sets)
    return found
