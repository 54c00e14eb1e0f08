"""Gaussians of features with one shared covariance, through the engine's operator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trustml.ihvp import Covariance, Dense, Factorization, factorize
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

    def squared_distance(self, features: Tensor) -> Tensor:
        """Return the squared Mahalanobis distance to the nearest mean, shape (n,), >= 0."""
        # |z-m|² - |z-c|² is linear in z: k inner products find the nearest mean; its distance
        # is then taken without cancellation.
        nearest = self.means[self.compared(features).argmin(dim=1)]
        return self.inverse.quadratic_form((features - nearest).T).clamp_min(0)

    def compared(self, features: Tensor) -> Tensor:
        """Return squared distances (n, k) to the means, less that to the centre."""
        return self.spread - 2 * (features - self.centre) @ self.to_means


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

    def covariance(self, who: str) -> Covariance:
        """Return the covariance within classes; ``who`` is named in errors."""
        if isinstance(self.shrinkage, str):
            rows, labels = torch.cat(self.kept), torch.cat(self.labels)
            return checked(Covariance(rows, labels, self.shrinkage), self.moments, who)
        return checked(Covariance.of(self.moments, self.shrinkage), self.moments, who)

    def finish(self, who: str) -> Gaussians:
        """Return the Gaussians of all rows so far."""
        return Gaussians.of(self.covariance(who))


@dataclass(frozen=True)
class Background:
    """One Gaussian of all classes together, seen from the Gaussians of the classes.

    Its covariance is that within classes plus that of the class means, Σ₀ = Σ + U diag(π) U',
    so by Woodbury the difference of the squared distances to the centre takes k numbers a row:
    with v = U'Σ⁻¹(z - c), it is v' (diag(1/π) + U'Σ⁻¹U)⁻¹ v.
    """

    inner: Factorization

    @classmethod
    def of(cls, gaussians: Gaussians, counts: Tensor) -> Background:
        """Factorise the k by k matrix; ``counts`` (k,) are the rows of each class."""
        offsets = gaussians.means - gaussians.centre
        inner = offsets @ gaussians.to_means
        inner = (inner + inner.T) / 2 + torch.diag(counts.sum() / counts)
        return cls(factorize(Dense(inner), tol=_TOLERANCE))

    def nearer(self, gaussians: Gaussians, features: Tensor) -> Tensor:
        """Return (n,): squared distance to the centre under Σ, less that under Σ₀; >= 0."""
        v = (features - gaussians.centre) @ gaussians.to_means
        return self.inner.quadratic_form(v.T).clamp_min(0)


def checked(covariance: Covariance, moments: Moments, who: str) -> Covariance:
    """Return a covariance within classes, or say what rows it lacks; ``who`` is named."""
    n, classes = moments.n, int(moments.counts.count_nonzero())
    if n <= classes:
        raise ValueError(
            f"{who} needs more rows than classes to estimate a covariance, got {n} rows of "
            f"{classes} classes; give fit more rows"
        )
    if not covariance.diagonal().sum() > 0:
        raise UnsuitableError(
            f"{who} needs features that vary within a class, but all rows of fit have the same; "
            "check the model's last hidden layer, or fit on other rows"
        )
    return covariance
