"""What one must know of a data set before a figure of fairness means anything."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trustml.core.results import text_table

_WIDTH = 92


@dataclass(frozen=True, eq=False)
class Datasheet:
    """Label, groups, known problems, licence and source of a data set of people.

    Attributes
    ----------
    name : str
        What it is called.
    about : str
        Who the rows are.
    label : str
        What the label records, and what it does not.
    favourable : str
        What y = 1 means: the outcome that a person wants.
    rows : int
        Number of people.
    groups : dict of str to dict
        Attribute -> group -> (rows, share of them with y = 1).
    problems : tuple of str
        What is known to be wrong with the data.
    licence : str
        Under which it may be used.
    source : str
        Where the file comes from.
    references : tuple of str
        Where it is described, and criticised.

    References
    ----------
    Gebru et al. (2021), Datasheets for datasets, arXiv:1803.09010.
    """

    name: str
    about: str
    label: str
    favourable: str
    rows: int
    groups: Mapping[str, Mapping[str, tuple[int, float]]]
    problems: tuple[str, ...]
    licence: str
    source: str
    references: tuple[str, ...]

    def __repr__(self) -> str:
        """Everything, as text for a terminal."""
        lines = [f"{self.name}: {self.rows:,} rows"]
        for title, text in self._facts():
            lines += _wrapped(text, f"  {title:12s}")
        lines += ["", *text_table(self._table(), max_rows=1000).splitlines(), "", "known problems"]
        for problem in self.problems:
            lines += _wrapped(problem, "  - ")
        lines.append("references")
        for reference in self.references:
            lines += _wrapped(reference, "  - ")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        facts = "".join(f"<dt>{t}</dt><dd>{html.escape(text)}</dd>" for t, text in self._facts())
        columns = self._table()
        head = "".join(f"<th>{name}</th>" for name in columns)
        cells = zip(*columns.values(), strict=True)
        body = "".join(
            f"<tr><td>{html.escape(attribute)}</td><td>{html.escape(group)}</td>"
            f"<td>{count}</td><td>{share:.3f}</td></tr>"
            for attribute, group, count, share in cells
        )
        parts = "".join(
            f"<p>{title}</p><ul>{''.join(f'<li>{html.escape(text)}</li>' for text in texts)}</ul>"
            for title, texts in (("Known problems", self.problems), ("References", self.references))
        )
        return (
            f"<h4>{html.escape(self.name)}: {self.rows:,} rows</h4><dl>{facts}</dl>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{parts}"
        )

    def _facts(self) -> list[tuple[str, str]]:
        return [
            ("about", self.about),
            ("label", self.label),
            ("y = 1", self.favourable),
            ("licence", self.licence),
            ("source", self.source),
        ]

    def _table(self) -> dict[str, np.ndarray]:
        rows = [
            (attribute, group, count, share)
            for attribute, sizes in self.groups.items()
            for group, (count, share) in sizes.items()
        ]
        names = ("attribute", "group", "rows", "share of y = 1")
        return {
            name: np.array(column)
            for name, column in zip(names, zip(*rows, strict=True), strict=True)
        }


def group_sizes(
    y: np.ndarray, attributes: Mapping[str, Any]
) -> dict[str, dict[str, tuple[int, float]]]:
    """Return attribute -> group -> (rows, share of them with y = 1), groups sorted."""
    return {
        name: {
            str(group): (int((values == group).sum()), float(y[values == group].mean()))
            for group in np.unique(values)
        }
        for name, values in attributes.items()
    }


def _wrapped(text: str, start: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=start, subsequent_indent=" " * len(start))
