"""A figure as SVG that can stand inside an HTML page."""

from __future__ import annotations

import io
import re
import warnings
from html import escape
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
        Prefix of the ids in the SVG, so that they differ from those of other figures in the
        page: letters, digits, hyphens.
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
    ValueError
        If `name` has other characters.
    """
    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"name must be letters, digits, _ and -, got {name!r}")
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
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # The browser has other fonts; matplotlib's are used only to measure.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", transparent=True, metadata=blank)
    return _inline(buffer.getvalue(), name, alt)


_PIXELS_PER_POINT = 1.45  # the same for every figure, so that their text has one size
_TAG = re.compile(r"<[^>]*>")  # matplotlib escapes > in text and in attributes
_ID = re.compile(r'\sid="([^"]*)"')
_USE = re.compile(r'(url\(#|href="#)([^)"]*)')


def _inline(text: str, name: str, alt: str) -> str:
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    head, body = text.split(">", 1)
    box = re.search(r'viewBox="([^"]+)"', head)
    view = box.group(1) if box else "0 0 400 250"
    used = {found for _, found in _USE.findall(body)}

    def rewrite(match: re.Match[str]) -> str:
        """Adapt one tag; text between tags, which may come from data, is left alone."""
        tag = match.group().replace(" xlink:href=", " href=").replace(INK, "currentColor")
        tag = re.sub(r"(font: )([^;\"]*?)'[^;\"]*(?=[;\"])", r"\1\2sans-serif", tag)
        tag = _ID.sub(lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", tag)
        return _USE.sub(lambda m: f"{m[1]}{name}-{m[2]}", tag)

    width = round(float(view.split()[2]) * _PIXELS_PER_POINT)
    return (
        f'<svg class="figure" viewBox="{view}" style="max-width:{width}px" role="img" '
        f'aria-label="{escape(alt, quote=True)}" '
        f'preserveAspectRatio="xMidYMid meet">{_TAG.sub(rewrite, body)}'
    )
