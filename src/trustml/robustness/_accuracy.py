"""Robust accuracy: the share of rows that no attack fooled, with its interval."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from trustml.core.random import RandomState
from trustml.core.results import Result
from trustml.core.validation import to_numpy
from trustml.evidence import Interval, clopper_pearson
from trustml.robustness._attack import attack
from trustml.robustness._judge import AttackResult
from trustml.robustness._method import Attack
from trustml.warnings import GradientMaskingWarning


@dataclass(frozen=True, eq=False, repr=False)
class RobustAccuracy(Result):
    """Accuracy under attack.

    Attributes
    ----------
    estimate : float in [0, 1]
        Share of rows that are right and stayed right under every attack: an upper bound of the
        true robust accuracy, since a stronger attack may exist.
    interval : Interval
        Clopper-Pearson, for the share in the population that the rows were drawn from.
    per_example : bool array of shape (n,)
        True where the row was not fooled.
    clean_accuracy : float in [0, 1]
        Share of rows that are right without attack.
    norm : str
    eps : float
        Radius, input units.
    method : str
    flags : tuple of str
        What makes the estimate doubtful.
    attack : AttackResult
        The adversarial points and the cost.
    """

    estimate: float
    interval: Interval
    per_example: np.ndarray
    clean_accuracy: float
    norm: str
    eps: float
    method: str
    flags: tuple[str, ...]
    attack: AttackResult

    def _title(self) -> str:
        """Return the estimate with its interval."""
        low, high = self.interval
        doubts = "".join(f"; {flag}" for flag in self.flags)
        return (
            f"RobustAccuracy {self.estimate:.4g}, {self.interval.level:.0%} interval {low:.4g} to "
            f"{high:.4g}, {len(self.per_example)} rows ({self.method}, {self.norm}, "
            f"eps {self.eps:.4g}); {self.clean_accuracy:.4g} without attack{doubts}"
        )

    def _columns(self) -> dict[str, Any]:
        return {"robust": self.per_example, "distance": self.attack.distance}


def robust_accuracy(
    model: Any,
    X: Any,
    y: Any,
    norm: str = "linf",
    eps: float | str | None = None,
    method: str | Attack = "strong",
    level: float = 0.95,
    random_state: RandomState = None,
) -> RobustAccuracy:
    """Estimate the accuracy that survives attacks of radius ``eps``.

    Parameters
    ----------
    model : Model or what ``wrap`` takes
        A differentiable classifier with ``bounds``.
    X : array-like of shape (n, *features)
        Rows that the model was not trained on, in input units.
    y : array-like of shape (n,)
        True labels.
    norm : {"linf", "l2"}
    eps : float or str
        Radius in input units; "8/255" is read as a fraction.
    method : {"fgsm", "pgd", "strong"} or Attack
    level : float in (0, 1)
        Confidence level of the interval.
    random_state : int, Generator or None

    Returns
    -------
    RobustAccuracy

    Notes
    -----
    Refused, with the fix: a model without gradients, one that is no classifier, one without
    ``bounds``, inputs that its module does not eat as they are, rows outside the bounds.

    Warns
    -----
    GradientMaskingWarning
        If the attack raised flags, so that the estimate may be an illusion.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from trustml import wrap
    >>> X, y = load_iris(return_X_y=True)
    >>> model = wrap(LogisticRegression(max_iter=1000).fit(X, y), bounds=(0.0, 8.0))
    >>> result = robust_accuracy(model, X, y, norm="linf", eps=0.2, random_state=0)
    >>> result.estimate <= result.clean_accuracy
    True
    """
    outcome = attack(model, X, y, method, norm, eps, random_state=random_state)
    if outcome.flags:
        warnings.warn(
            "robust accuracy may be an illusion: " + "; ".join(outcome.flags),
            GradientMaskingWarning,
            stacklevel=2,
        )
    fooled, distance = to_numpy(outcome.success), to_numpy(outcome.distance)
    robust = ~fooled
    wrong = fooled & (distance == 0)
    interval = clopper_pearson(int(robust.sum()), len(robust), level)
    return RobustAccuracy(
        estimate=interval.estimate,
        interval=interval,
        per_example=robust,
        clean_accuracy=1 - float(wrong.mean()),
        norm=norm,
        eps=outcome.eps,
        method=outcome.method,
        flags=outcome.flags,
        attack=outcome,
    )
