"""Robustness: accuracy under small worst-case changes of the input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trustml.auditing._case import Case
from trustml.auditing._check import Check, Figure, Outcome, Skip
from trustml.auditing._settings import positive, share, whole
from trustml.auditing._verdict import Finding, Verdict, at_least, shown
from trustml.core.validation import take_rows, to_numpy
from trustml.evidence import clopper_pearson
from trustml.model import Model, wrap

_NORMS = ("linf", "l2")
_SHARE_OF_RANGE = 0.03
_SHARE_OF_SD = 0.1
_GRID = (0.25, 0.5, 1.0, 1.5, 2.0)


@dataclass(frozen=True)
class Robustness(Check):
    """Robust accuracy with its Clopper-Pearson interval at one budget, and the curve around it.

    Parameters
    ----------
    eps : float or None
        Size of the change. None: 3 % of the range of valid inputs; or, where the model has no
        ``bounds``, 0.1 standard deviations of each feature.
    norm : {"linf", "l2"}
        How the change is measured.
    min_robust_accuracy : float in [0, 1]
        Smallest accuracy under attack that is acceptable.
    method : str
        The attack, as in ``robustness.attack``.
    max_rows : int
        Test rows that are attacked, drawn by the seed.
    """

    eps: float | None = None
    norm: str = "linf"
    min_robust_accuracy: float = 0.5
    method: str = "strong"
    max_rows: int = 200

    name: ClassVar[str] = "robustness"
    title: ClassVar[str] = "Robustness"
    question: ClassVar[str] = (
        "Do small changes of the input, chosen by an adversary, change the answer?"
    )
    why: ClassVar[str] = (
        "Whoever gains from a wrong answer will look for the smallest change that brings it about; "
        "measurement error finds part of such changes by itself. Accuracy on clean rows says "
        "nothing of either."
    )
    fix: ClassVar[str] = (
        "Train on adversarial or noisy rows, add weight decay, drop features that carry much "
        "weight and little signal, or reject rows near the decision boundary."
    )

    def __post_init__(self) -> None:
        if self.eps is not None:
            positive(self.eps, "eps")
        if self.norm not in _NORMS:
            raise ValueError(f"norm must be one of {_NORMS}, got {self.norm!r}")
        share(self.min_robust_accuracy, "min_robust_accuracy")
        whole(self.max_rows, "max_rows")

    def run(self, case: Case) -> Outcome:
        """Judge the interval of the robust accuracy."""
        from trustml.robustness import robustness_curve

        if case.model.task != "classification":
            raise Skip(f"Attacks change classes, and this model does {case.model.task}.")
        if not case.model.differentiable:
            raise Skip(
                "The model only predicts: attacks need gradients. A torch module, a linear model "
                "or an MLP has them."
            )
        rows = case.sample(self.max_rows, salt=1)
        model, X, y, unit = _attackable(case, rows)
        eps = self.eps if self.eps is not None else _default_eps(case, self.norm, X)
        curve = robustness_curve(
            model,
            X,
            y,
            self.norm,
            [eps * share_ for share_ in _GRID],
            method=self.method,
            level=case.level,
            random_state=case.random_state,
        )
        right, n = case.correct[rows], len(rows)
        here = int(np.argmin(np.abs(curve.eps - eps)))
        kept = int(curve.per_example[:, here].sum())
        robust = at_least(
            f"robust accuracy at eps = {eps:.3g} ({unit})",
            clopper_pearson(kept, n, case.level),
            self.min_robust_accuracy,
            n,
        )
        clean = clopper_pearson(int(right.sum()), n, case.level)
        return Outcome(
            summary=self._sentence(robust, clean.estimate, eps, unit),
            findings=(robust, shown("accuracy without attack, same rows", clean, n)),
            figures=(self._figure(curve, clean, eps, unit),),
            parameters={
                "eps": float(eps),
                "unit of eps": unit,
                "attack": curve.method,
                "rows attacked": n,
            },
        )

    def _sentence(self, robust: Finding, clean: float, eps: float, unit: str) -> str:
        said = (
            f"Of {clean:.3f} accuracy without attack, {robust.estimate:.3f} "
            f"[{robust.low:.3f}, {robust.high:.3f}] is left at {self.norm} budget {eps:.3g} "
            f"({unit})"
        )
        if robust.verdict is Verdict.PASS:
            return f"{said}; {self.min_robust_accuracy:g} is required."
        if robust.verdict is Verdict.FAIL:
            return f"{said}, less than the {self.min_robust_accuracy:g} that is required."
        return f"{said}; that may be on either side of {self.min_robust_accuracy:g}."

    def _figure(self, curve: Any, clean: Any, eps: float, unit: str) -> Figure:
        return Figure(
            "robustness_curve",
            {
                "eps": [0.0, *curve.eps],
                "accuracy": [clean.estimate, *curve.estimate],
                "low": [clean.low, *curve.low],
                "high": [clean.high, *curve.high],
                "at": eps,
                "required": self.min_robust_accuracy,
                "unit": unit,
            },
            "Accuracy under attack",
            f"Attack {curve.method}, {self.norm} norm, with exact intervals. A stronger attack "
            "could only lower the curve.",
        )


class _InStandardDeviations(nn.Module):
    """The model as a function of standardised inputs, so that one budget fits every feature."""

    centre: Tensor
    scale: Tensor

    def __init__(self, module: nn.Module, centre: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.module = module
        self.register_buffer("centre", centre)
        self.register_buffer("scale", scale)

    def forward(self, z: Tensor) -> Any:
        return self.module(z * self.scale + self.centre)


def _attackable(case: Case, rows: NDArray[np.intp]) -> tuple[Model, Any, Any, str]:
    """Return a model with bounds, its rows and their labels, and the unit of eps."""
    model, X = case.model, take_rows(case.X, rows)
    if model.bounds is not None:
        return model, X, case.y[rows], "input units"
    every = model.inputs(case.X)
    if not isinstance(every, Tensor) or not every.is_floating_point():
        raise Skip("The model takes no single block of numbers that could be changed a little.")
    if tuple(every.shape[1:]) != case.row_shape:
        raise Skip("Encoded columns have no small changes; wrap the model without its encoder.")
    centre, scale = every.mean(0), every.std(0)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    standard = (every - centre) / scale
    low, high = standard.amin(0) - 1, standard.amax(0) + 1
    rescaled = wrap(
        _InStandardDeviations(model.module, centre, scale),
        task="classification",
        bounds=(low, high),
    )
    chosen = torch.as_tensor(rows, device=every.device)
    return rescaled, standard[chosen], case.label_index[rows], "standard deviations"


def _default_eps(case: Case, norm: str, X: Any) -> float:
    size = int(np.prod(X.shape[1:]))
    if case.model.bounds is None:
        base = _SHARE_OF_SD
    else:
        low, high = (np.asarray(to_numpy(b), dtype=np.float64) for b in case.model.bounds)
        width: NDArray[np.float64] = high - low
        if not np.isfinite(width).all() or np.ptp(width) > 1e-9 * float(np.max(np.abs(width))):
            raise Skip("The features have different ranges: set eps in the unit of the inputs.")
        base = _SHARE_OF_RANGE * float(np.max(width))
    return base * math.sqrt(size) if norm == "l2" else base
