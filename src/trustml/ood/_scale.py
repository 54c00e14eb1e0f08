"""Energy of scaled activations."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from trustml.model import Model, Observation
from trustml.ood._detector import Detector
from trustml.ood._head import Head
from trustml.ood._percentiles import check_share, n_kept
from trustml.ood._seen import as_double


class Scale(Detector):
    r"""Free energy of the logits with each row of features scaled by how spread out it is.

    .. math:: s(x) = -\log \sum_c \exp f_c(e^{r} \phi(x)), \qquad r = Q / Q_p

    with Q the sum of the sizes of the features, the input of the last linear layer after
    pooling, and :math:`Q_p` that of the share 1 - p of largest size (at least one). Unlike in
    `Ash` none is dropped. For features of at least 0, as after a ReLU, that is the paper's
    method. In the unit of the logits; the one logit f of a binary model counts as
    :math:`(-f/2, f/2)`. Nothing is learnt.

    Parameters
    ----------
    model : Model or estimator
        A classifier whose last layer is linear.
    percentile : float in (0, 1)
        p; the paper's choice by default.

    References
    ----------
    Xu, Chen, Franchi and Yao (2024), Scaling for training time and post-hoc
    out-of-distribution detection enhancement, arXiv:2310.00227.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = Scale(LogisticRegression(max_iter=1000).fit(X, y), percentile=0.5).fit(X)
    >>> det.score(X[:2]).shape
    (2,)
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits", "features", "head"})

    def __init__(self, model: Any, percentile: float = 0.85) -> None:
        self.model = model
        self.percentile = percentile

    def _finish(self, model: Model) -> None:
        self.percentile_ = check_share(self.percentile, "percentile")
        self.head_ = Head.of(model)

    def _score(self, observation: Observation) -> Tensor:
        features = as_double(observation.features)
        sizes = features.abs()
        largest = sizes.topk(n_kept(features.shape[1], self.percentile_), dim=1).values
        spread = sizes.sum(dim=1, keepdim=True) / largest.sum(dim=1, keepdim=True)
        return self.head_.energy(features * spread.nan_to_num(1.0).exp())
