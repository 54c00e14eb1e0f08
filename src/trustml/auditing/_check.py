"""What a check is: a question with thresholds, answered by findings, figures and tables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from trustml.auditing._verdict import Finding, Verdict, combine

if TYPE_CHECKING:
    from trustml.auditing._case import Case


class Skip(Exception):
    """Raised inside a check that does not apply; its text is the reason in the report."""


@dataclass(frozen=True)
class Figure:
    """A figure of the report, as data: drawn only when the report is.

    Attributes
    ----------
    kind : str
        Name of the function in ``trustml.plotting`` that draws it.
    data : dict
        Its keyword arguments: arrays, numbers, strings.
    title, caption : str
        What it shows, and how to read it.
    """

    kind: str
    data: dict[str, Any]
    title: str
    caption: str


@dataclass(frozen=True)
class Table:
    """A table of the report: column names and rows of text or numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | int, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a check found: one sentence, the findings that carry the verdict, the evidence."""

    summary: str
    findings: tuple[Finding, ...]
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """The worst verdict among the findings."""
        return combine(f.verdict for f in self.findings)


@dataclass(frozen=True)
class CheckResult:
    """A check's answer in a report.

    Attributes
    ----------
    name : str
        Key in the report: ``report["fairness"]``.
    title, question, why, fix : str
        The check in words: what it asks, why it matters, how to repair a failure.
    verdict : Verdict
        Pass, fail, not enough data, skipped or error.
    summary : str
        One sentence: what was found, or why the check was skipped or broke.
    findings, figures, tables, notes : tuple
        The evidence.
    parameters : dict
        Thresholds and settings that the check ran with.
    seconds : float
        Wall time.
    """

    name: str
    title: str
    question: str
    why: str
    fix: str
    verdict: Verdict
    summary: str
    findings: tuple[Finding, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether the verdict is a pass."""
        return self.verdict is Verdict.PASS


class Check(ABC):
    """One question about a model; subclasses are frozen dataclasses of its thresholds.

    A subclass is final: it sets the texts below and implements ``run``.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    question: ClassVar[str]
    why: ClassVar[str]
    fix: ClassVar[str]

    @abstractmethod
    def run(self, case: Case) -> Outcome:
        """Answer the question for a model and its data.

        Parameters
        ----------
        case : Case
            The wrapped model, the data, the level and the seed.

        Returns
        -------
        Outcome

        Raises
        ------
        Skip
            If the check does not apply; the text says why.
        """

    @property
    def settings(self) -> dict[str, Any]:
        """The thresholds of this check, by name."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]
