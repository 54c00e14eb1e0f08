"""OpenMax: the odds of an unknown class."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from trustml.core.validation import check_positive_int
from trustml.model import Model, Observation
from trustml.ood._detector import KeepsRows
from trustml.ood._means import GroupMeans
from trustml.ood._seen import UnsuitableError, balanced_logits
from trustml.ood._weibull import Tails

_TAIL, _SHORTEST_TAIL = 0.05, 5


class OpenMax(KeepsRows):
    r"""Log odds of an unknown class, to which each class gives as much as the row is unlike it.

    .. math:: s(x) = v_0 - \log \sum_c e^{v_c}, \qquad v_c = f_c (1 - a_c F_c), \qquad
              v_0 = \sum_c f_c\, a_c F_c

    :math:`F_c` is how unusual the distance of the logits f from their class mean is, both
    means and distances over the rows of ``fit`` that are of class c and classified as such: a
    Weibull distribution of the largest distances, 0 below them. The class of rank i gets
    :math:`a = (\alpha - i + 1) / \alpha`, those beyond rank :math:`\alpha` get 0. Higher odds
    are a higher probability of the unknown class, without ties at one. A class with fewer than
    two such rows is taken as it is. In the unit of the logits; the one logit f of a binary
    model counts as :math:`(-f/2, f/2)`.

    The tail starts at the largest distance outside it: unlike that of ``libmr``, which starts
    one unit below its smallest, it goes with the unit of the logits.

    Parameters
    ----------
    model : Model or estimator
        A classifier with logits.
    tail : int or "auto"
        How many of a class's distances are its tail, fewer than it has; "auto" takes a
        twentieth, at least 5.
    alpha : int
        How many of the likeliest classes are revised; more counts as all.

    References
    ----------
    Bendale and Boult (2016), Towards open set deep networks, arXiv:1511.06233.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = OpenMax(LogisticRegression(max_iter=1000).fit(X, y)).fit(X, y)
    >>> det.score(X[:2]).shape
    (2,)
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits", "labels"})

    def __init__(self, model: Any, tail: int | str = "auto", alpha: int = 10) -> None:
        self.model = model
        self.tail = tail
        self.alpha = alpha

    def _fit(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        tail = None if self.tail == "auto" else check_positive_int(self.tail, "tail")
        logits = balanced_logits(observation)
        self.alpha_ = min(check_positive_int(self.alpha, "alpha"), logits.shape[1])
        found = logits.argmax(dim=1)
        right = torch.eq(found, found if labels is None else labels)
        if not right.any():
            raise UnsuitableError(
                "OpenMax needs rows that the model classifies right, and there are none; check "
                "that y holds the labels of the rows of X"
            )
        means = GroupMeans.of(logits.shape[1], logits).plus(logits[right], found[right])
        self.classes_, self.means_ = means.present(), means.means()[means.present()]
        distances = [
            (logits[right & (found == k)] - mean).norm(dim=1)
            for k, mean in zip(self.classes_, self.means_, strict=True)
        ]
        sizes = [tail or max(_SHORTEST_TAIL, math.ceil(_TAIL * len(each))) for each in distances]
        self.tails_ = Tails.of(distances, sizes)

    def _score(self, observation: Observation) -> Tensor:
        logits = balanced_logits(observation)
        distances = torch.cdist(logits, self.means_, compute_mode="donot_use_mm_for_euclid_dist")
        unlike = torch.zeros_like(logits)
        unlike[:, self.classes_] = self.tails_.probability(distances)
        ranks = logits.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        given = logits * unlike * (1 - ranks / self.alpha_).clamp_min(0)
        return given.sum(dim=1) - (logits - given).logsumexp(dim=1)
