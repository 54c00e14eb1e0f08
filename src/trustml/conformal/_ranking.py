"""The order of a row's probabilities, with equal ones treated alike."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trustml.conformal._score import Score
from trustml.core.validation import to_numpy


@dataclass(frozen=True)
class Ranking:
    """Where classes stand in their row; every field has shape (n, c), or (n, 1) for one class.

    Masses are sums of probabilities rounded to 2^-51, which floats add exactly: the order of the
    classes, and which way a sum was found, change no bit. A forest's discrete probabilities tie
    exactly, as they must.

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
    """Rank all classes of every row.

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
    total = torch.nn.functional.pad(_on_grid(ordered).cumsum(dim=1), (1, 0))
    above = total.gather(1, first)
    tied = total.gather(1, last + 1) - above

    def unsorted(values: Tensor) -> Tensor:
        return torch.empty_like(values).scatter_(1, order, values)

    return Ranking(unsorted(above), unsorted(tied), unsorted(first + 1))


def ranking_of(probabilities: Tensor, labels: Tensor) -> Ranking:
    """Rank one class of every row, without sorting: the same numbers, to the last bit.

    Returns
    -------
    Ranking
        Fields of shape (n, 1).
    """
    p = to_numpy(probabilities)
    n, n_classes = p.shape
    own = p[np.arange(n), to_numpy(labels)]
    # Few classes are as probable as the true one, as a rule: only these are touched again.
    flat = np.flatnonzero(p >= own[:, None])
    starts = np.searchsorted(flat, np.arange(n) * n_classes)
    counts = np.diff(starts, append=len(flat))
    found = p.reshape(-1)[flat]
    ties = np.add.reduceat(found == np.repeat(own, counts), starts, dtype=np.intp)
    tied = ties * _on_grid(own)
    above = np.add.reduceat(_on_grid(found), starts) - tied

    def column(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(probabilities.device)[:, None]

    return Ranking(column(above), column(tied), column(1 + counts - ties))


def _on_grid(probabilities: Any) -> Any:
    """Round to a multiple of 2^-51: sums below 4 of these are exact in float64."""
    return (probabilities + 2) - 2


class RankedScore(Score):
    """A score that is a formula of where a class stands in its row."""

    def __call__(self, probabilities: Tensor, uniforms: Tensor) -> Tensor:
        """Return the scores of all classes, shape (n, c)."""
        return self.at(ranking(probabilities), probabilities, uniforms[:, None])

    def of_labels(self, probabilities: Tensor, uniforms: Tensor, labels: Tensor) -> Tensor:
        """Return the scores (n,) of one class a row, found without sorting."""
        place = ranking_of(probabilities, labels)
        return self.at(place, probabilities, uniforms[:, None])[:, 0]

    @abstractmethod
    def at(self, place: Ranking, probabilities: Tensor, uniforms: Tensor) -> Tensor:
        """Return the scores of classes at these places.

        Parameters
        ----------
        place : Ranking
            Fields of shape (n, k).
        probabilities : Tensor of shape (n, c)
            All of the row.
        uniforms : Tensor of shape (n, 1)
            One a row.

        Returns
        -------
        Tensor of shape (n, k)
        """
