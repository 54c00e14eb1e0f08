"""The checks of an audit, in the order they run; each is a frozen dataclass of its thresholds."""

from __future__ import annotations

from trustml.auditing._check import Check
from trustml.auditing.checks.calibration import Calibration
from trustml.auditing.checks.coverage import Coverage
from trustml.auditing.checks.explanations import Explanations
from trustml.auditing.checks.fairness import Fairness
from trustml.auditing.checks.label_errors import LabelErrors
from trustml.auditing.checks.ood import OutOfDistribution
from trustml.auditing.checks.robustness import Robustness

CHECKS: dict[str, type[Check]] = {
    check.name: check
    for check in (
        Calibration,
        Coverage,
        OutOfDistribution,
        Robustness,
        Explanations,
        Fairness,
        LabelErrors,
    )
}

__all__ = [
    "CHECKS",
    "Calibration",
    "Coverage",
    "Explanations",
    "Fairness",
    "LabelErrors",
    "OutOfDistribution",
    "Robustness",
]
