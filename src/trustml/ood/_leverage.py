"""Leverage of features: the regret of a linear model that had seen the row."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor

from trustml.ihvp import Dense, Factorization, factorize
from trustml.model import Model, Observation
from trustml.ood._detector import Detector
from trustml.ood._seen import UnsuitableError, as_double


class Leverage(Detector):
    r"""Leverage of the features among those of the rows of ``fit``.

    .. math:: s(x) = \phi^\top (\Phi^\top \Phi + \lambda I)^{-1} \phi

    It is the last-layer Laplace variance of a Gaussian likelihood, 1/n of the squared Mahalanobis
    distance from the origin, and :math:`\log(1 + s)` is the regret of the predictive normalised
    maximum likelihood (pNML) learner of linear regression: by how much a model that had been told
    the row's label would beat any that had not.

    Parameters
    ----------
    model : Model or estimator
        Any that gives features.
    shrinkage : float
        :math:`\lambda` as a part of the mean diagonal entry of :math:`\Phi^\top \Phi`, at least
        0; 0 takes the pseudo-inverse. Scores do not depend on the features' scale.

    Attributes
    ----------
    n_rows_ : int
        Rows of ``fit``.

    References
    ----------
    Bibas, Fogel and Feder (2019), A new look at an old problem: a universal learning approach to
    linear regression, arXiv:1905.04708. Bibas, Feder and Hassner (2021), Single layer predictive
    normalized maximum likelihood for out-of-distribution detection, arXiv:2110.09246.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = Leverage(LogisticRegression(max_iter=1000).fit(X, y), shrinkage=0.0).fit(X)
    >>> round(float(det.score(X).sum()), 6)  # the trace of the hat matrix
    4.0
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    moments_: Tensor
    inverse_: Factorization

    def __init__(self, model: Any, shrinkage: float = 1e-3) -> None:
        self.model = model
        self.shrinkage = shrinkage

    def _update(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        if not (isinstance(self.shrinkage, (int, float)) and 0 <= self.shrinkage < math.inf):
            raise ValueError(f"shrinkage must be a number of at least 0, got {self.shrinkage!r}")
        features = as_double(observation.features)
        if not hasattr(self, "moments_"):
            self.moments_ = features.new_zeros(features.shape[1], features.shape[1])
            self.n_rows_ = 0
        self.moments_ = self.moments_ + features.T @ features
        self.n_rows_ += len(features)

    def _finish(self, model: Model) -> None:
        level = float(self.moments_.diagonal().mean())
        if level == 0:
            raise UnsuitableError(
                "Leverage needs features that are not all zero; check the model's last hidden "
                "layer, or fit on other rows"
            )
        # In units of the mean entry: what overflows or vanishes elsewhere does not here.
        scaled = Dense(self.moments_ / level, is_psd=True) + float(self.shrinkage)
        self.inverse_ = factorize(scaled, method="cholesky")
        self.level_ = level

    def _score(self, observation: Observation) -> Tensor:
        columns = as_double(observation.features).T / math.sqrt(self.level_)
        return self.inverse_.quadratic_form(columns).clamp_min(0)
