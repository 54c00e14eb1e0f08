"""Energy of the strongest contributions."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from trustml.model import Model, Observation
from trustml.ood._detector import Detector
from trustml.ood._head import Head, own_head
from trustml.ood._means import GroupMeans
from trustml.ood._percentiles import check_share, percentile
from trustml.ood._seen import as_double


class Dice(Detector):
    r"""Free energy of the logits with the weak weights of the last layer set to zero.

    .. math:: s(x) = -\log \sum_c \exp\Big(\sum_j M_{cj} W_{cj} \phi_j(x) + b_c\Big)

    M keeps the weights whose contribution :math:`W_{cj}\, \bar\phi_j` on the rows of ``fit`` is
    at or above a percentile of all contributions; the features :math:`\phi` are the input of
    the last linear layer, after pooling. In the unit of the logits. The one logit f of a binary
    model counts as :math:`(-f/2, f/2)`, and its contributions by their size: what speaks for
    one class speaks against the other.

    Parameters
    ----------
    model : Model or estimator
        A classifier whose last layer is linear.
    sparsity : float in (0, 1)
        The share of weights that is dropped; the paper's choice by default.

    Attributes
    ----------
    mask_ : Tensor of shape (c, h)
        Which weights are kept.

    References
    ----------
    Sun and Li (2022), DICE: leveraging sparsification for out-of-distribution detection,
    arXiv:2111.09805.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = Dice(LogisticRegression(max_iter=1000).fit(X, y), sparsity=0.5).fit(X)
    >>> int(det.mask_.sum())
    6
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits", "features", "head"})

    mask_: Tensor

    def __init__(self, model: Any, sparsity: float = 0.9) -> None:
        self.model = model
        self.sparsity = sparsity

    def _update(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        features = as_double(observation.features)
        if not hasattr(self, "sums_"):
            self.sums_ = GroupMeans.of(1, features)
        self.sums_ = self.sums_.plus(features)

    def _finish(self, model: Model) -> None:
        share = check_share(self.sparsity, "sparsity")
        contributions = own_head(model)[0] * self.sums_.means()
        if len(contributions) == 1:
            contributions = contributions.abs()
        self.mask_ = torch.ge(contributions, percentile(contributions, share))
        self.head_ = Head.of(model, self.mask_)

    def _score(self, observation: Observation) -> Tensor:
        return self.head_.energy(as_double(observation.features))
