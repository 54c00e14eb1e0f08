"""The report as one HTML page that needs nothing beside itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trustml.auditing._terminal import MARKS, bracket, number
from trustml.auditing._verdict import Finding, Verdict
from trustml.core.optional import require

if TYPE_CHECKING:
    from trustml.auditing._check import CheckResult
    from trustml.auditing._report import AuditReport

_CLASSES = {
    Verdict.PASS: "pass",
    Verdict.FAIL: "fail",
    Verdict.NOT_ENOUGH_DATA: "unsure",
    Verdict.SKIPPED: "skip",
    Verdict.ERROR: "error",
    None: "shown",
}


@dataclass(frozen=True)
class Bar:
    """Where a finding's interval lies on its scale, in percent of the width."""

    low: float
    high: float
    estimate: float
    marks: tuple[float, ...]


def render(report: AuditReport) -> str:
    """Return the page; whatever comes from data passes jinja2's autoescape."""
    jinja2 = require("jinja2", "report")
    plotting = require("trustml.plotting", "report")
    require("matplotlib", "report")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=number, bracket=bracket, cell=_cell, mark=lambda v: MARKS[v][0], css=_CLASSES.get
    )
    markup = jinja2.utils.markupsafe.Markup
    figures = {
        result.name: [markup(_draw(plotting, result, i)) for i in range(len(result.figures))]
        for result in report.results
    }
    page: str = environment.get_template("report.html.j2").render(
        report=report,
        figures=figures,
        bars={result.name: bars(result.findings) for result in report.results},
        headline=headline(report),
        state=_state(report),
        Verdict=Verdict,
    )
    return page


def headline(report: AuditReport) -> str:
    """Return the outcome in one sentence."""
    count = report.counts
    judged = len(report) - count[Verdict.SKIPPED]
    if count[Verdict.ERROR]:
        lead = f"{_checks(count[Verdict.ERROR])} could not run"
    elif count[Verdict.FAIL]:
        lead = f"{count[Verdict.FAIL]} of {_checks(judged)} failed"
    elif count[Verdict.NOT_ENOUGH_DATA]:
        lead = (
            f"Nothing failed, but the data cannot settle {count[Verdict.NOT_ENOUGH_DATA]} of "
            f"{_checks(judged)}"
        )
    elif judged:
        lead = "The only check passed" if judged == 1 else f"All {_checks(judged)} passed"
    else:
        lead = "No check applied"
    skipped = count[Verdict.SKIPPED]
    return f"{lead}; {skipped} skipped." if skipped else f"{lead}."


def _checks(n: int) -> str:
    return f"{n} check" if n == 1 else f"{n} checks"


def _state(report: AuditReport) -> str:
    order = (Verdict.ERROR, Verdict.FAIL, Verdict.NOT_ENOUGH_DATA, Verdict.PASS, Verdict.SKIPPED)
    return next(_CLASSES[verdict] for verdict in order if report.counts[verdict] or not len(report))


def bars(findings: Sequence[Finding]) -> list[Bar | None]:
    """Place the intervals; findings with one requirement share a scale, so they compare."""
    scales: dict[tuple[float, ...], list[float]] = {}
    for f in findings:
        ends = [x for x in (f.low, f.high, f.estimate, *f.threshold) if math.isfinite(x)]
        scales.setdefault(f.threshold, []).extend(ends)
    placed: list[Bar | None] = []
    for f in findings:
        ends = scales[f.threshold]
        if not (math.isfinite(f.low) and math.isfinite(f.high)) or min(ends) == max(ends):
            placed.append(None)
            continue
        left, span = min(ends), max(ends) - min(ends)

        def at(value: float, left: float = left, span: float = span) -> float:
            return round(4 + 92 * (value - left) / span, 2)

        estimate = at(f.estimate) if math.isfinite(f.estimate) else at((f.low + f.high) / 2)
        placed.append(Bar(at(f.low), at(f.high), estimate, tuple(map(at, f.threshold))))
    return placed


def _draw(plotting: Any, result: CheckResult, index: int) -> str:
    figure = result.figures[index]
    with plotting.detached():
        axes = getattr(plotting, figure.kind)(**figure.data)
    name = f"{result.name}-{index}"
    text: str = plotting.svg(axes, name, f"{figure.title}. {figure.caption}")
    return text


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        return f"{value:,}".replace(",", " ")
    if isinstance(value, float):
        return number(value)
    if isinstance(value, dict):
        return ", ".join(f"{k} {_cell(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_cell(v) for v in value)
    return str(value)
