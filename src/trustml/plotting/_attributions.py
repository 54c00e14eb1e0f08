"""Feature attributions: bars for tables, heat maps for pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trustml.plotting._style import BLUE, INK, ORANGE, axes, error_bars, label, plain, vector

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def attribution_bars(
    values: Any,
    names: Sequence[str],
    *,
    error: Any = None,
    top: int = 12,
    x: str = "attribution",
    ax: Axes | None = None,
) -> Axes:
    """Draw one value a feature, the largest first.

    Parameters
    ----------
    values : array of shape (d,)
        Attributions; their sign has a colour.
    names : sequence of str, length d
        Feature names.
    error : array of shape (d,) or None
        Half-widths of error bars.
    top : int
        How many features to show, by size.
    x : str
        Axis label with the unit.
    ax : Axes or None
        Where to draw; None makes a figure.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the lengths differ.

    Examples
    --------
    >>> ax = attribution_bars([0.1, -0.4], ["age", "bmi"])
    >>> [text.get_text() for text in ax.get_yticklabels()]
    ['bmi', 'age']
    """
    v = vector(values, "values")
    if len(names) != len(v):
        raise ValueError(f"names must have one entry a value: {len(names)} names, {len(v)} values")
    order = np.argsort(-np.abs(v), kind="stable")[:top]
    ax = axes(ax, 5.6, 0.8 + 0.27 * len(order))
    y = np.arange(len(order))
    ax.barh(y, v[order], color=[BLUE if a >= 0 else ORANGE for a in v[order]], height=0.66)
    if error is not None:
        e = vector(error, "error")[order]
        bars = error_bars(v[order], v[order] - e, v[order] + e)
        ax.errorbar(v[order], y, xerr=bars, fmt="none", ecolor=INK, elinewidth=1.1, capsize=2)
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_yticks(y, [plain(names[j]) for j in order], color=INK)
    ax.set_ylim(len(order) - 0.4, -0.6)
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    label(ax, x)
    return ax


def attribution_images(
    images: Any,
    values: Any,
    titles: Sequence[str] | None = None,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw pictures above heat maps of what spoke for (blue) and against (red) the output.

    Parameters
    ----------
    images : array of shape (n, h, w) or (n, h, w, 3)
        The pictures explained.
    values : array of the same shape
        Attributions; colours are scaled in each picture by itself.
    titles : sequence of str, length n, or None
        A line above each picture.
    ax : Axes or None
        Where to draw; None makes a figure.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> import numpy as np
    >>> ax = attribution_images(np.zeros((2, 4, 4)), np.ones((2, 4, 4)), ["a", "b"])
    >>> len(ax.images)
    4
    """
    pictures, heat = np.asarray(images, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if pictures.shape != heat.shape or pictures.ndim not in {3, 4}:
        raise ValueError(
            "images and values must have one shape, (n, h, w) or (n, h, w, 3), got "
            f"{pictures.shape} and {heat.shape}"
        )
    if heat.ndim == 4:
        heat = heat.sum(-1)
    n = len(pictures)
    ax = canvas(ax, n, 2)
    for i in range(n):
        tile(ax, pictures[i], i, 0)
        limit = float(np.abs(heat[i]).max()) or 1.0
        tile(ax, heat[i], i, 1, cmap="RdBu", vmin=-limit, vmax=limit)
        if titles is not None:
            caption(ax, titles[i], i)
    return ax


def image_grid(
    images: Any,
    titles: Sequence[str],
    *,
    columns: int = 8,
    ax: Axes | None = None,
) -> Axes:
    """Draw pictures in rows, each with a line above it.

    Parameters
    ----------
    images : array of shape (n, h, w) or (n, h, w, 3)
        Pictures.
    titles : sequence of str, length n
        The lines; a line break makes two.
    columns : int
        Pictures in a row.
    ax : Axes or None
        Where to draw; None makes a figure.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If there is not one title a picture.

    Examples
    --------
    >>> import numpy as np
    >>> ax = image_grid(np.zeros((3, 4, 4)), ["a", "b", "c"], columns=2)
    >>> len(ax.images)
    3
    """
    pictures = np.asarray(images, dtype=np.float64)
    if pictures.ndim not in {3, 4} or len(pictures) != len(titles):
        raise ValueError(
            f"images (n, h, w[, 3]) and n titles expected, got shape {pictures.shape} and "
            f"{len(titles)} titles"
        )
    n_rows = -(-len(pictures) // columns)
    ax = canvas(ax, min(columns, len(pictures)), n_rows, gap=0.42)
    for i, picture in enumerate(pictures):
        tile(ax, picture, i % columns, i // columns, gap=0.42)
        caption(ax, titles[i], i % columns, i // columns, gap=0.42)
    return ax


def canvas(ax: Axes | None, columns: int, rows: int, gap: float = 0.08) -> Axes:
    """Return bare axes whose unit is one picture."""
    height = rows * (1 + gap) + 0.3
    ax = axes(ax, 1.05 * columns + 0.1, 1.05 * height)
    ax.set_axis_off()
    ax.set_xlim(-0.05, columns * 1.08)
    ax.set_ylim(height - 0.3, -0.4)
    ax.set_aspect("equal")
    return ax


def tile(ax: Axes, picture: Any, column: int, row: int, gap: float = 0.08, **kwargs: Any) -> None:
    """Draw one picture at a place of the canvas."""
    left, top = column * 1.08, row * (1 + gap)
    if picture.ndim == 3:
        span = float(np.ptp(picture)) or 1.0
        picture = (picture - picture.min()) / span
    elif "cmap" not in kwargs:
        kwargs["cmap"] = "gray"
    ax.imshow(picture, extent=(left, left + 1, top + 1, top), interpolation="nearest", **kwargs)
    ax.set_autoscale_on(False)


def caption(ax: Axes, text: str, column: int, row: int = 0, gap: float = 0.08) -> None:
    """Write a line above a picture."""
    place = (column * 1.08 + 0.5, row * (1 + gap) - 0.06)
    ax.text(*place, plain(text), color=INK, fontsize=8, ha="center", va="bottom")
