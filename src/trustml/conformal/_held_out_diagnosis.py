"""How far predicted held-out residuals are from those of real refits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trustml.conformal._regression import measured, predicted
from trustml.core.batches import Data
from trustml.core.progress import track
from trustml.core.validation import check_positive_int
from trustml.model import Model


@dataclass(frozen=True, eq=False)
class HeldOutDiagnosis:
    """Held-out residuals without refits beside those of real training.

    Attributes
    ----------
    rows : ndarray of shape (k,)
        The training rows that were looked at.
    residuals, refitted, in_sample : ndarray of shape (k,)
        Their absolute residuals: predicted without refits, by models trained without them, and
        by the model that has seen them. In the unit of y.
    """

    rows: np.ndarray
    residuals: np.ndarray
    refitted: np.ndarray
    in_sample: np.ndarray

    @property
    def mean_gap(self) -> float:
        """Mean absolute difference of the predicted and the refitted residuals."""
        return float(np.abs(self.residuals - self.refitted).mean())

    @property
    def relative_gap(self) -> float:
        """``mean_gap`` over that of the in-sample residuals: 0 exact, 1 no better than these."""
        uncorrected = float(np.abs(self.in_sample - self.refitted).mean())
        return self.mean_gap / uncorrected if uncorrected > 0 else 0.0


def diagnosed(
    model: Model, groups: Sequence[np.ndarray], residuals: np.ndarray, n_points: int
) -> HeldOutDiagnosis:
    """Train anew without each of a few groups of rows, evenly spaced among all.

    Parameters
    ----------
    model : Model
        With its training rows, and a way to train it.
    groups : list of ndarray
        Rows that are held out together.
    residuals : ndarray of shape (n,)
        What is to be judged.
    n_points : int
        How many groups are looked at; one refit each.

    Returns
    -------
    HeldOutDiagnosis
    """
    train: Data = model.train  # type: ignore[assignment]
    few = np.linspace(0, len(groups) - 1, check_positive_int(n_points, "n_points")).astype(int)
    chosen, y, every = np.unique(few), measured(model, train.targets), np.arange(len(train))
    refitted = np.empty(len(train))
    for g in track(chosen, "diagnose: refits", len(chosen)):
        without = model.retrain(np.setdiff1d(every, groups[g]))
        refitted[groups[g]] = np.abs(
            y[groups[g]] - predicted(without, train.subset(groups[g]).inputs)
        )
    rows = np.concatenate([groups[g] for g in chosen])
    in_sample = np.abs(y - predicted(model, train))
    return HeldOutDiagnosis(rows, residuals[rows], refitted[rows], in_sample[rows])
