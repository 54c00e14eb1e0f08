"""Measures of prediction sets, intervals and probabilities."""

from __future__ import annotations

from trustml.conformal._coverage import (
    GroupCoverage,
    coverage,
    coverage_by_group,
    coverage_gap,
    interval_width,
    set_size,
    size_stratified_coverage,
)
from trustml.conformal._reliability import Reliability, calibration_test, ece, reliability
from trustml.conformal._slab import worst_slab_coverage

__all__ = [
    "GroupCoverage",
    "Reliability",
    "calibration_test",
    "coverage",
    "coverage_by_group",
    "coverage_gap",
    "ece",
    "interval_width",
    "reliability",
    "set_size",
    "size_stratified_coverage",
    "worst_slab_coverage",
]
