"""Simplified Hopfield energy."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from trustml.model import Model, Observation
from trustml.ood._detector import Detector
from trustml.ood._means import GroupMeans
from trustml.ood._seen import UnsuitableError, as_double


class She(Detector):
    r"""Minus the inner product of the features with the pattern of their class.

    .. math:: s(x) = -\langle \phi(x), \mu_{\hat y(x)} \rangle

    The pattern :math:`\mu_k` is the mean of the features over the rows of ``fit`` that are of
    class k and classified as such; the predicted class is the likeliest of those that have a
    pattern. In the squared unit of the features.

    Parameters
    ----------
    model : Model or estimator
        A classifier with features.

    Attributes
    ----------
    patterns_ : Tensor of shape (k, h)
        One for each class with rows classified right.
    classes_ : Tensor of shape (k,)
        Their class indices.

    References
    ----------
    Zhang et al. (2023), Out-of-distribution detection based on in-distribution data patterns
    memorization with modern Hopfield energy, ICLR.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = She(LogisticRegression(max_iter=1000).fit(X, y)).fit(X, y)
    >>> det.patterns_.shape
    torch.Size([3, 4])
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits", "features", "labels"})

    def __init__(self, model: Any) -> None:
        self.model = model

    def _update(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        features, logits = as_double(observation.features), as_double(observation.logits)
        if not hasattr(self, "means_"):
            self.means_ = GroupMeans.of(logits.shape[1], features)
        found = logits.argmax(dim=1)
        right = torch.eq(found, found if labels is None else labels)
        self.means_ = self.means_.plus(features[right], found[right])

    def _finish(self, model: Model) -> None:
        self.classes_ = self.means_.present()
        if len(self.classes_) == 0:
            raise UnsuitableError(
                "She needs rows that the model classifies right, and there are none; check that "
                "y holds the labels of the rows of X"
            )
        self.patterns_ = self.means_.means()[self.classes_]

    def _score(self, observation: Observation) -> Tensor:
        found = as_double(observation.logits)[:, self.classes_].argmax(dim=1)
        return -(as_double(observation.features) * self.patterns_[found]).sum(dim=1)
