"""Density of the features under a mixture that knows no labels."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from trustml.model import Model, Observation
from trustml.ood._canonical import like, scale_of, sorted_rows
from trustml.ood._detector import KeepsRows
from trustml.ood._kmeans import cluster_count
from trustml.ood._seen import as_double, unit_rows


class GaussianMixture(KeepsRows):
    r"""Minus the log density of the features under a free mixture of Gaussians.

    .. math:: s(z) = -\log \sum_k w_k\, \mathcal{N}(z; m_k, C_k)

    fitted by scikit-learn's expectation maximisation from k-means clusters. In nats, of
    features whose mean variance is 1, so scores do not depend on their unit. `Gmm` takes the
    classes for the components instead, and streams.

    Parameters
    ----------
    model : Model or estimator
        A model with features.
    n_components : int or "auto"
        "auto" takes as many as there are classes, or 8 where there are none.
    ridge : float
        Added to the variances, in units of the features' mean variance; above 0.
    normalize : bool
        Scale each row of features to length 1 first.
    random_state : int
        Seed of the first clusters; the order of the rows does not matter.

    References
    ----------
    Dempster, Laird and Rubin (1977), Maximum likelihood from incomplete data via the EM
    algorithm.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = GaussianMixture(LogisticRegression(max_iter=1000).fit(X, y)).fit(X)
    >>> bool(det.score(X + 5.0).min() > det.score(X).max())
    True
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    def __init__(
        self,
        model: Any,
        n_components: int | str = "auto",
        ridge: float = 1e-2,
        normalize: bool = False,
        random_state: int = 0,
    ) -> None:
        self.model = model
        self.n_components = n_components
        self.ridge = ridge
        self.normalize = normalize
        self.random_state = random_state

    def _fit(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        from sklearn.mixture import GaussianMixture as Mixture

        if not 0 < self.ridge < math.inf:
            raise ValueError(f"ridge must be a number above 0, got {self.ridge!r}")
        features = self._features(observation)
        self.centre_, self.scale_ = scale_of(features, type(self).__name__)
        rows = sorted_rows((features - self.centre_) / self.scale_)
        found = Mixture(
            cluster_count(self.n_components, "n_components", labels, len(np.unique(rows, axis=0))),
            reg_covar=self.ridge,
            max_iter=500,
            random_state=self.random_state,
        ).fit(rows)
        self.means_ = like(found.means_, features)
        self.whitening_ = like(found.precisions_cholesky_, features)
        self.levels_ = (
            like(found.weights_, features).log()
            + self.whitening_.diagonal(dim1=1, dim2=2).log().sum(dim=1)
            - 0.5 * rows.shape[1] * math.log(2 * math.pi)
        )

    def _score(self, observation: Observation) -> Tensor:
        z = (self._features(observation) - self.centre_) / self.scale_
        forms = [
            ((z - mean) @ whitening).square().sum(dim=1)
            for mean, whitening in zip(self.means_, self.whitening_, strict=True)
        ]
        return -torch.logsumexp(self.levels_ - 0.5 * torch.stack(forms, dim=1), dim=1)

    def _features(self, observation: Observation) -> Tensor:
        features = as_double(observation.features)
        return unit_rows(features) if self.normalize else features
