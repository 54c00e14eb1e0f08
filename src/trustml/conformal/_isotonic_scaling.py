"""Isotonic calibration."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trustml.conformal._scaling import Calibrator, normalised


class IsotonicScaling(Calibrator):
    """Each class's probability through the best increasing function, then normalised.

    Scikit-learn's isotonic regression of "is this class" on the class's probability, linear
    between calibration rows. Needs some thousand rows; with fewer, `VennAbers` says how little is
    known, and `TemperatureScaling` has less to learn.

    Parameters
    ----------
    model : Model or what `trustml.wrap` takes
        A classifier.

    Attributes
    ----------
    model_ : Model
        The wrapped model.
    classes_ : array of shape (c,)
        Labels in the order of the columns.
    maps_ : list of sklearn.isotonic.IsotonicRegression
        One for each class.

    References
    ----------
    Zadrozny and Elkan (2002), Transforming classifier scores into accurate multiclass
    probability estimates.

    Examples
    --------
    >>> import trustml
    >>> p = [[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8]]
    >>> cal = IsotonicScaling(trustml.precomputed("probabilities")).fit(p, [0, 1, 0, 1])
    >>> cal.predict_proba([[0.4, 0.6]])
    array([[0.5, 0.5]])
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def _learn(self, logits: Tensor, index: Tensor) -> None:
        from sklearn.isotonic import IsotonicRegression

        p, labels = logits.softmax(dim=1).cpu().numpy(), index.cpu().numpy()
        self.maps_ = [
            IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(column, labels == k)
            for k, column in enumerate(p.T)
        ]

    def _calibrated(self, logits: Tensor) -> Tensor:
        p = logits.softmax(dim=1)
        columns = zip(p.T.cpu().numpy(), self.maps_, strict=True)
        mapped = [torch.from_numpy(found.predict(column)) for column, found in columns]
        return normalised(torch.stack(mapped, dim=1).to(p.device))
