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
from trustml.conformal._coverage_test import coverage_test
from trustml.conformal._debiased_ece import debiased_ece
from trustml.conformal._ert import ert
from trustml.conformal._hsic import hsic
from trustml.conformal._proper_scores import brier, nll
from trustml.conformal._reliability import Reliability, calibration_test, ece, reliability
from trustml.conformal._slab import worst_slab_coverage

__all__ = [
    "GroupCoverage",
    "Reliability",
    "brier",
    "calibration_test",
    "coverage",
    "coverage_by_group",
    "coverage_gap",
    "coverage_test",
    "debiased_ece",
    "ece",
    "ert",
    "hsic",
    "interval_width",
    "nll",
    "reliability",
    "set_size",
    "size_stratified_coverage",
    "worst_slab_coverage",
]
