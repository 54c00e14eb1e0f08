"""Adversarial robustness: attacks under one judge, robust accuracy, and curvature without attack.

Every attack moves rows inside a ball (``norm``, ``eps``, in input units) and the model's
``bounds``; what counts is the model's own prediction at the returned point.
"""

from __future__ import annotations

from trustml.robustness._accuracy import RobustAccuracy, robust_accuracy
from trustml.robustness._attack import attack
from trustml.robustness._curvature import CurvatureResult, curvature
from trustml.robustness._curve import RobustnessCurve, robustness_curve
from trustml.robustness._fgsm import Fgsm
from trustml.robustness._judge import AttackResult
from trustml.robustness._masking import MaskingReport, masking_checks
from trustml.robustness._method import Attack
from trustml.robustness._pgd import Pgd
from trustml.robustness._strong import Strong

__all__ = [
    "Attack",
    "AttackResult",
    "CurvatureResult",
    "Fgsm",
    "MaskingReport",
    "Pgd",
    "RobustAccuracy",
    "RobustnessCurve",
    "Strong",
    "attack",
    "curvature",
    "masking_checks",
    "robust_accuracy",
    "robustness_curve",
]  # fmt: skip
