"""Whether the row that helps a query most is of its kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from trustml.core.results import Result
from trustml.core.validation import check_choice, check_finite, to_numpy
from trustml.evidence import Interval, clopper_pearson, wilson


@dataclass(frozen=True, eq=False, repr=False)
class SubclassDetection(Result):
    """How often the most helpful training row has the label of the query.

    Attributes
    ----------
    rate : Interval
        Share of queries, in [0, 1].
    chance : float
        The rate of rows drawn at random.
    hits : numpy.ndarray of bool, shape (q,)
        Which queries.
    most_helpful : numpy.ndarray of int, shape (q,)
        The training row of largest score of each query.
    labels, found : numpy.ndarray of shape (q,)
        The query's label, and that of its most helpful row.
    """

    rate: Interval
    chance: float
    hits: np.ndarray
    most_helpful: np.ndarray
    labels: np.ndarray
    found: np.ndarray

    def _title(self) -> str:
        return f"SubclassDetection {self.rate}, {len(self.hits)} queries, chance {self.chance:.4g}"

    def _columns(self) -> dict[str, Any]:
        return {
            "query": np.arange(len(self.hits)),
            "label": self.labels,
            "train_row": self.most_helpful,
            "found": self.found,
            "hit": self.hits,
        }


def subclass_detection(
    scores: Any,
    train_labels: Any,
    query_labels: Any,
    *,
    level: float = 0.95,
    interval: str = "clopper-pearson",
) -> SubclassDetection:
    """Return how often the most helpful training row has the same label as the query.

    With **subclasses** that the model was not told of (train on even against odd digits, ask for
    the digit) it is the identical subclass test; with the classes that the model predicts for the
    queries and the rows' own, the identical class test. Neither needs a retraining, and neither is
    proof: a measure of similarity passes it too. The scores' labels and the measurement should be
    those of the class that the model was trained on.

    Parameters
    ----------
    scores : InfluenceScores or array of shape (q, n_train)
        Effects of leaving training rows out.
    train_labels : array of shape (n_train,)
        The hidden subclass of each training row.
    query_labels : array of shape (q,)
        The hidden subclass of each query.
    level : float in (0, 1)
        Confidence level.
    interval : {"clopper-pearson", "wilson"}
        Of the rate; the first never covers less than ``level``.

    Returns
    -------
    SubclassDetection

    Raises
    ------
    ValueError
        If shapes disagree.

    References
    ----------
    Hanawa et al. (2021), Evaluation of similarity-based explanations, arXiv:2006.04528, section 3.

    Examples
    --------
    >>> print(subclass_detection([[0.9, 0.1], [0.2, 0.3]], ["cat", "dog"], ["cat", "cat"]).rate)
    0.5 [0.01258, 0.9874] (95%)
    """
    check_choice(interval, "interval", ("clopper-pearson", "wilson"))
    values = to_numpy(getattr(scores, "values", scores))
    train, query = to_numpy(train_labels), to_numpy(query_labels)
    if values.ndim != 2 or train.ndim != 1 or query.ndim != 1:
        raise ValueError(
            f"scores must be (q, n_train) and labels vectors, got shapes {values.shape}, "
            f"{train.shape} and {query.shape}"
        )
    if values.shape != (len(query), len(train)) or values.size == 0:
        raise ValueError(
            f"scores of shape {values.shape} do not fit {len(query)} query labels and "
            f"{len(train)} training labels"
        )
    check_finite(values, "scores")
    best = values.argmax(1)
    hits = train[best] == query
    bound = clopper_pearson if interval == "clopper-pearson" else wilson
    return SubclassDetection(
        rate=bound(int(hits.sum()), len(hits), level),
        chance=float((query[:, None] == train[None]).mean()),
        hits=hits,
        most_helpful=best,
        labels=query,
        found=train[best],
    )
