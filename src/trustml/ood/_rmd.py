"""Relative Mahalanobis distance."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from trustml.model import Model, Observation
from trustml.ood._detector import Detector
from trustml.ood._gaussian import RunningGaussians
from trustml.ood._seen import UnsuitableError, as_double, unit_rows


class RelativeMahalanobis(Detector):
    r"""How much better the nearest class explains the features than one Gaussian does.

    .. math:: s(z) = \min_k d_\Sigma(z, \mu_k)^2 - d_{\Sigma_0}(z, \mu_0)^2

    with class means :math:`\mu_k`, the shared within-class covariance :math:`\Sigma`, and the
    mean and covariance :math:`(\mu_0, \Sigma_0)` of all features. No unit; may be negative.
    Strong on near-distribution rows. Without shrinkage the difference is blind to all
    directions in which no class differs, so weak on pure noise; the covariance of all features
    has the larger mean eigenvalue and so the larger ridge, which keeps part of that distance.

    Parameters
    ----------
    model : Model or estimator
        A classifier with features.
    shrinkage : float in [0, 1] or "ledoit-wolf"
        Of both covariances, relative to their mean eigenvalues, as in `Mahalanobis`.
    normalize : bool
        Scale each row of features to length 1 first.

    References
    ----------
    Ren et al. (2021), A simple fix to Mahalanobis distance for improving near-OOD detection,
    arXiv:2106.09022.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = RelativeMahalanobis(LogisticRegression(max_iter=1000).fit(X, y)).fit(X, y)
    >>> det.score(X[:2]).shape
    (2,)
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "labels"})

    def __init__(self, model: Any, shrinkage: float | str = 1e-3, normalize: bool = False) -> None:
        self.model = model
        self.shrinkage = shrinkage
        self.normalize = normalize

    def _update(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        if not hasattr(self, "running_"):
            self.running_ = RunningGaussians(self.shrinkage)
        self.running_.update(self._features(observation), labels)

    def _finish(self, model: Model) -> None:
        name, counts = type(self).__name__, self.running_.moments.counts
        if counts.count_nonzero() < 2:
            raise UnsuitableError(
                f"{name} compares classes and needs rows of at least two, got one; with one "
                "class use Mahalanobis"
            )
        self.gaussians_ = self.running_.finish(name)
        self.background_ = self.running_.finish(name, pooled=True)

    def _score(self, observation: Observation) -> Tensor:
        features = self._features(observation)
        nearest = self.gaussians_.score(features)
        return nearest - self.background_.score(features)

    def _features(self, observation: Observation) -> Tensor:
        features = as_double(observation.features)
        return unit_rows(features) if self.normalize else features
