"""Free energy of the logits."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor

from trustml.model import Model, Observation
from trustml.ood._detector import Detector
from trustml.ood._seen import balanced_logits


class Energy(Detector):
    r"""Free energy of the logits, :math:`-T \log \sum_c \exp(f_c / T)`; in their unit.

    The one logit f of a binary model counts as :math:`(-f/2, f/2)`: the energy is not
    invariant to a shift of the logits, and with the equally valid :math:`(0, f)` every row of
    the first class would look out of distribution.

    Parameters
    ----------
    model : Model or estimator
        A classifier with logits.
    temperature : float
        T > 0.

    References
    ----------
    Liu, Wang, Owens and Li (2020), Energy-based out-of-distribution detection,
    arXiv:2010.03759.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = Energy(LogisticRegression(max_iter=1000).fit(X, y)).fit(X)
    >>> det.score(X[:2]).shape
    (2,)
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def __init__(self, model: Any, temperature: float = 1.0) -> None:
        self.model = model
        self.temperature = temperature

    def _finish(self, model: Model) -> None:
        temperature = float(self.temperature)
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be a positive number, got {self.temperature!r}")
        self.temperature_ = temperature

    def _score(self, observation: Observation) -> Tensor:
        scaled = balanced_logits(observation) / self.temperature_
        return -self.temperature_ * scaled.logsumexp(dim=1)
