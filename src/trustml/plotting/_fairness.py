"""Gaps between groups beside what is allowed, and what a smaller gap costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trustml.fairness import (
    FairnessVerdict,
    Frontier,
    GapPrediction,
    NoisyGroups,
    ProxyBounds,
    Reached,
)
from trustml.plotting._dispatch import plot
from trustml.plotting._intervals import intervals
from trustml.plotting._style import (
    BLUE,
    INK,
    MUTED,
    RED,
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


def frontier(
    names: Sequence[str],
    gap: Any,
    accuracy: Any,
    *,
    gap_ends: Any = None,
    accuracy_ends: Any = None,
    best: Any = None,
    x: str = "gap between groups",
    ax: Axes | None = None,
) -> Axes:
    """Draw what each method gains in fairness and pays in accuracy.

    Parameters
    ----------
    names : sequence of str, length n
        Written beside the points, together where these coincide.
    gap, accuracy : array of shape (n,)
        Points; NaN is left out.
    gap_ends, accuracy_ends : array of shape (n, 2) or None
        Intervals, drawn as error bars.
    best : bool array of shape (n,) or None
        Points that none other beats in both, joined by a line.
    x : str
        Axis label.
    ax : Axes or None
        Where to draw; None makes a figure.

    Returns
    -------
    Axes

    Examples
    --------
    >>> ax = frontier(["plain", "fair"], [0.2, 0.05], [0.8, 0.78], best=[True, True])
    >>> [text.get_text() for text in ax.texts]
    ['plain', 'fair']
    """
    across, up = vector(gap, "gap"), vector(accuracy, "accuracy")
    n = same_length(names=names, gap=across, accuracy=up)
    front = np.zeros(n, dtype=bool) if best is None else np.asarray(best, dtype=bool)
    bars = [
        None if ends is None else error_bars(at, *np.asarray(ends, dtype=np.float64).T)
        for at, ends in ((across, gap_ends), (up, accuracy_ends))
    ]
    ax = axes(ax, 5.6, 4.0)
    for kind, colour, text in ((front, BLUE, "on the frontier"), (~front, MUTED, "others")):
        if not kind.any():
            continue
        xerr, yerr = (None if bar is None else bar[:, kind] for bar in bars)
        ax.errorbar(
            across[kind],
            up[kind],
            xerr=xerr,
            yerr=yerr,
            fmt="o",
            color=colour,
            markersize=5.5,
            elinewidth=1.3,
            capsize=2.5,
            label=text,
        )
    order = np.argsort(across[front], kind="stable")
    ax.plot(across[front][order], up[front][order], color=BLUE, linewidth=1.1)
    shared: dict[tuple[float, float], list[str]] = {}
    for name, at, height in zip(names, across.tolist(), up.tolist(), strict=True):
        if np.isfinite(at) and np.isfinite(height):
            shared.setdefault((at, height), []).append(plain(name))
    for place, at_place in shared.items():
        text = ", ".join(at_place)
        ax.annotate(text, place, (5, 4), textcoords="offset points", size=8, color=INK)
    label(ax, x, "accuracy")
    legend(ax, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return ax


@plot.register(FairnessVerdict)
def _(result: FairnessVerdict, ax: Axes | None = None) -> Axes:
    columns, levels = result.gaps, result.criterion == "worst_group"
    names = [
        f"{metric.replace('_', ' ')}: {group if levels else f'{group} above {lower}'}"
        for metric, group, lower in zip(
            columns["metric"],
            columns["group" if levels else "higher"],
            columns["group" if levels else "lower"],
            strict=True,
        )
    ]
    ends = (np.where(np.isfinite(columns[end]), columns[end], np.nan) for end in ("low", "high"))
    x = f"{'error rate' if levels else 'gap'}: {result.verdict}"
    ax = intervals(names, columns["error" if levels else "gap"], *ends, x=x, ax=ax)
    ax.axvline(result.bound, color=RED, linewidth=1.4, linestyle=(0, (4, 3)), label="allowed")
    legend(ax, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return ax


@plot.register(Frontier)
def _(result: Frontier, ax: Axes | None = None) -> Axes:
    return frontier(
        result.names,
        result.gap.mean(1),
        result.accuracy.mean(1),
        gap_ends=result.ci("gap"),
        accuracy_ends=result.ci("accuracy"),
        best=result.pareto,
        x=f"{result.criterion.replace('_', ' ')}: "
        + ("error of the worst group" if result.criterion == "worst_group" else "gap"),
        ax=ax,
    )


@plot.register(GapPrediction)
def _(result: GapPrediction, ax: Axes | None = None) -> Axes:
    ax = axes(ax)
    stages = ("before", "predicted", "newton", "refitted")
    known = [i for i in range(len(stages)) if np.isfinite(result.gap[i])]
    ax.bar([stages[i] for i in known], result.gap[known], color=INK, alpha=0.6)
    label(ax, "", "gap between groups")
    return ax


@plot.register(Reached)
def _(result: Reached, ax: Axes | None = None) -> Axes:
    ax = axes(ax)
    ax.plot(np.arange(len(result.path)), result.path[:, 0], marker="o", color=INK)
    ax.axhspan(result.target, result.target + result.tolerance, color=INK, alpha=0.15)
    label(ax, "step", "gap between groups")
    return ax


@plot.register(ProxyBounds)
def _(result: ProxyBounds, ax: Axes | None = None) -> Axes:
    columns = result._columns()
    middle = (columns["at least"] + columns["at most"]) / 2
    return _differences(columns, middle, columns["at least"], columns["at most"], ax)


@plot.register(NoisyGroups)
def _(result: NoisyGroups, ax: Axes | None = None) -> Axes:
    columns = result._columns()
    return _differences(columns, columns["difference"], columns["low"], columns["high"], ax)


def _differences(columns: dict[str, Any], at: Any, low: Any, high: Any, ax: Axes | None) -> Axes:
    names = [
        f"{metric.replace('_', ' ')}: {group} minus {other}"
        for metric, group, other in zip(
            columns["metric"], columns["group"], columns["minus"], strict=True
        )
    ]
    ax = intervals(names, at, low, high, x="difference", ax=ax)
    ax.axvline(0, color=MUTED, linewidth=1.0)
    return ax
