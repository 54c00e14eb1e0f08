"""The table of verdicts on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustml.auditing._verdict import Finding, Verdict

if TYPE_CHECKING:
    from trustml.auditing._report import AuditReport

MARKS = {
    Verdict.PASS: ("✔", "green"),
    Verdict.FAIL: ("✘", "bold red"),
    Verdict.NOT_ENOUGH_DATA: ("?", "yellow"),
    Verdict.SKIPPED: ("–", "dim"),
    Verdict.ERROR: ("!", "bold magenta"),
}


def show(report: AuditReport, console: Any = None) -> None:
    """Print one line a check, and how many ended how; text from data is never markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    out = console if console is not None else Console()
    table = Table(title=Text(f"Audit of {report.name}"), title_justify="left", expand=True)
    table.add_column("check", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("finding", ratio=1)
    table.add_column("s", justify="right", no_wrap=True)
    for result in report.results:
        mark, style = MARKS[result.verdict]
        table.add_row(
            Text(result.title),
            Text(f"{mark} {result.verdict.value}", style=style),
            Text(result.summary),
            f"{result.seconds:.1f}",
        )
    out.print(table)
    counts = ", ".join(f"{n} {verdict.value}" for verdict, n in report.counts.items() if n)
    seed = report.parameters.get("random_state")
    out.print(Text(f"{counts}; {report.seconds:.1f} s, random_state={seed}"))


def number(value: float) -> str:
    """Return a number for people: three digits, no exponent where it can be avoided."""
    if value != value:
        return "–"
    if value == 0 or 0.001 <= abs(value) < 10_000:
        return f"{value:.3f}".rstrip("0").rstrip(".") if abs(value) < 100 else f"{value:.0f}"
    return f"{value:.2g}"


def bracket(finding: Finding) -> str:
    """Return ``estimate [low, high]``."""
    if finding.low != finding.low:
        return number(finding.estimate)
    return f"{number(finding.estimate)} [{number(finding.low)}, {number(finding.high)}]"
