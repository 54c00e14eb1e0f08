"""Temperature and vector scaling."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trustml.conformal._scaling import Calibrator
from trustml.warnings import ConvergenceWarning

_WIDEST = 1e4  # temperatures beyond it, or below its inverse, are as good as infinite and zero


class TemperatureScaling(Calibrator):
    """Probabilities softmax(logits / T), T the one that makes the calibration labels likeliest.

    The order of the classes, and so the accuracy, stays. The likelihood is concave in 1 / T, whose
    only root is found in float64.

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
    temperature_ : float
        T; above 1 the model was too sure.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger (2017), On calibration of modern neural networks,
    arXiv:1706.04599.

    Examples
    --------
    >>> import numpy as np
    >>> import trustml
    >>> rng = np.random.default_rng(0)
    >>> logits = rng.normal(size=(5000, 3))
    >>> y = (logits + rng.gumbel(size=(5000, 3))).argmax(1)
    >>> cal = TemperatureScaling(trustml.precomputed("logits")).fit(4 * logits, y)
    >>> bool(abs(cal.temperature_ - 4) < 0.3)
    True
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def _learn(self, logits: Tensor, index: Tensor) -> None:
        from scipy.optimize import brentq

        centred = logits - logits.gather(1, index[:, None])

        def slope(log_inverse: float) -> float:
            """Return the derivative of the mean loss by 1 / T; it grows with 1 / T."""
            shares = (centred * math.exp(log_inverse)).softmax(dim=1)
            return float((shares * centred).sum(dim=1).mean())

        end = math.log(_WIDEST)
        if slope(-end) < 0 < slope(end):
            root = float(brentq(slope, -end, end, xtol=1e-12))
        else:
            root = -end if slope(-end) >= 0 else end
            what = (
                "the true labels are no likelier than others, so the best temperature is infinite"
                if root < 0
                else "every label is predicted, so the best temperature is zero"
            )
            warnings.warn(
                f"{what}; it is held at {math.exp(-root):g}. Calibrate on more rows.",
                ConvergenceWarning,
                stacklevel=3,
            )
        self.temperature_ = math.exp(-root)

    def _calibrated(self, logits: Tensor) -> Tensor:
        return (logits / self.temperature_).softmax(dim=1)


class VectorScaling(Calibrator):
    """Probabilities softmax(w * logits + b), a weight and a bias for every class.

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
    weight_, bias_ : ndarrays of shape (c,)
        w and b, found by L-BFGS in float64; the biases sum to zero.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger (2017), On calibration of modern neural networks,
    arXiv:1706.04599, section 4.2.

    Examples
    --------
    >>> import numpy as np
    >>> import trustml
    >>> rng = np.random.default_rng(0)
    >>> logits = rng.normal(size=(5000, 3))
    >>> y = (logits + [1.0, 0.0, -1.0] + rng.gumbel(size=(5000, 3))).argmax(1)
    >>> cal = VectorScaling(trustml.precomputed("logits")).fit(logits, y)
    >>> bool(np.abs(cal.bias_ - [1, 0, -1]).max() < 0.2)
    True
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def _learn(self, logits: Tensor, index: Tensor) -> None:
        from scipy.optimize import minimize

        z, labels = logits.cpu().numpy(), index.cpu().numpy()
        n, c = z.shape
        truth = np.zeros((n, c))
        truth[np.arange(n), labels] = 1.0

        def loss(packed: np.ndarray) -> tuple[float, np.ndarray]:
            scaled = torch.from_numpy(z * packed[:c] + packed[c:]).log_softmax(dim=1).numpy()
            gap = (np.exp(scaled) - truth) / n
            slope = np.concatenate([(gap * z).sum(axis=0), gap.sum(axis=0)])
            return -float(scaled[np.arange(n), labels].mean()), slope

        start = np.concatenate([np.ones(c), np.zeros(c)])
        found = minimize(
            loss, start, jac=True, method="L-BFGS-B",
            options={"maxiter": 1000, "ftol": 1e-14, "gtol": 1e-7},
        )  # fmt: skip
        steepest = float(np.abs(found.jac).max())
        if steepest > 1e-4:
            warnings.warn(
                f"vector scaling stopped with a slope of {steepest:.2g}: {found.message}; "
                "use TemperatureScaling, or more calibration rows",
                ConvergenceWarning,
                stacklevel=3,
            )
        self.weight_, self.bias_ = found.x[:c], found.x[c:] - found.x[c:].mean()

    def _calibrated(self, logits: Tensor) -> Tensor:
        weight = torch.from_numpy(self.weight_).to(logits.device)
        bias = torch.from_numpy(self.bias_).to(logits.device)
        return (logits * weight + bias).softmax(dim=1)
