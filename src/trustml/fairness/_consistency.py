"""Consistency: are rows decided like their nearest neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trustml.core.alignment import check_aligned
from trustml.core.validation import as_tensor, check_finite, check_positive_int, check_same_length
from trustml.fairness._rates import label_vector

_BLOCK = 2**22  # distances held at a time
_TIED = 1e-10  # of the largest squared norm: squared distances this close are equal


def consistency(X: Any, y_pred: Any, n_neighbors: int = 5, *, include_self: bool = False) -> float:
    r"""Return how far rows are decided like their nearest neighbours.

    .. math:: 1 - \frac{1}{n} \sum_i \left| \hat y_i - \frac{1}{k} \sum_{j \in N_k(i)} \hat y_j
        \right|

    Of labels, this is the mean share of neighbours with the same decision. Neighbours at the same
    distance as the k-th share its place, so that the order of the rows does not matter. Distances
    are Euclidean in X as it is: scale its columns first, and leave out those that should not count.

    Parameters
    ----------
    X : numbers of shape (n, d)
        Array, tensor (computed on its device) or frame.
    y_pred : array-like of shape (n,)
        Decisions of any number of classes; or numbers with fractions, such as probabilities.
    n_neighbors : int
        k, less than n.
    include_self : bool
        Count each row as the first of its own neighbours, as AIF360 does; this can only raise the
        value, to at least 1 / k for labels.

    Returns
    -------
    float
        Up to 1, all neighbours alike; at least 0 for labels and probabilities.

    Raises
    ------
    ValueError
        If there are no more rows than neighbours.

    References
    ----------
    Zemel et al. (2013), Learning fair representations, ICML.

    Examples
    --------
    >>> consistency([[0.0], [0.1], [5.0], [5.1]], [1, 1, 0, 1], n_neighbors=1)
    0.5
    """
    check_aligned(X=X, y_pred=y_pred)
    x = as_tensor(X, dtype=torch.float64).detach()
    x = x.reshape(len(x), -1)
    labels = label_vector(y_pred, "y_pred")
    n = check_same_length(X=x, y_pred=labels)
    check_finite(x, "X")
    k = check_positive_int(n_neighbors, "n_neighbors")
    if k > n - (not include_self):
        raise ValueError(f"n_neighbors={k} needs more than {n} rows; lower it")
    numeric = labels.dtype.kind == "f" and bool((labels != np.round(labels)).any())
    votes = as_tensor(labels if numeric else _indicators(labels), dtype=torch.float64)
    votes = votes.reshape(n, -1).to(x.device)
    agreed = 0.0
    for rows, around in _around(x - x.mean(0), votes, k, include_self):
        apart = (around - votes[rows]).abs()
        # Half the distance of two distributions over classes: the share that decides otherwise.
        agreed += float((1 - (apart.sum(1) if numeric else apart.sum(1) / 2)).sum())
    return agreed / n


def _indicators(labels: np.ndarray) -> np.ndarray:
    position = {label: code for code, label in enumerate(dict.fromkeys(labels.tolist()))}
    codes = [position[label] for label in labels.tolist()]
    return np.eye(len(position))[codes]


def _around(x: Tensor, votes: Tensor, k: int, include_self: bool) -> Iterator[tuple[slice, Tensor]]:
    """Yield the mean vote of the neighbours of a block of rows, (block, c)."""
    squares = x.square().sum(1)
    slack = _TIED * float(squares.max())
    block = max(1, _BLOCK // len(x))
    for start in range(0, len(x), block):
        rows = slice(start, min(start + block, len(x)))
        apart = squares[rows, None] + squares - 2 * x[rows] @ x.T
        mine = torch.arange(len(apart), device=x.device)
        apart[mine, mine + start] = -torch.inf if include_self else torch.inf
        near = apart.topk(min(k + 1, len(x)), dim=1, largest=False)
        around = votes[near.indices[:, :k]].mean(1)
        if near.values.shape[1] > k:
            last = near.values[:, k - 1 : k]
            tied = near.values[:, k] - last[:, 0] <= slack
            apart, last = apart[tied], last[tied]
            sure, shared = apart < last - slack, (apart - last).abs() <= slack
            left = (k - sure.sum(1, keepdim=True)).to(x)
            weights = sure + shared * (left / shared.sum(1, keepdim=True))
            around[tied] = weights @ votes / k
        yield rows, around
