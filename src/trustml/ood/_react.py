"""Energy of rectified activations."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from trustml.model import Model, Observation
from trustml.ood._detector import KeepsRows
from trustml.ood._head import Head
from trustml.ood._percentiles import check_share, percentile
from trustml.ood._seen import as_double


class React(KeepsRows):
    r"""Free energy of the logits with the features cut off at a percentile.

    .. math:: s(x) = -\log \sum_c \exp f_c(\min(\phi(x), \tau))

    The features :math:`\phi` are the input of the last linear layer - after pooling - and
    :math:`\tau` is the percentile of all their entries, over rows and columns of ``fit``: both
    the place of the cut and the percentile are part of the method. In the unit of the logits;
    the one logit f of a binary model counts as :math:`(-f/2, f/2)`.

    Parameters
    ----------
    model : Model or estimator
        A classifier whose last layer is linear.
    percentile : float in (0, 1)
        The share of entries at or below the cut; the paper's choice by default.

    Attributes
    ----------
    threshold_ : float
        :math:`\tau`, in the unit of the features.

    References
    ----------
    Sun, Guo and Li (2021), ReAct: out-of-distribution detection with rectified activations,
    arXiv:2111.12797.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = React(LogisticRegression(max_iter=1000).fit(X, y)).fit(X)
    >>> det.score(X[:2]).shape
    (2,)
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits", "features", "head"})

    def __init__(self, model: Any, percentile: float = 0.9) -> None:
        self.model = model
        self.percentile = percentile

    def _fit(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        share = check_share(self.percentile, "percentile")
        self.threshold_ = percentile(as_double(observation.features), share)
        self.head_ = Head.of(model)

    def _score(self, observation: Observation) -> Tensor:
        return self.head_.energy(as_double(observation.features).clamp_max(self.threshold_))
