"""Distance to the k-th nearest neighbour."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from trustml.core.validation import check_positive_int
from trustml.model import Model, Observation
from trustml.ood._detector import KeepsRows
from trustml.ood._seen import as_double, unit_rows

_BLOCK = 2**22  # distances in memory at once: 32 MiB in float64


class Knn(KeepsRows):
    r"""Distance of the features to their k-th nearest neighbour among the rows of ``fit``.

    Features are scaled to length 1 first, so the distance is that of directions, in [0, 2].
    A scored row that was also in ``fit`` finds itself as its first neighbour.

    Parameters
    ----------
    model : Model or estimator
        A model with features.
    k : int or "auto"
        Which neighbour; "auto" takes :math:`\sqrt n`, rounded.
    normalize : bool
        False keeps the length of the features, and distances in their unit.

    References
    ----------
    Sun, Ming, Zhu and Li (2022), Out-of-distribution detection with deep nearest neighbors,
    arXiv:2204.06507.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = Knn(LogisticRegression(max_iter=1000).fit(X, y), k=5).fit(X)
    >>> det.score(X[:2]).shape
    (2,)
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    def __init__(self, model: Any, k: int | str = "auto", normalize: bool = True) -> None:
        self.model = model
        self.k = k
        self.normalize = normalize

    def _fit(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        neighbours = self._features(observation)
        n = len(neighbours)
        k = max(1, round(math.sqrt(n))) if self.k == "auto" else check_positive_int(self.k, "k")
        if k > n:
            raise ValueError(f"k must be at most the {n} rows of fit, got {k}; give more rows")
        self.k_ = k
        self.neighbours_ = neighbours

    def _score(self, observation: Observation) -> Tensor:
        rows = max(1, _BLOCK // len(self.neighbours_))
        blocks = torch.split(self._features(observation), rows)
        return torch.cat([self._kth_distance(block) for block in blocks])

    def _kth_distance(self, block: Tensor) -> Tensor:
        distances = torch.cdist(block, self.neighbours_)
        if distances.device.type != "cpu":
            return distances.kthvalue(self.k_, dim=1).values
        distances.numpy().partition(self.k_ - 1, axis=1)  # in a fifth of the time
        return distances[:, self.k_ - 1]

    def _features(self, observation: Observation) -> Tensor:
        features = as_double(observation.features)
        return unit_rows(features) if self.normalize else features
