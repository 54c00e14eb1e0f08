"""Axes, colours and text shared by every figure."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trustml.core.optional import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Hues that read on white and on near-black, and apart for colour-blind readers.
BLUE, ORANGE, TEAL, PURPLE, RED = "#3d7fc4", "#e0812f", "#1f9e8f", "#9067c6", "#d64d57"
CYCLE = (BLUE, ORANGE, TEAL, PURPLE, RED, "#a3873b", "#c561a3")
MUTED = "#858b93"
INK = "#0b0d10"  # text and spines: `svg` turns this very colour into currentColor


def axes(ax: Axes | None, width: float = 5.6, height: float = 3.5) -> Axes:
    """Return `ax`, or new axes on a figure of their own (in inches)."""
    if ax is None:
        new: Axes = _figure(figsize=(width, height), layout="constrained").subplots()
        ax = new
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(MUTED)
    ax.tick_params(colors=INK, labelsize=9)
    ax.grid(visible=True, color=MUTED, alpha=0.22, linewidth=0.7)
    ax.set_axisbelow(True)
    return ax


_DETACHED = ContextVar("trustml_detached_figures", default=False)


@contextmanager
def detached() -> Iterator[None]:
    """Keep figures outside pyplot in a notebook too: what draws a page must not show them.

    Yields
    ------
    None
    """
    token = _DETACHED.set(True)
    try:
        yield
    finally:
        _DETACHED.reset(token)


def _figure(**settings: Any) -> Any:
    """Return a figure outside pyplot's global state, but in a notebook one that is shown."""
    ipython = sys.modules.get("IPython")
    shell = ipython is not None and ipython.get_ipython() is not None
    if shell and not _DETACHED.get():
        return require("matplotlib.pyplot", "report").figure(**settings)
    return require("matplotlib.figure", "report").Figure(**settings)


def plain(text: Any) -> str:
    """Return text from data so that matplotlib shows it literally (no mathematics)."""
    return str(text).replace("$", r"\$")


def label(ax: Axes, x: str = "", y: str = "", title: str = "") -> None:
    """Name the axes."""
    ax.set_xlabel(plain(x), color=INK, fontsize=9.5)
    ax.set_ylabel(plain(y), color=INK, fontsize=9.5)
    if title:
        ax.set_title(plain(title), color=INK, fontsize=10.5, loc="left")


def legend(ax: Axes, **kwargs: Any) -> None:
    """Add a frameless legend."""
    settings: dict[str, Any] = {"frameon": False, "fontsize": 8.5, "labelcolor": INK, **kwargs}
    ax.legend(**settings)


def vector(values: Any, name: str) -> NDArray[np.float64]:
    """Return `values` as a float vector, or say what was given."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must be a non-empty 1-d array, got shape {array.shape}")
    return array


def same_length(**arrays: Any) -> int:
    """Return the common length of named sequences, or say which differ."""
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"these must have the same length: {lengths}")
    return next(iter(lengths.values()))


def error_bars(
    estimate: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the (2, n) lengths that matplotlib's errorbar wants."""
    return np.stack([np.maximum(estimate - low, 0.0), np.maximum(high - estimate, 0.0)])
