"""Gaussians of features with one shared covariance, through the engine's operator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trustml.ihvp import Covariance, Factorization, factorize
from trustml.ihvp.covariance import Moments
from trustml.ood._seen import UnsuitableError

_TOLERANCE = 1e-10  # should the engine prefer an iteration


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

    @classmethod
    def of(cls, covariance: Covariance) -> Gaussians:
        """Factorise a covariance, and compare its means with their centre."""
        inverse = factorize(covariance, tol=_TOLERANCE)
        offsets = (covariance.means - covariance.mean).T
        to_means = inverse.solve(offsets).x
        spread = (offsets * to_means).sum(dim=0)
        return cls(covariance.means, covariance.mean, inverse, to_means, spread)

    def score(self, features: Tensor) -> Tensor:
        """Return the squared Mahalanobis distance to the nearest mean, shape (n,), >= 0."""
        # |z-m|² - |z-c|² is linear in z: k inner products find the nearest mean; its distance
        # is then taken without cancellation.
        compared = self.spread - 2 * (features - self.centre) @ self.to_means
        nearest = self.means[compared.argmin(dim=1)]
        return self.inverse.quadratic_form((features - nearest).T).clamp_min(0)


class RunningGaussians:
    """Gaussians that are learnt batch by batch.

    Memory is O(h² + batch); the shrinkage of Ledoit and Wolf depends on fourth moments, so for
    it the rows are kept.

    Parameters
    ----------
    shrinkage : float in [0, 1] or "ledoit-wolf"
        As for ``Covariance``.
    """

    def __init__(self, shrinkage: float | str) -> None:
        self.shrinkage = shrinkage
        self.moments = Moments()
        self.kept: list[Tensor] = []
        self.labels: list[Tensor] = []

    def update(self, features: Tensor, labels: Tensor | None) -> None:
        """Learn from float64 rows (b, h), and class indices if there are classes."""
        if isinstance(self.shrinkage, str):
            self.kept.append(features)
            self.labels.append(torch.zeros(len(features)).long() if labels is None else labels)
        self.moments.update(features, labels)

    def covariance(self, who: str, *, pooled: bool = False) -> Covariance:
        """Return the covariance within classes, or of all rows; ``who`` is named in errors."""
        moments = self.moments.pooled() if pooled else self.moments
        if isinstance(self.shrinkage, str):
            labels = None if pooled else torch.cat(self.labels)
            return checked(Covariance(torch.cat(self.kept), labels, self.shrinkage), moments, who)
        return checked(Covariance.of(moments, self.shrinkage), moments, who)

    def finish(self, who: str, *, pooled: bool = False) -> Gaussians:
        """Return the Gaussians of all rows so far, or one of all rows together."""
        return Gaussians.of(self.covariance(who, pooled=pooled))


def checked(covariance: Covariance, moments: Moments, who: str) -> Covariance:
    """Return a covariance within classes, or say what rows it lacks; ``who`` is named."""
    n, classes = moments.n, int(moments.counts.count_nonzero())
    if n <= classes:
        raise UnsuitableError(
            f"{who} needs more rows than classes to estimate a covariance, got {n} rows of "
            f"{classes} classes; give fit more rows"
        )
    if not covariance.diagonal().sum() > 0:
        raise UnsuitableError(
            f"{who} needs features that vary within a class, but all rows of fit have the same; "
            "check the model's last hidden layer, or fit on other rows"
        )
    return covariance
