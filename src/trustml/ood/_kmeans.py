"""Distance to the nearest of a few centres of the features."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from trustml.core.validation import check_positive_int
from trustml.model import Model, Observation
from trustml.ood._canonical import like, scale_of, sorted_rows
from trustml.ood._detector import KeepsRows
from trustml.ood._seen import as_double, n_classes, unit_rows

_WITHOUT_CLASSES = 8


class KMeans(KeepsRows):
    r"""Distance of the features to the nearest centre of k-means clusters.

    .. math:: s(z) = \min_k \lVert z - m_k \rVert / r

    with the centres :math:`m_k` of scikit-learn's k-means on the rows of ``fit`` and their root
    mean square distance r to the nearest centre: no unit, and about 1 in distribution. Labels
    only give the number of clusters, so rare kinds within a class have centres too if k allows.

    Parameters
    ----------
    model : Model or estimator
        A model with features.
    n_clusters : int or "auto"
        "auto" takes as many as there are classes, or 8 where there are none.
    normalize : bool
        Scale each row of features to length 1 first.
    random_state : int
        Seed of the first centres; the order of the rows does not matter.

    References
    ----------
    Lloyd (1982), Least squares quantization in PCM.
    Sehwag, Chiang and Mittal (2021), SSD: a unified framework for self-supervised outlier
    detection, arXiv:2103.12051.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = KMeans(LogisticRegression(max_iter=1000).fit(X, y)).fit(X)
    >>> det.centres_.shape
    torch.Size([3, 4])
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    def __init__(
        self,
        model: Any,
        n_clusters: int | str = "auto",
        normalize: bool = False,
        random_state: int = 0,
    ) -> None:
        self.model = model
        self.n_clusters = n_clusters
        self.normalize = normalize
        self.random_state = random_state

    def _fit(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        from sklearn.cluster import KMeans as Lloyd

        features = self._features(observation)
        centre, scale = scale_of(features, type(self).__name__)
        rows = sorted_rows((features - centre) / scale)
        k = cluster_count(self.n_clusters, "n_clusters", labels, len(np.unique(rows, axis=0)))
        found = Lloyd(k, n_init=4, tol=0.0, random_state=self.random_state).fit(rows)
        self.centres_ = like(found.cluster_centers_, features) * scale + centre
        # Every row may be a centre of its own: then what varies at all is the unit.
        near = self._distance(features).square().mean().sqrt()
        self.radius_ = float(near) if float(near) > 1e-9 * scale else scale

    def _score(self, observation: Observation) -> Tensor:
        return self._distance(self._features(observation)) / self.radius_

    def _distance(self, features: Tensor) -> Tensor:
        exact = "donot_use_mm_for_euclid_dist"
        return torch.cdist(features, self.centres_, compute_mode=exact).min(dim=1).values

    def _features(self, observation: Observation) -> Tensor:
        features = as_double(observation.features)
        return unit_rows(features) if self.normalize else features


def cluster_count(wanted: int | str, name: str, labels: Tensor | None, n: int) -> int:
    """Return how many clusters n different rows get."""
    if wanted == "auto":
        return min(n, _WITHOUT_CLASSES if labels is None else n_classes(labels))
    k = check_positive_int(wanted, name)
    if k > n:
        raise ValueError(f"{name} must be at most the {n} different rows of fit, got {k}")
    return k
