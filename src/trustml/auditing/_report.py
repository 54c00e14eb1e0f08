"""The report of an audit: verdicts, evidence, and the files that carry them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trustml.auditing._check import CheckResult
from trustml.auditing._verdict import Verdict
from trustml.core.validation import check_choice

FAIL_ON = ("fail", "warn")
FORMATS = ("json", "junit", "html")


@dataclass(frozen=True)
class AuditReport:
    """What an audit found; look checks up by name, ``report["fairness"]``.

    Attributes
    ----------
    name : str
        What was audited.
    results : tuple of CheckResult
        One for each check, in the order they ran.
    facts : dict
        The model, the data sizes, accuracy: what a reader needs beside the verdicts.
    parameters : dict
        Level, seed and the like: with the same ones the audit gives the same numbers.
    versions : dict
        Versions of what computed it.
    started : str
        UTC time at which the audit started, ISO 8601.
    seconds : float
        Wall time.
    notes : tuple of str
        What holds for the whole audit.
    """

    name: str
    results: tuple[CheckResult, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    started: str = ""
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> CheckResult:
        for result in self.results:
            if result.name == name:
                return result
        raise KeyError(f"no check {name!r} in this report; it has {[r.name for r in self.results]}")

    def __iter__(self) -> Iterator[CheckResult]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many checks ended in each verdict; every verdict is a key."""
        seen = Counter(result.verdict for result in self.results)
        return {verdict: seen[verdict] for verdict in Verdict}

    @property
    def passed(self) -> bool:
        """Whether at least one check passed, none failed and none broke.

        "Not enough data" and "skipped" do not count against a model; ``assert_passed`` with
        ``fail_on="warn"`` is stricter.
        """
        return self.exit_code() == 0

    def exit_code(self, fail_on: str = "fail") -> int:
        """Return the exit code of the command line for this report.

        Parameters
        ----------
        fail_on : {"fail", "warn"}
            "warn" counts "not enough data" as a failure.

        Returns
        -------
        int
            0: something passed and nothing failed; 1: a check failed; 2: a check broke, or
            nothing could be judged.
        """
        check_choice(fail_on, "fail_on", FAIL_ON)
        count = self.counts
        if count[Verdict.ERROR]:
            return 2
        if count[Verdict.FAIL] or (fail_on == "warn" and count[Verdict.NOT_ENOUGH_DATA]):
            return 1
        return 0 if count[Verdict.PASS] else 2

    def assert_passed(self, fail_on: str = "fail") -> None:
        """Raise unless the audit passed; the message names every check that did not.

        Parameters
        ----------
        fail_on : {"fail", "warn"}
            "warn" counts "not enough data" as a failure.

        Raises
        ------
        AssertionError
            If a check failed or broke, or nothing could be judged.
        """
        if self.exit_code(fail_on) == 0:
            return
        lines = [
            f"  {r.verdict.value}: {r.name}: {r.summary}"
            for r in self.results
            if r.verdict is not Verdict.PASS
        ]
        raise AssertionError("\n".join([f"the audit of {self.name} did not pass", *lines]))

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data: what ``report.json`` holds, all numbers finite."""
        from trustml.auditing._plain import report_to_dict

        return report_to_dict(self)

    def to_html(self) -> str:
        """Return the report as one self-contained HTML page."""
        from trustml.auditing._html import render

        return render(self)

    def save(
        self,
        directory: str | Path,
        *,
        formats: tuple[str, ...] = FORMATS,
        fail_on: str = "fail",
    ) -> Path:
        """Write ``report.json``, ``junit.xml`` and ``report.html``.

        Parameters
        ----------
        directory : str or Path
            Made if it does not exist; files of these names are replaced.
        formats : tuple of {"json", "junit", "html"}
            Which files; "html" needs the extra ``trustml[report]``.
        fail_on : {"fail", "warn"}
            Whether junit counts "not enough data" as a failure or as skipped.

        Returns
        -------
        Path
            The directory.
        """
        from trustml.auditing._junit import junit_xml
        from trustml.auditing._plain import json_text

        check_choice(fail_on, "fail_on", FAIL_ON)
        for name in formats:
            check_choice(name, "formats", FORMATS)
        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        if "json" in formats:
            (target / "report.json").write_text(json_text(self), encoding="utf-8")
        if "junit" in formats:
            (target / "junit.xml").write_bytes(junit_xml(self, fail_on))
        if "html" in formats:
            (target / "report.html").write_text(self.to_html(), encoding="utf-8")
        return target

    def print(self, console: Any = None) -> None:
        """Print the table of verdicts on a rich console; None: standard output."""
        from trustml.auditing._terminal import show

        show(self, console)

    def __repr__(self) -> str:
        """Show the table of verdicts."""
        import io

        from rich.console import Console

        text = io.StringIO()
        self.print(Console(file=text, width=100))
        return text.getvalue().rstrip()

    def _repr_html_(self) -> str:
        from trustml.auditing._plain import summary_html

        return summary_html(self)
