"""Neural collapse inspired detector."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor

from trustml.model import Model, Observation
from trustml.ood._detector import Detector
from trustml.ood._head import Head
from trustml.ood._means import GroupMeans, off_centre
from trustml.ood._seen import as_double, balanced_logits


class Nci(Detector):
    r"""How little the features lie along the weight of their class, and how small they are.

    .. math:: s(x) = -\frac{w_{\hat y}^\top (\phi(x) - \mu)}{\lVert \phi(x) - \mu \rVert_2}
              - \alpha \lVert \phi(x) \rVert_1

    with the features :math:`\phi`, the input of the last linear layer, their mean :math:`\mu`
    on the rows of ``fit`` and that layer's weight w of the predicted class. In the unit of the
    weights.

    Parameters
    ----------
    model : Model or estimator
        A classifier whose last layer is linear.
    alpha : float
        At least 0, in the unit of weights per features: with 0 the score depends on the
        direction of the features alone.

    References
    ----------
    Liu and Qin (2025), Detecting out-of-distribution through the lens of neural collapse,
    arXiv:2311.01479.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = Nci(LogisticRegression(max_iter=1000).fit(X, y)).fit(X)
    >>> det.score(X[:2]).shape
    (2,)
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits", "features", "head"})

    def __init__(self, model: Any, alpha: float = 1e-4) -> None:
        self.model = model
        self.alpha = alpha

    def _update(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        features = as_double(observation.features)
        if not hasattr(self, "sums_"):
            self.sums_ = GroupMeans.of(1, features)
        self.sums_ = self.sums_.plus(features)

    def _finish(self, model: Model) -> None:
        self.alpha_ = float(self.alpha)
        if not 0 <= self.alpha_ < math.inf:
            raise ValueError(f"alpha must be a number of at least 0, got {self.alpha!r}")
        self.centre_ = self.sums_.means()[0]
        self.weight_ = Head.of(model).weight

    def _score(self, observation: Observation) -> Tensor:
        features = as_double(observation.features)
        weight = self.weight_[balanced_logits(observation).argmax(dim=1)]
        offsets, lengths = off_centre(features, self.centre_)
        along = (weight * offsets).sum(dim=1) / lengths
        return -along - self.alpha_ * features.abs().sum(dim=1)
