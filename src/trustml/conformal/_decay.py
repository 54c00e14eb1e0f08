"""Weights that fade with age."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from trustml.conformal._weights import Weights
from trustml.model import Model


class Decay(Weights):
    """Weights ``rate ** age`` for rows that drift: calibration rows are given oldest first.

    The last calibration row has age 1, and each new row is taken for the next one. Nothing is
    assumed of the drift: coverage is at least 1 - alpha less the sum of the weights' shares, each
    times the total variation distance that swapping its row with the new one makes.

    Parameters
    ----------
    rate : float in (0, 1]
        About 1 / (1 - rate) rows count; 1 weighs all alike.

    Attributes
    ----------
    calibration_ : ndarray of shape (n,)
        Weights of the calibration rows.

    References
    ----------
    Barber, Candès, Ramdas and Tibshirani (2023), Conformal prediction beyond exchangeability
    (NexCP), arXiv:2202.13415.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import Ridge
    >>> from trustml.conformal import WeightedRegressor
    >>> X = np.random.default_rng(0).normal(size=(500, 1))
    >>> y = np.sin(X[:, 0])
    >>> cp = WeightedRegressor(Ridge().fit(X[:100], y[:100]), Decay(0.98)).fit(X[100:], y[100:])
    >>> round(cp.effective_sample_size_)  # (1 + rate) / (1 - rate)
    99
    """

    def __init__(self, rate: float = 0.99) -> None:
        self.rate = rate

    def fit(self, model: Model, X: Any, y: np.ndarray) -> Self:
        """Weigh the calibration rows by their age.

        Returns
        -------
        Decay

        Raises
        ------
        ValueError
            If ``rate`` is not in (0, 1].
        """
        if isinstance(self.rate, str) or not 0 < self.rate <= 1:
            raise ValueError(f"rate must be in (0, 1], got {self.rate!r}")
        self.calibration_ = float(self.rate) ** np.arange(len(y), 0.0, -1.0)
        return self

    def own(self, X: Any) -> np.ndarray:
        """Return 1, the weight of age 0."""
        return np.ones((1, 1))
