"""Nearest-neighbour guidance."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from trustml.core.validation import check_positive_int
from trustml.model import Model, Observation
from trustml.ood._detector import KeepsRows
from trustml.ood._seen import as_double, balanced_logits, unit_rows

_BLOCK = 2**22  # similarities in memory at once: 32 MiB in float64


class NnGuide(KeepsRows):
    r"""Minus the confidence of a row times that of its nearest neighbours.

    .. math:: s(x) = -E(x) \cdot \frac1k \sum_{i \in \mathrm{top}_k} E(x_i)
              \cos(\phi(x), \phi(x_i)), \qquad E(x) = \log \sum_c \exp f_c(x)

    with the features :math:`\phi`, the input of the last linear layer, and the rows
    :math:`x_i` of ``fit`` with the k largest terms of the sum. In the squared unit of the
    logits; the one logit f of a binary model counts as :math:`(-f/2, f/2)`. Similarities are
    computed in blocks of bounded memory.

    Parameters
    ----------
    model : Model or estimator
        A classifier with features.
    k : int or "auto"
        How many neighbours; "auto" takes 10, or all rows of ``fit`` if they are fewer.

    References
    ----------
    Park, Jung and Teoh (2023), Nearest neighbor guidance for out-of-distribution detection,
    arXiv:2309.14888.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = NnGuide(LogisticRegression(max_iter=1000).fit(X, y), k=5).fit(X)
    >>> det.score(X[:2]).shape
    (2,)
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits", "features"})

    def __init__(self, model: Any, k: int | str = "auto") -> None:
        self.model = model
        self.k = k

    def _fit(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        n = len(observation)
        k = min(10, n) if self.k == "auto" else check_positive_int(self.k, "k")
        if k > n:
            raise ValueError(f"k must be at most the {n} rows of fit, got {k}; give more rows")
        self.k_ = k
        self.guides_ = _confidence(observation)[:, None] * _directions(observation)

    def _score(self, observation: Observation) -> Tensor:
        rows = max(1, _BLOCK // len(self.guides_))
        blocks = torch.split(_directions(observation), rows)
        guidance = [
            (block @ self.guides_.T).topk(self.k_, dim=1).values.mean(1) for block in blocks
        ]
        return -_confidence(observation) * torch.cat(guidance)


def _confidence(observation: Observation) -> Tensor:
    return balanced_logits(observation).logsumexp(dim=1)


def _directions(observation: Observation) -> Tensor:
    return unit_rows(as_double(observation.features))
