"""Norm of the last layer's gradient towards uniform probabilities."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from trustml.model import Observation
from trustml.ood._detector import Detector
from trustml.ood._seen import as_double


class GradNorm(Detector):
    r"""Minus the L1 norm of the last layer's gradient of the divergence from uniform.

    .. math:: s(x) = -\lVert \nabla_W \mathrm{KL}(u \,\|\, p(x)) \rVert_1
                   = -\lVert p(x) - u \rVert_1 \,\lVert \phi(x) \rVert_1

    with the features :math:`\phi`, the input of the last linear layer: the gradient has rank
    one, so its norm needs no backward pass. The one logit of a binary model counts as two. In
    the unit of the features; at most 0. Rows of small features look out of distribution.

    Parameters
    ----------
    model : Model or estimator
        A classifier whose last layer is linear.

    References
    ----------
    Huang, Geng and Li (2021), On the importance of gradients for detecting distributional
    shifts in the wild, arXiv:2110.00218.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = GradNorm(LogisticRegression(max_iter=1000).fit(X, y)).fit(X)
    >>> bool((det.score(X) <= 0).all())
    True
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits", "features"})

    def __init__(self, model: Any) -> None:
        self.model = model

    def _score(self, observation: Observation) -> Tensor:
        p = as_double(observation.logits).softmax(dim=1)
        apart = (p - 1 / p.shape[1]).abs().sum(dim=1)
        return -apart * as_double(observation.features).abs().sum(dim=1)
