"""What happens along a stream: coverage over time, evidence against exchangeability."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trustml.plotting._style import BLUE, MUTED, RED, TEAL, axes, label, legend, vector

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def coverage_over_time(
    covered: Any, *, target: float | None = None, window: int = 100, ax: Axes | None = None
) -> Axes:
    """Draw the coverage along a stream, of the latest steps and of all so far.

    Parameters
    ----------
    covered : bool array of shape (t,)
        Whether each step's set or interval held the truth, in order of time.
    target : float in (0, 1), or None
        Coverage asked for: ``1 - alpha``.
    window : int
        Latest steps in the running mean; a shorter stream shows all of them.
    ax : Axes or None
        Where to draw; None makes a figure.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If ``covered`` is empty or not 1-d, or ``window`` is not positive.

    Examples
    --------
    >>> ax = coverage_over_time([True, True, False, True], target=0.9, window=2)
    >>> [float(y) for y in ax.lines[0].get_ydata()]
    [1.0, 0.5, 0.5]
    """
    hits = vector(covered, "covered")
    if window < 1:
        raise ValueError(f"window must be at least 1, got {window}")
    width = min(int(window), len(hits))
    sums = np.concatenate([[0.0], np.cumsum(hits)])
    steps = np.arange(1, len(hits) + 1)
    ax = axes(ax)
    latest = (sums[width:] - sums[:-width]) / width
    ax.plot(steps[width - 1 :], latest, color=BLUE, linewidth=1.5, label=f"latest {width}")
    ax.plot(steps, sums[1:] / steps, color=MUTED, linewidth=1.2, label="all so far")
    if target is not None:
        ax.axhline(target, color=TEAL, linewidth=1.4, linestyle=(0, (4, 3)), label="asked for")
    ax.set_ylim(top=1.02)
    label(ax, "step", "coverage")
    legend(ax, loc="best")
    return ax


def martingale_path(
    log_wealth: Any, *, alpha: float | None = None, alarm: int | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the wealth of a test martingale, in powers of ten.

    Parameters
    ----------
    log_wealth : array of shape (t,)
        Natural logarithm of the wealth after each step.
    alpha : float in (0, 1), or None
        Chance of a false alarm that is allowed; the line at ``1 / alpha``.
    alarm : int or None
        Step (from 0) of the alarm.
    ax : Axes or None
        Where to draw; None makes a figure.

    Returns
    -------
    Axes

    Examples
    --------
    >>> ax = martingale_path([0.1, 2.0, 5.0], alpha=0.01, alarm=2)
    >>> ax.get_ylabel()
    'evidence: log10 of the wealth'
    """
    path = vector(log_wealth, "log_wealth") / np.log(10)
    finite = np.where(np.isfinite(path), path, np.nan)
    ax = axes(ax)
    ax.plot(np.arange(len(path)), finite, color=BLUE, linewidth=1.5, label="wealth")
    ax.axhline(0, color=MUTED, linewidth=1.0)
    if alpha is not None:
        ax.axhline(
            -np.log10(alpha), color=TEAL, linewidth=1.4, linestyle=(0, (4, 3)),
            label=f"wealth {1 / alpha:g}",
        )  # fmt: skip
    if alarm is not None:
        ax.axvline(alarm, color=RED, linewidth=1.2, label=f"alarm at step {alarm}")
    label(ax, "step", "evidence: log10 of the wealth")
    legend(ax, loc="best")
    return ax
