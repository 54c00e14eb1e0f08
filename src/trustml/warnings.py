"""Warnings for what is legal but statistically or numerically doubtful."""

from __future__ import annotations


class TrustmlWarning(UserWarning):
    """Base of every warning that trustml raises."""


class CoverageWarning(TrustmlWarning):
    """The asked coverage cannot be given, or is not guaranteed, with these data."""


class ConvergenceWarning(TrustmlWarning):
    """A solver stopped before its tolerance; the Solution says how far it came."""


class NegativeCurvatureWarning(TrustmlWarning):
    """A direction of negative curvature was met: the matrix is not positive definite."""


class GradientMaskingWarning(TrustmlWarning):
    """Gradients look uninformative: a measured robustness may be an illusion."""


class SmallGroupWarning(TrustmlWarning):
    """A group has too few rows for its metric to mean much."""


class BackendWarning(TrustmlWarning):
    """A slower way had to be taken because the fast one does not fit this model."""


class DeterminismWarning(TrustmlWarning):
    """Two identical calls of the model gave different outputs."""


class ApproximationWarning(TrustmlWarning):
    """An approximation was measured against what it stands for, and is far off."""
