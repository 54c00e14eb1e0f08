"""Explanations: attributions that add up, their standard errors, and the rows behind them.

``KernelShap`` comes from the package shap (``pip install 'trustml[explain]'``), seeded and under
our face; the rest is our own.
"""

from __future__ import annotations

from typing import Any

from trustml.explain import metrics
from trustml.explain._caused_by import caused_by
from trustml.explain._explainer import Explainer, GradientExplainer
from trustml.explain._explanation import Explanation
from trustml.explain._input_x_gradient import InputXGradient
from trustml.explain._integrated_gradients import IntegratedGradients
from trustml.explain._saliency import Saliency
from trustml.explain._training_rows import TrainingRows, training_rows
from trustml.explain._uncertainty import uncertainty

__all__ = [
    "Explainer",
    "Explanation",
    "GradientExplainer",
    "InputXGradient",
    "IntegratedGradients",
    "KernelShap",  # noqa: F822 (lent by __getattr__)
    "Saliency",
    "TrainingRows",
    "caused_by",
    "metrics",
    "training_rows",
    "uncertainty",
]


def __getattr__(name: str) -> Any:
    """Lend a third party's method when it is asked for."""
    if name != "KernelShap":
        raise AttributeError(f"module 'trustml.explain' has no attribute {name!r}")
    from trustml.integrations.shap import KernelShap

    return KernelShap
