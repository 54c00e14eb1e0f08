"""Entropy of the predicted distribution."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from trustml.model import Observation
from trustml.ood._detector import Detector
from trustml.ood._seen import as_double


class Entropy(Detector):
    r"""Shannon entropy of the class probabilities, in nats: :math:`-\sum_c p_c \log p_c`.

    Parameters
    ----------
    model : Model or estimator
        A classifier; needs predictions only.

    References
    ----------
    Shannon (1948), A mathematical theory of communication.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = Entropy(LogisticRegression(max_iter=1000).fit(X, y)).fit(X)
    >>> bool((det.score(X) <= 1.0987).all())  # log 3
    True
    """

    needs: ClassVar[frozenset[str]] = frozenset({"probabilities"})

    def __init__(self, model: Any) -> None:
        self.model = model

    def _score(self, observation: Observation) -> Tensor:
        # entr, not p log p: the logits of a model that outputs a probability of 0 are infinite.
        terms: Tensor = torch.special.entr(as_double(observation.logits).softmax(dim=1))
        return terms.sum(dim=1)
