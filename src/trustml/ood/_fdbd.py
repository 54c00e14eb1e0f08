"""Distance to the decision boundaries."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from trustml.model import Model, Observation
from trustml.ood._detector import Detector
from trustml.ood._head import Head
from trustml.ood._means import GroupMeans, off_centre
from trustml.ood._seen import as_double, balanced_logits


class Fdbd(Detector):
    r"""Minus the mean distance to the decision boundaries, relative to that from the centre.

    .. math:: s(x) = -\frac{1}{c - 1} \sum_{k \ne \hat y}
              \frac{f_{\hat y}(x) - f_k(x)}{\lVert w_{\hat y} - w_k \rVert_2\,
              \lVert \phi(x) - \mu \rVert_2}

    with the features :math:`\phi`, the input of the last linear layer, their mean :math:`\mu`
    on the rows of ``fit`` and that layer's weights w. Classes of equal weights have no
    boundary between them and are left out. No unit: scaling the features does not matter.

    Parameters
    ----------
    model : Model or estimator
        A classifier whose last layer is linear.

    References
    ----------
    Liu and Qin (2024), Fast decision boundary based out-of-distribution detector,
    arXiv:2312.11536.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = Fdbd(LogisticRegression(max_iter=1000).fit(X, y)).fit(X)
    >>> bool((det.score(X) <= 0).all())
    True
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits", "features", "head"})

    def __init__(self, model: Any) -> None:
        self.model = model

    def _update(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        features = as_double(observation.features)
        if not hasattr(self, "sums_"):
            self.sums_ = GroupMeans.of(1, features)
        self.sums_ = self.sums_.plus(features)

    def _finish(self, model: Model) -> None:
        self.centre_ = self.sums_.means()[0]
        weight = Head.of(model).weight
        self.apart_ = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")

    def _score(self, observation: Observation) -> Tensor:
        logits = balanced_logits(observation)
        best, found = logits.max(dim=1)
        gaps, apart = best[:, None] - logits, self.apart_[found]
        distances = torch.where(apart > 0, gaps / apart, 0.0).sum(dim=1)
        mean = distances / (apart > 0).sum(dim=1).clamp_min(1)
        return -mean / off_centre(as_double(observation.features), self.centre_)[1]
