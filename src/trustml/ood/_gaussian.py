"""Squared distances to Gaussians, through the engine's covariance operator."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from trustml.ihvp import Covariance, Factorization, factorize
from trustml.ood._seen import UnsuitableError, n_classes


@dataclass(frozen=True)
class Gaussians:
    """Class means with one shared covariance; or one mean, if there are no labels.

    Attributes
    ----------
    means : Tensor of shape (k, h)
        float64.
    centre : Tensor of shape (h,)
        Mean of all rows.
    inverse : Factorization
        Of the shrunk within-class covariance.
    to_means : Tensor of shape (h, k)
        Inverse covariance times (means - centre).
    spread : Tensor of shape (k,)
        Squared distances of the means from the centre.
    """

    means: Tensor
    centre: Tensor
    inverse: Factorization
    to_means: Tensor
    spread: Tensor

    def squared_distance(self, features: Tensor) -> Tensor:
        """Return the squared Mahalanobis distance to the nearest mean, shape (n,), >= 0."""
        # |z-m|² - |z-c|² is linear in z: k inner products find the nearest mean; its distance
        # is then taken without cancellation.
        compared = self.spread - 2 * (features - self.centre) @ self.to_means
        nearest = self.means[compared.argmin(dim=1)]
        return self.inverse.quadratic_form((features - nearest).T).clamp_min(0)


def fit_gaussians(
    features: Tensor, labels: Tensor | None, shrinkage: float | str, who: str
) -> Gaussians:
    """Estimate the Gaussians of float64 features; ``who`` is named in errors."""
    n_means = 1 if labels is None else n_classes(labels)
    if len(features) <= n_means:
        raise ValueError(
            f"{who} needs more rows than classes to estimate a covariance, got {len(features)} "
            f"rows of {n_means} classes; give fit more rows"
        )
    covariance = Covariance(features, labels, shrinkage=shrinkage)
    if not covariance.diagonal().sum() > 0:
        raise UnsuitableError(
            f"{who} needs features that vary within a class, but all rows of fit have the same; "
            "check the model's last hidden layer, or fit on other rows"
        )
    inverse = factorize(covariance)
    centre = covariance.mean
    means = covariance.means
    offsets = (means - centre).T
    to_means = inverse.solve(offsets).x
    return Gaussians(means, centre, inverse, to_means, (offsets * to_means).sum(dim=0))
