"""Density of the features under one Gaussian a class."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trustml.ihvp import Covariance, Factorization, factorize
from trustml.ihvp.covariance import Moments
from trustml.ood._gaussian import checked
from trustml.ood._layered import Layered
from trustml.ood._layers import LayerChoice


class Gmm(Layered):
    r"""Minus the log density of the features under a mixture of one Gaussian a class.

    .. math:: s(z) = -\log \sum_k \pi_k\, \mathcal{N}(z; \mu_k, \Sigma_k)

    with the share :math:`\pi_k`, mean and full covariance of each class (the density of "deep
    deterministic uncertainty"). In nats; the unit of volume is that of the mean variance within
    classes, so scores do not depend on the unit of the features. Regression models, and
    features without labels, get one Gaussian. Of several layers, the sum of their scores.
    Memory is k D² for k classes, whatever the number of rows.

    Parameters
    ----------
    model : Model or estimator
        A model with features.
    shrinkage : float in [0, 1]
        :math:`\Sigma_k = (1 - s) S_k + s\, \bar\lambda_k I` with the mean eigenvalue
        :math:`\bar\lambda_k` of the empirical :math:`S_k`. A class whose rows do not vary, such
        as one of a single row, takes the covariance within all classes.
    normalize : bool
        Scale each row of features to length 1 first.
    layers : None, "auto" or sequence of str
        As in `Mahalanobis`: None reads the features, "auto" the end of each stage.

    Attributes
    ----------
    layers_ : list of str
        The inner layers that are read; empty where it is the features.

    References
    ----------
    Mukhoti, Kirsch, van Amersfoort, Torr and Gal (2023), Deep deterministic uncertainty: a new
    simple baseline, arXiv:2102.11582.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = Gmm(LogisticRegression(max_iter=1000).fit(X, y)).fit(X, y)
    >>> bool(det.score(X + 5.0).min() > det.score(X).max())
    True
    """

    def __init__(
        self,
        model: Any,
        shrinkage: float = 0.05,
        normalize: bool = False,
        layers: LayerChoice = None,
    ) -> None:
        self.model = model
        self.shrinkage = shrinkage
        self.normalize = normalize
        self.layers = layers

    def _running(self) -> _Running:
        return _Running(self.shrinkage)


class _Running:
    """The moments of each class."""

    def __init__(self, shrinkage: float) -> None:
        self.shrinkage = shrinkage
        self.classes: dict[int, Moments] = {}

    def update(self, features: Tensor, labels: Tensor | None) -> None:
        if labels is None:
            self.classes.setdefault(0, Moments()).update(features)
            return
        for k in torch.unique(labels).tolist():
            self.classes.setdefault(k, Moments()).update(features[labels == k])

    def finish(self, who: str) -> Mixture:
        parts = [moments for _, moments in sorted(self.classes.items())]
        joined = Moments.join(parts)
        within = checked(Covariance.of(joined, self.shrinkage), joined, who)
        # Of many rows an exact mean is rounding away from each of them.
        rounding = 1e-20 * float(within.diagonal().sum())
        own = [Covariance.of(moments, self.shrinkage) for moments in parts]
        covariances = [S if float(S.diagonal().sum()) > rounding else within for S in own]
        inverses = [factorize(covariance, "cholesky") for covariance in covariances]
        d, log_unit = within.size, math.log(float(within.diagonal().mean()))
        log_dets = [
            inverse.logdet() + d * (math.log(2 * math.pi) - log_unit) for inverse in inverses
        ]
        shares = joined.counts / joined.n
        return Mixture(within.means, inverses, shares.log() - 0.5 * shares.new_tensor(log_dets))


@dataclass(frozen=True)
class Mixture:
    """Gaussians with a covariance each.

    Attributes
    ----------
    means : Tensor of shape (k, d)
        float64.
    inverses : list of Factorization
        Of the k covariances.
    levels : Tensor of shape (k,)
        Log share plus the log of the density at the mean.
    """

    means: Tensor
    inverses: list[Factorization]
    levels: Tensor

    def score(self, features: Tensor) -> Tensor:
        """Return minus the log densities (n,) of float64 rows."""
        forms = [
            inverse.quadratic_form((features - mean).T).clamp_min(0)
            for inverse, mean in zip(self.inverses, self.means, strict=True)
        ]
        return -torch.logsumexp(self.levels - 0.5 * torch.stack(forms, dim=1), dim=1)
