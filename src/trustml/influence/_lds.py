"""How well scores predict models trained on parts of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from trustml.core.progress import track
from trustml.core.random import RandomState, numpy_generator
from trustml.core.results import Result
from trustml.core.validation import check_positive_int, to_numpy
from trustml.evidence import Interval, bootstrap
from trustml.influence._ground_truth import measured
from trustml.influence._queries import Measure, Queries
from trustml.model import as_model


@dataclass(frozen=True, eq=False, repr=False)
class DatamodelingScore(Result):
    """Rank correlation of predicted and actual measurements over retrained subsets.

    Attributes
    ----------
    score : float
        Mean over the queries, in [-1, 1].
    interval : Interval
        Bootstrap interval of the mean over queries.
    per_query : numpy.ndarray of shape (q,)
        Spearman correlation of each query over the subsets.
    predicted, actual : numpy.ndarray of shape (n_subsets, q)
        Sums of scores of the rows left out, and measurements of the retrained models.
    """

    score: float
    interval: Interval
    per_query: np.ndarray
    predicted: np.ndarray
    actual: np.ndarray

    def _title(self) -> str:
        """Return the score with its interval."""
        low, high = self.interval
        return (
            f"DatamodelingScore {self.score:.4g}, {self.interval.level:.0%} interval {low:.4g} to "
            f"{high:.4g}, {len(self.actual)} subsets"
        )

    def _columns(self) -> dict[str, Any]:
        return {"query": np.arange(len(self.per_query)), "correlation": self.per_query}


def linear_datamodeling_score(
    scores: Any,
    model: Any,
    X: Any,
    y: Any = None,
    *,
    subsets: Any = 20,
    fraction: float = 0.5,
    seeds: int = 1,
    measure: Measure | None = None,
    level: float = 0.95,
    random_state: RandomState = None,
) -> DatamodelingScore:
    """Return how well sums of scores rank the losses of models trained on subsets.

    Parameters
    ----------
    scores : InfluenceScores or array of shape (q, n_train)
        Effects of leaving training rows out.
    model : Model or anything that ``trustml.wrap`` takes
        With training data, and a way to train again.
    X, y, measure
        The queries that the scores are for.
    subsets : int or boolean array of shape (m, n_train)
        How many random subsets, or which rows each one keeps.
    fraction : float in (0, 1)
        Part of the rows that a random subset keeps.
    seeds : int
        Trainings of each subset, averaged: more than one where training is random.
    level : float in (0, 1)
        Confidence level of the interval over queries.
    random_state : int, Generator or None
        Seed of the subsets and the bootstrap.

    Returns
    -------
    DatamodelingScore

    Raises
    ------
    ValueError
        If shapes disagree, ``fraction`` is outside (0, 1), or there are fewer than two subsets.

    References
    ----------
    Park et al. (2023), TRAK: attributing model behavior at scale, arXiv:2303.14186, section 4.
    """
    from scipy.stats import rankdata

    model = as_model(model)
    model.require_train("linear_datamodeling_score")
    n = 0 if model.train is None else len(model.train)
    values = to_numpy(getattr(scores, "values", scores))
    queries = Queries.of(model, X, y, measure)
    if values.shape != (len(queries), n):
        raise ValueError(
            f"scores must have shape ({len(queries)}, {n}), queries by training rows, got "
            f"{values.shape}"
        )
    seeds = check_positive_int(seeds, "seeds")
    rng = numpy_generator(random_state)
    keep = _subsets(subsets, fraction, n, rng)
    actual = np.stack(
        [
            np.mean(
                [measured(model.retrain(np.flatnonzero(k)), queries).cpu() for _ in range(seeds)],
                axis=0,
            )
            for k in track(keep, "training on subsets")
        ]
    )
    predicted = ~keep @ values.T
    a, b = rankdata(actual, axis=0), rankdata(predicted, axis=0)
    a, b = a - a.mean(0), b - b.mean(0)
    norms = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    correlation = np.divide((a * b).sum(0), norms, out=np.zeros(len(norms)), where=norms > 0)
    interval = bootstrap(np.mean, correlation, level=level, random_state=rng)
    return DatamodelingScore(float(correlation.mean()), interval, correlation, predicted, actual)


def _subsets(subsets: Any, fraction: float, n: int, rng: np.random.Generator) -> np.ndarray:
    if np.ndim(subsets) == 0:
        count = check_positive_int(subsets, "subsets")
        if not 0 < fraction < 1:
            raise ValueError(f"fraction must be in (0, 1), got {fraction}")
        size = min(n - 1, max(1, round(fraction * n)))
        keep = np.zeros((count, n), dtype=bool)
        for row in keep:
            row[rng.choice(n, size, replace=False)] = True
    else:
        keep = to_numpy(subsets)
        if keep.dtype != bool or keep.ndim != 2 or keep.shape[1] != n:
            raise ValueError(
                f"subsets must be a number, or a boolean array (m, {n}) of kept rows, got "
                f"{keep.dtype} of shape {keep.shape}"
            )
    if len(keep) < 2:
        raise ValueError(f"a rank correlation needs at least two subsets, got {len(keep)}")
    return keep
