"""Reliability and trust for trained machine-learning models, on one curvature engine.

Wrap a trained model once, then ask: conformal prediction sets, out-of-distribution scores,
adversarial attacks, explanations, fairness, influence of training rows, or a whole audit.
Everything that needs an inverse Hessian asks ``trustml.ihvp``.

Examples
--------
>>> from sklearn.datasets import load_iris
>>> from sklearn.linear_model import LogisticRegression
>>> import trustml
>>> X, y = load_iris(return_X_y=True)
>>> model = trustml.wrap(LogisticRegression(max_iter=1000).fit(X, y), train=(X, y))
>>> model.predict_proba(X[:2]).shape
(2, 3)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trustml import (
        conformal,
        datasets,
        errors,
        evidence,
        explain,
        fairness,
        ihvp,
        influence,
        integrations,
        ood,
        plotting,
        robustness,
        warnings,
    )
    from trustml.auditing import audit
    from trustml.model import Model, precomputed, wrap

__version__ = "0.1.0"

__all__ = [
    "Model",
    "__version__",
    "audit",
    "conformal",
    "datasets",
    "errors",
    "evidence",
    "explain",
    "fairness",
    "ihvp",
    "influence",
    "integrations",
    "ood",
    "plotting",
    "precomputed",
    "robustness",
    "warnings",
    "wrap",
]

_LENT = {
    "Model": "trustml.model",
    "precomputed": "trustml.model",
    "wrap": "trustml.model",
    "audit": "trustml.auditing",
}


def __getattr__(name: str) -> Any:
    """Import an area when it is first asked for (PEP 562)."""
    if name in _LENT:
        value = getattr(import_module(_LENT[name]), name)
    elif name in __all__:
        value = import_module(f"trustml.{name}")
    else:
        raise AttributeError(f"module 'trustml' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
