"""The order of a row's probabilities, with equal ones treated alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ranking:
    """Where each class stands in its row; every field has shape (n, c).

    Attributes
    ----------
    above : Tensor
        Mass of the classes that are strictly more probable.
    tied : Tensor
        Mass of the classes that are exactly as probable, the class itself among them.
    rank : Tensor
        1 + number of classes that are strictly more probable.
    """

    above: Tensor
    tied: Tensor
    rank: Tensor


def ranking(probabilities: Tensor) -> Ranking:
    """Rank the classes of every row; rows with the same probabilities get the same sums.

    Sums run down the sorted row, so two rows that hold the same numbers in another order agree
    to the last bit: a forest's discrete probabilities tie exactly, as they must.

    Returns
    -------
    Ranking
    """
    ordered, order = probabilities.sort(dim=1, descending=True, stable=True)
    n_classes = probabilities.shape[1]
    position = torch.arange(n_classes, device=probabilities.device).expand_as(order)
    opens = torch.ones_like(order, dtype=torch.bool)
    opens[:, 1:] = ordered[:, 1:] < ordered[:, :-1]
    first = torch.where(opens, position, 0).cummax(dim=1).values
    closes = torch.ones_like(opens)
    closes[:, :-1] = opens[:, 1:]
    last = torch.where(closes, position, n_classes).flip(1).cummin(dim=1).values.flip(1)
    total = torch.nn.functional.pad(ordered.cumsum(dim=1), (1, 0))
    above = total.gather(1, first)
    tied = total.gather(1, last + 1) - above

    def unsorted(values: Tensor) -> Tensor:
        return torch.empty_like(values).scatter_(1, order, values)

    return Ranking(unsorted(above), unsorted(tied), unsorted(first + 1))
