"""What weights of training rows do to a gap: predicted, after a Newton step, after a refit."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from trustml.core.results import Result
from trustml.fairness._refitting import refitted
from trustml.fairness._row_effects import damping_of
from trustml.fairness._validation import Validation
from trustml.fairness._weighted import newton
from trustml.influence import InfluenceFunctions
from trustml.warnings import TrustmlWarning

STAGES = ("before", "predicted", "newton", "refitted")
_APART = 0.25  # of the predicted change: beyond, the effects no longer add up
_NOTICED = 0.02  # of the gap before


@dataclass(frozen=True, eq=False, repr=False)
class GapPrediction(Result):
    """What weights do on the validation rows, by rising cost and honesty.

    Stages are "before" (weights of 1), "predicted" (the rows' effects added up), "newton" (measured
    at the parameters after one Newton step with the weighted curvature) and "refitted" (measured
    on a model trained with the weights).

    Attributes
    ----------
    gap : numpy.ndarray of shape (4,)
        Surrogate gap at each stage; NaN where a refit was not asked for.
    decisions : numpy.ndarray of shape (4,)
        Gap of decisions; not predicted.
    loss, accuracy : numpy.ndarray of shape (4,)
        Mean loss; accuracy (R² for regression), which is not predicted. NaN without labels.
    removed : float
        Total weight that was taken away from the rows, or added, in rows.
    mismatch : float
        How far the values after the Newton step are from the predicted ones, as a gap.
    residual : float
        Largest relative residual of the solves behind the effects.
    gradient_norm : float
        ‖∇J‖ at the model's parameters; effects assume a minimum, where it is 0.
    stationary : bool
        Whether the model counts as trained to a minimum, as in ``influence``'s certificates.
    remaining : float
        Part of the weights' pull that the Newton step leaves in the gradient.
    """

    gap: np.ndarray
    decisions: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray
    removed: float
    mismatch: float
    residual: float
    gradient_norm: float
    stationary: bool
    remaining: float

    @property
    def linear(self) -> bool:
        """Whether the effects still add up, and start at a minimum, where they are of refits."""
        return self.stationary and self.adds_up

    @property
    def adds_up(self) -> bool:
        """Whether the Newton step agrees with the prediction."""
        before, predicted = self.gap[:2]
        return bool(self.mismatch <= max(_APART * abs(before - predicted), _NOTICED * before))

    def _title(self) -> str:
        """Return the certificate; the table is of the stages."""
        state = "a" if self.stationary else "not a"
        return (
            f"Gap on validation rows, {self.removed:.4g} rows' weight moved: relative residual "
            f"{self.residual:.2g}, gradient norm {self.gradient_norm:.2g} ({state} minimum), "
            f"Newton step leaves {self.remaining:.2g} of the pull, "
            f"{'' if self.linear else 'NOT '}in the linear regime"
        )

    def _columns(self) -> dict[str, Any]:
        return {
            "stage": np.array(STAGES),
            "gap": self.gap,
            "decisions": self.decisions,
            "loss": self.loss,
            "accuracy": self.accuracy,
        }


def predict(
    influence: InfluenceFunctions,
    validation: Validation,
    effects: np.ndarray,
    loss_effects: np.ndarray | None,
    weights: np.ndarray,
    residual: float,
    refit: bool = False,
) -> GapPrediction:
    """Return what weights are predicted to do, and what they do.

    Parameters
    ----------
    influence : InfluenceFunctions
        Fitted.
    validation : Validation
        What is measured.
    effects : numpy.ndarray of shape (k, n)
        Change of each value if a row leaves.
    loss_effects : numpy.ndarray of shape (n,) or None
        Change of the mean loss if a row leaves.
    weights : numpy.ndarray of shape (n,)
        At least 0.
    residual : float
        Of the solves behind the effects.
    refit : bool
        Whether to train with the weights.

    Returns
    -------
    GapPrediction
    """
    objective = influence.objective_
    before = validation.measure(objective)
    vector, remaining = newton(influence, weights)
    after = validation.measure(objective.at(vector))
    trained = validation.measure(refitted(validation.model, weights).objective) if refit else None
    removed = 1.0 - weights
    nan = float("nan")
    loss = nan if loss_effects is None else before.loss + float(loss_effects @ removed)
    expected, gap = before.values + effects @ removed, validation.compared.gap
    return GapPrediction(
        gap=np.array(
            [
                before.gap,
                float(gap(expected)),
                after.gap,
                trained.gap if trained else nan,
            ]
        ),
        decisions=np.array(
            [before.decisions, nan, after.decisions, trained.decisions if trained else nan]
        ),
        loss=np.array([before.loss, loss, after.loss, trained.loss if trained else nan]),
        accuracy=np.array(
            [before.accuracy, nan, after.accuracy, trained.accuracy if trained else nan]
        ),
        removed=float(np.abs(removed).sum()),
        mismatch=float(gap(after.values - expected)),
        residual=residual,
        gradient_norm=float(objective.gradient().double().norm()),
        stationary=damping_of(influence).stationary,
        remaining=remaining,
    )


def warn_if_not_linear(prediction: GapPrediction, stacklevel: int = 3) -> None:
    """Say where the added effects are no prediction any more."""
    if prediction.adds_up:
        return
    warnings.warn(
        f"the linear regime is left: the effects predict a gap of {prediction.gap[1]:.3g}, a "
        f"Newton step with the weights gives {prediction.gap[2]:.3g} (before: "
        f"{prediction.gap[0]:.3g}); ask for a smaller change, or use FairInfluence.reach, which "
        "goes there by steps",
        TrustmlWarning,
        stacklevel=stacklevel + 1,
    )
