"""Generalised entropy."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from trustml.core.validation import check_positive_int
from trustml.model import Model, Observation
from trustml.ood._detector import Detector
from trustml.ood._log_probabilities import log_complements, log_probabilities


class Gen(Detector):
    r"""Generalised entropy of the largest class probabilities.

    .. math:: s(x) = \sum_{c \le M} p_{(c)}^\gamma \,(1 - p_{(c)})^\gamma

    over the M largest probabilities. A small :math:`\gamma` hears small departures from
    certainty that the entropy does not. Computed from logarithms: sure rows, for which 1 - p
    rounds to zero, do not tie. No unit; at least 0.

    Parameters
    ----------
    model : Model or estimator
        A classifier; needs predictions only.
    gamma : float in (0, 1)
        The exponent.
    top : int
        M, at most the number of classes: more counts as all.

    References
    ----------
    Liu, Lochman and Zach (2023), GEN: pushing the limits of softmax-based out-of-distribution
    detection, CVPR.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = Gen(LogisticRegression(max_iter=1000).fit(X, y)).fit(X)
    >>> det.score(X[:2]).shape
    (2,)
    """

    needs: ClassVar[frozenset[str]] = frozenset({"probabilities"})

    def __init__(self, model: Any, gamma: float = 0.1, top: int = 100) -> None:
        self.model = model
        self.gamma = gamma
        self.top = top

    def _finish(self, model: Model) -> None:
        if not 0 < float(self.gamma) < 1:
            raise ValueError(f"gamma must be in (0, 1), got {self.gamma!r}")
        self.gamma_, self.top_ = float(self.gamma), check_positive_int(self.top, "top")

    def _score(self, observation: Observation) -> Tensor:
        log_p = log_probabilities(observation)
        terms = log_p + log_complements(log_p)
        largest = log_p.topk(min(self.top_, log_p.shape[1]), dim=1).indices
        return (self.gamma_ * terms.gather(1, largest)).exp().sum(dim=1)
