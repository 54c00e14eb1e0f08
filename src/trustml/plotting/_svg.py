"""A figure as SVG that can stand inside an HTML page."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from trustml.core.optional import require
from trustml.plotting._style import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def svg(ax: Axes, name: str, alt: str = "") -> str:
    """Return the figure of `ax` as inline SVG: no links, no fixed size, ids of its own.

    Text stays text in the page's font, and what is drawn in the ink colour takes the page's
    text colour, so that the figure follows a dark theme.

    Parameters
    ----------
    ax : Axes
        Any axes of the figure.
    name : str
        Makes the ids in the SVG differ from those of other figures in the page.
    alt : str
        What a screen reader says.

    Returns
    -------
    str
        An ``<svg>`` element. Text from data is escaped in it.

    Raises
    ------
    TypeError
        If `ax` belongs to no figure of its own.
    """
    matplotlib = require("matplotlib", "report")
    figure = ax.get_figure()
    if figure is None or not hasattr(figure, "savefig"):
        raise TypeError("svg needs axes of a whole figure, got axes without a figure")
    buffer = io.StringIO()
    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
    }
    blank = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context(settings):
        figure.savefig(buffer, format="svg", transparent=True, metadata=blank)
    return _inline(buffer.getvalue(), alt)


def _inline(text: str, alt: str) -> str:
    from html import escape

    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    head, body = text.split(">", 1)
    box = re.search(r'viewBox="([^"]+)"', head)
    view = box.group(1) if box else "0 0 400 250"
    body = re.sub(r"\sxlink:href=", " href=", body)
    body = re.sub(r"(?<=[:\"\s])" + INK + r"\b", "currentColor", body)
    body = re.sub(r"(font: )([^;\"]*?)'[^;\"]*(?=[;\"])", r"\1\2sans-serif", body)
    return (
        f'<svg class="figure" viewBox="{view}" role="img" aria-label="{escape(alt, quote=True)}" '
        f'preserveAspectRatio="xMidYMid meet">{body}'
    )
