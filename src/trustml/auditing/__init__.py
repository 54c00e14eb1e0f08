"""Audits: questions put to a trained model, answered with verdicts that rest on intervals.

`audit` runs the checks and returns an `AuditReport`: a table on the terminal, ``report.json``,
``junit.xml`` and a self-contained ``report.html``. Each check judges a confidence interval or a
test at a stated level, never a bare point estimate.
"""

from __future__ import annotations

from trustml.auditing._case import Case
from trustml.auditing._check import Check, CheckResult, Figure, Outcome, Skip, Table
from trustml.auditing._report import AuditReport
from trustml.auditing._run import audit
from trustml.auditing._verdict import Finding, Verdict
from trustml.auditing.checks import (
    CHECKS,
    Calibration,
    Coverage,
    Explanations,
    Fairness,
    LabelErrors,
    OutOfDistribution,
    Robustness,
)

__all__ = [  # noqa: RUF022 - in reading order
    "audit",
    "AuditReport",
    "CheckResult",
    "Finding",
    "Verdict",
    "CHECKS",
    "Calibration",
    "Coverage",
    "OutOfDistribution",
    "Robustness",
    "Explanations",
    "Fairness",
    "LabelErrors",
    "Check",
    "Case",
    "Outcome",
    "Figure",
    "Table",
    "Skip",
]
