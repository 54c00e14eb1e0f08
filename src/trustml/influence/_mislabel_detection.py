"""How well a suspicion finds labels that are known to be wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from trustml.core.random import RandomState
from trustml.core.results import Result
from trustml.core.validation import to_numpy
from trustml.evidence import Interval, auroc_interval, bootstrap, clopper_pearson
from trustml.influence._scores import as_rows


@dataclass(frozen=True, eq=False, repr=False)
class MislabelDetection(Result):
    """Rows inspected in the order of suspicion, and the wrong labels found among them.

    Attributes
    ----------
    auc : Interval
        Probability that a wrong label is more suspicious than a right one; 0.5 is chance.
    scores : numpy.ndarray of shape (n,)
        The suspicion of each row.
    is_wrong : numpy.ndarray of bool, shape (n,)
        Whose label is wrong.
    """

    auc: Interval
    scores: np.ndarray
    is_wrong: np.ndarray

    @property
    def found(self) -> np.ndarray:
        """Wrong labels among the k most suspicious rows, k = 1 .. n; ties in the rows' order."""
        order = np.argsort(-self.scores, kind="stable")
        counts: np.ndarray = np.cumsum(self.is_wrong[order])
        return counts

    def precision(self, fraction: float) -> Interval:
        """Return the share of wrong labels among the most suspicious rows.

        Parameters
        ----------
        fraction : float in (0, 1]
            Share of the rows that is inspected, rounded up.

        Returns
        -------
        Interval
        """
        k = self._inspected(fraction)
        return clopper_pearson(int(self.found[k - 1]), k, self.auc.level)

    def recall(self, fraction: float) -> Interval:
        """Return the share of the wrong labels that is among the most suspicious rows.

        Parameters
        ----------
        fraction : float in (0, 1]
            Share of the rows that is inspected, rounded up.

        Returns
        -------
        Interval
        """
        k = self._inspected(fraction)
        return clopper_pearson(int(self.found[k - 1]), int(self.is_wrong.sum()), self.auc.level)

    def compare(
        self, other: MislabelDetection, level: float = 0.95, random_state: RandomState = None
    ) -> Interval:
        """Return by how much this AUC is higher, with a paired interval.

        Parameters
        ----------
        other : MislabelDetection
            Another suspicion of the same rows.
        level : float in (0, 1)
            Confidence level.
        random_state : int, Generator or None
            Seed of the bootstrap: wrong and right rows are drawn apart, in pairs.

        Returns
        -------
        Interval

        Raises
        ------
        ValueError
            If the two are not about the same wrong labels.
        """
        if not np.array_equal(self.is_wrong, other.is_wrong):
            raise ValueError("the two detections are about different rows or wrong labels")

        def difference(one: np.ndarray, two: np.ndarray, wrong: np.ndarray) -> float:
            return _auc(one, wrong) - _auc(two, wrong)

        found: Interval = bootstrap(
            difference,
            self.scores,
            other.scores,
            self.is_wrong,
            level=level,
            strata=self.is_wrong,
            random_state=random_state,
        )
        return found

    def _inspected(self, fraction: float) -> int:
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], got {fraction}")
        return math.ceil(fraction * len(self.scores) - 1e-9)

    def _title(self) -> str:
        return (
            f"MislabelDetection AUC {self.auc}, {int(self.is_wrong.sum())} wrong labels among "
            f"{len(self.scores)} rows"
        )

    def _columns(self) -> dict[str, Any]:
        inspected = np.arange(1, len(self.scores) + 1)
        return {
            "inspected": inspected,
            "found": self.found,
            "precision": self.found / inspected,
            "recall": self.found / self.is_wrong.sum(),
        }


def mislabel_auc(suspicion: Any, is_wrong: Any, level: float = 0.95) -> MislabelDetection:
    """Return how well a suspicion finds labels that are known to be wrong.

    Parameters
    ----------
    suspicion : MislabelRanking or array of shape (n,)
        Higher is more suspicious.
    is_wrong : mask of shape (n,), or row numbers
        The rows whose labels are wrong; flip some on purpose to know.
    level : float in (0, 1)
        Confidence level.

    Returns
    -------
    MislabelDetection

    Raises
    ------
    ValueError
        If shapes disagree, a suspicion is NaN, or every label is wrong.

    Examples
    --------
    >>> found = mislabel_auc([0.9, 0.1, 0.8, 0.2, 0.7], [0, 2])
    >>> print(found.auc)
    1 [0.4389, 1] (95%)
    >>> found.recall(0.4).estimate
    1.0
    """
    scores = to_numpy(getattr(suspicion, "scores", suspicion)).astype(np.float64)
    if scores.ndim != 1 or len(scores) == 0:
        raise ValueError(f"suspicion must have shape (n,), got {scores.shape}")
    if np.isnan(scores).any():
        raise ValueError(f"suspicion has {int(np.isnan(scores).sum())} NaN values")
    wrong = np.zeros(len(scores), dtype=bool)
    wrong[as_rows(is_wrong, len(scores), "is_wrong").numpy()] = True
    if wrong.all():
        raise ValueError("is_wrong names every row; there is no right label to compare with")
    return MislabelDetection(auroc_interval(scores[~wrong], scores[wrong], level), scores, wrong)


def _auc(scores: np.ndarray, wrong: np.ndarray) -> float:
    from scipy.stats import rankdata

    m = int(wrong.sum())
    above = rankdata(scores)[wrong].sum() - m * (m + 1) / 2
    return float(above / (m * (len(scores) - m)))
