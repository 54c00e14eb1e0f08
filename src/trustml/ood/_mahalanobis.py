"""Mahalanobis distance."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from trustml.model import Model, Observation
from trustml.ood._detector import KeepsRows
from trustml.ood._gaussian import fit_gaussians
from trustml.ood._seen import as_double, unit_rows


class Mahalanobis(KeepsRows):
    r"""Squared Mahalanobis distance of the features to the nearest class mean.

    .. math:: s(z) = \min_k (z - \mu_k)^\top \Sigma^{-1} (z - \mu_k)

    with class means :math:`\mu_k` and the shared within-class covariance :math:`\Sigma` of the
    input of the model's last linear layer. No unit; at least 0. Regression models, and
    features without labels, get one Gaussian.

    Parameters
    ----------
    model : Model or estimator
        A model with features.
    shrinkage : float in [0, 1] or "ledoit-wolf"
        :math:`\Sigma = (1 - s) S + s\, \bar\lambda I` with the mean eigenvalue
        :math:`\bar\lambda` of the empirical :math:`S`: relative, so scores do not depend on
        the unit of the features.
    normalize : bool
        Scale each row of features to length 1 first ("Mahalanobis++"): better where the norm
        of the features varies much from row to row.

    References
    ----------
    Lee, Lee, Lee and Shin (2018), A simple unified framework for detecting out-of-distribution
    samples and adversarial attacks, arXiv:1807.03888.
    Mueller and Hein (2025), Mahalanobis++: improving OOD detection via feature normalization,
    arXiv:2505.18032.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = Mahalanobis(LogisticRegression(max_iter=1000).fit(X, y)).fit(X, y)
    >>> bool(det.score(X + 5.0).min() > det.score(X).max())
    True
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    def __init__(self, model: Any, shrinkage: float | str = 1e-3, normalize: bool = False) -> None:
        self.model = model
        self.shrinkage = shrinkage
        self.normalize = normalize

    def _fit(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        features = self._features(observation)
        self.gaussians_ = fit_gaussians(features, labels, self.shrinkage, type(self).__name__)

    def _score(self, observation: Observation) -> Tensor:
        return self.gaussians_.squared_distance(self._features(observation))

    def _features(self, observation: Observation) -> Tensor:
        features = as_double(observation.features)
        return unit_rows(features) if self.normalize else features
