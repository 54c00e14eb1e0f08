"""Relative Mahalanobis distance."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from trustml.model import Model, Observation
from trustml.ood._detector import KeepsRows
from trustml.ood._gaussian import fit_gaussians
from trustml.ood._seen import UnsuitableError, as_double, n_classes


class RelativeMahalanobis(KeepsRows):
    r"""How much better the nearest class explains the features than one Gaussian does.

    .. math:: s(z) = \min_k d_\Sigma(z, \mu_k)^2 - d_{\Sigma_0}(z, \mu_0)^2

    with class means :math:`\mu_k`, the shared within-class covariance :math:`\Sigma`, and the
    mean and covariance :math:`(\mu_0, \Sigma_0)` of all features. No unit; may be negative.
    Strong on near-distribution rows, weak on pure noise (far from both Gaussians).

    Parameters
    ----------
    model : Model or estimator
        A classifier with features.
    shrinkage : float in [0, 1] or "ledoit-wolf"
        Of both covariances, relative to their mean eigenvalues, as in `Mahalanobis`.

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

    def __init__(self, model: Any, shrinkage: float | str = 1e-3) -> None:
        self.model = model
        self.shrinkage = shrinkage

    def _fit(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        name = type(self).__name__
        if labels is None or n_classes(labels) < 2:
            raise UnsuitableError(
                f"{name} compares classes and needs rows of at least two, got one; with one "
                "class use Mahalanobis"
            )
        features = as_double(observation.features)
        self.classes_gaussians_ = fit_gaussians(features, labels, self.shrinkage, name)
        self.background_ = fit_gaussians(features, None, self.shrinkage, name)

    def _score(self, observation: Observation) -> Tensor:
        features = as_double(observation.features)
        nearest = self.classes_gaussians_.squared_distance(features)
        return nearest - self.background_.squared_distance(features)
