"""Estimates with intervals, one line each: coverage by group, metrics by group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trustml.plotting._style import (
    BLUE,
    CYCLE,
    INK,
    MUTED,
    TEAL,
    axes,
    error_bars,
    label,
    legend,
    plain,
    same_length,
    vector,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_SHOWN_ENDS = 4  # groups at each end of a metric, where there are many


def coverage_by_group(
    groups: Sequence[str],
    coverage: Any,
    low: Any,
    high: Any,
    *,
    target: float | None = None,
    band: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the coverage of prediction sets in each group, with its interval.

    Parameters
    ----------
    groups : sequence of str, length n_groups
        Names, from top to bottom.
    coverage, low, high : array of shape (n_groups,)
        Fraction of rows whose set holds the label, and its interval.
    target : float in (0, 1), or None
        Coverage asked for: ``1 - alpha``.
    band : (float, float) or None
        Range in which a valid procedure's overall coverage falls.
    ax : Axes or None
        Where to draw; None makes a figure.

    Returns
    -------
    Axes

    Examples
    --------
    >>> ax = coverage_by_group(["all", "f"], [0.9, 0.88], [0.86, 0.8], [0.93, 0.94], target=0.9)
    >>> ax.get_xlabel()
    'coverage'
    """
    ax = intervals(groups, coverage, low, high, x="coverage", ax=ax)
    if band is not None:
        ax.axvspan(*band, color=TEAL, alpha=0.16, linewidth=0, label="valid overall")
    if target is not None:
        ax.axvline(target, color=TEAL, linewidth=1.4, linestyle=(0, (4, 3)), label="asked for")
    if band is not None or target is not None:
        legend(ax, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return ax


def group_metrics(
    metrics: Sequence[str],
    groups: Sequence[str],
    values: Any,
    low: Any = None,
    high: Any = None,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw each metric in each group, with intervals where they are given.

    Of more than seven groups each metric shows the four lowest and the four highest.

    Parameters
    ----------
    metrics : sequence of str, length n_metrics
        Names of the metrics, from top to bottom.
    groups : sequence of str, length n_groups
        Names of the groups; each has a colour.
    values : array of shape (n_groups, n_metrics)
        Metric by group; NaN is left out.
    low, high : array of shape (n_groups, n_metrics) or None
        Intervals.
    ax : Axes or None
        Where to draw; None makes a figure.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the shapes disagree.

    Examples
    --------
    >>> ax = group_metrics(["selection rate"], ["f", "m"], [[0.4], [0.5]])
    >>> [text.get_text() for text in ax.get_yticklabels()]
    ['selection rate']
    """
    table = np.asarray(values, dtype=np.float64)
    lows = table if low is None else np.asarray(low, dtype=np.float64)
    highs = table if high is None else np.asarray(high, dtype=np.float64)
    if not table.shape == lows.shape == highs.shape == (len(groups), len(metrics)):
        raise ValueError(
            f"values, low, high must have shape ({len(groups)}, {len(metrics)}) = (groups, "
            f"metrics), got {table.shape}, {lows.shape}, {highs.shape}"
        )
    if len(groups) > len(CYCLE):
        return _ends_of_many(metrics, groups, table, lows, highs, ax)
    ax = axes(ax, 5.6, 0.9 + len(metrics) * (0.24 * len(groups) + 0.22))
    step = 0.8 / max(len(groups), 1)
    for g, group in enumerate(groups):
        y = np.arange(len(metrics)) - 0.4 + (g + 0.5) * step
        colour = CYCLE[g % len(CYCLE)]
        ax.errorbar(
            table[g],
            y,
            xerr=error_bars(table[g], lows[g], highs[g]),
            fmt="o",
            color=colour,
            markersize=5,
            elinewidth=1.6,
            capsize=2.5,
            label=plain(group),
        )
    ax.set_yticks(range(len(metrics)), [plain(m) for m in metrics], color=INK)
    ax.set_ylim(len(metrics) - 0.45, -0.55)
    ax.grid(visible=False, axis="y")
    legend(ax, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(4, len(groups)))
    return ax


def _ends_of_many(
    metrics: Sequence[str],
    groups: Sequence[str],
    values: NDArray[np.float64],
    lows: NDArray[np.float64],
    highs: NDArray[np.float64],
    ax: Axes | None,
) -> Axes:
    """Draw the groups at both ends of each metric: colours would repeat, and pages not end."""
    names, rows = [], []
    for m, metric in enumerate(metrics):
        order = np.argsort(values[:, m], kind="stable")
        order = order[np.isfinite(values[order, m])]
        between = len(order) - 2 * _SHOWN_ENDS
        for place, g in enumerate(order.tolist()):
            if between <= 1 or place < _SHOWN_ENDS or place >= len(order) - _SHOWN_ENDS:
                names.append(f"{metric}: {groups[g]}")
                rows.append((values[g, m], lows[g, m], highs[g, m]))
            elif place == _SHOWN_ENDS:
                names.append(f"{between} groups between")
                rows.append((np.nan,) * 3)
    if not rows:
        raise ValueError("values hold no number: no group has any of the metrics")
    return intervals(names, *np.array(rows).T, x="by group", ax=ax)


def intervals(
    names: Sequence[str],
    estimate: Any,
    low: Any,
    high: Any,
    *,
    x: str = "estimate",
    ax: Axes | None = None,
) -> Axes:
    """Draw estimates with their intervals, one line each.

    Parameters
    ----------
    names : sequence of str, length n
        Names, from top to bottom.
    estimate, low, high : array of shape (n,)
        The estimates and the ends of their intervals.
    x : str
        Axis label.
    ax : Axes or None
        Where to draw; None makes a figure.

    Returns
    -------
    Axes

    Examples
    --------
    >>> ax = intervals(["a", "b"], [0.5, 0.6], [0.4, 0.5], [0.6, 0.8], x="accuracy")
    >>> ax.get_xlabel()
    'accuracy'
    """
    at, lo, hi = vector(estimate, "estimate"), vector(low, "low"), vector(high, "high")
    n = same_length(names=names, estimate=at, low=lo, high=hi)
    ax = axes(ax, 5.6, 0.95 + 0.3 * n)
    y = np.arange(n)
    bars = error_bars(at, lo, hi)
    ax.errorbar(at, y, xerr=bars, fmt="o", color=BLUE, markersize=5.5, elinewidth=1.7, capsize=3)
    ax.set_yticks(y, [plain(name) for name in names], color=INK)
    ax.set_ylim(n - 0.5, -0.5)
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_color(MUTED)
    label(ax, x)
    return ax
