"""Maximum softmax probability after temperature scaling."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from scipy.optimize import brentq
from torch import Tensor

from trustml.model import Model, Observation
from trustml.ood._detector import KeepsRows
from trustml.ood._log_probabilities import log_complements
from trustml.ood._seen import UnsuitableError, as_double


class TemperatureScaling(KeepsRows):
    r"""One minus the largest probability of the calibrated softmax, :math:`1 - \max_c p_c(f/T)`.

    T is the temperature at which the labels of ``fit`` are likeliest, found as the root of a
    monotone function. Held-out rows with their labels calibrate; those of the training, or the
    model's own predictions, make T too small. If every row is classified as labelled no T is
    likeliest: the labels are then smoothed to :math:`(n + 1) / (n + 2)`, as Platt did. The
    score is a probability in [0, 1); the unit of the logits does not matter.

    Parameters
    ----------
    model : Model or estimator
        A classifier with logits.

    Attributes
    ----------
    temperature_ : float
        T > 0.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger (2017), On calibration of modern neural networks,
    arXiv:1706.04599.
    Platt (1999), Probabilistic outputs for support vector machines, section 2.2.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = TemperatureScaling(LogisticRegression(max_iter=1000).fit(X, y)).fit(X, y)
    >>> bool(det.temperature_ > 0)
    True
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits", "labels"})

    def __init__(self, model: Any) -> None:
        self.model = model

    def _fit(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        logits = as_double(observation.logits)
        n, c = logits.shape
        wanted = logits.new_zeros(n, c).scatter_(1, _some(labels)[:, None], 1.0)
        own = (wanted * logits).sum(dim=1)
        if bool((own >= logits.max(dim=1).values).all()):
            wanted = (1 - wanted) / ((n + 2) * (c - 1)) + wanted * (n + 1) / (n + 2)
        offsets = logits - logits.mean(dim=1, keepdim=True)
        unit = float(offsets.abs().max())
        if unit == 0 or float((wanted * offsets).sum()) <= 0:
            raise UnsuitableError(
                "TemperatureScaling finds no temperature: the logits of the labels are not above "
                "the average logit; check that y holds the labels of the rows of X"
            )
        self.temperature_ = _likeliest(offsets / unit, wanted) * unit

    def _score(self, observation: Observation) -> Tensor:
        log_p = (as_double(observation.logits) / self.temperature_).log_softmax(dim=1)
        return log_complements(log_p).min(dim=1).values.exp()


def _likeliest(logits: Tensor, wanted: Tensor) -> float:
    """Return the temperature of least cross-entropy; logits are at most 1 in size."""

    def slope(log_sharpness: float) -> float:
        """Return the derivative of the cross-entropy in 1/T: it rises with 1/T."""
        p = (logits * math.exp(log_sharpness)).softmax(dim=1)
        return float(((p - wanted) * logits).sum())

    low, high = -1.0, 1.0
    while slope(low) > 0:
        low *= 2
    while slope(high) < 0:
        high *= 2
    return math.exp(-brentq(slope, low, high, xtol=1e-13, rtol=1e-13))


def _some(labels: Tensor | None) -> Tensor:
    if labels is None:
        raise UnsuitableError("TemperatureScaling needs class labels; pass y to fit")
    return labels
