"""How well scores predict models trained on parts of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trustml.core.random import RandomState
from trustml.core.results import Result
from trustml.core.validation import check_finite, to_numpy
from trustml.evidence import Interval, bootstrap
from trustml.influence._ground_truth import Retrained, rank_correlation, retrain
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
        Bootstrap interval of the mean over queries, for these subsets.
    per_query : numpy.ndarray of shape (q,)
        Spearman correlation of each query over the subsets.
    predicted, actual : numpy.ndarray of shape (n_subsets, q)
        Sums of scores of the rows left out, and measurements of the retrained models.
    ceiling : float or None
        What predictions of the expected measurements would reach, as the luck of the training
        leaves it; None with one seed, from which it cannot be told.
    """

    score: float
    interval: Interval
    per_query: np.ndarray
    predicted: np.ndarray
    actual: np.ndarray
    ceiling: float | None = None

    def compare(
        self, other: DatamodelingScore, level: float = 0.95, random_state: RandomState = None
    ) -> Interval:
        """Return by how much this score is higher, with a paired interval.

        Parameters
        ----------
        other : DatamodelingScore
            Of another method, for the same queries on the same retrained models.
        level : float in (0, 1)
            Confidence level.
        random_state : int, Generator or None
            Seed of the bootstrap over queries, which are drawn in pairs.

        Returns
        -------
        Interval
            Of the difference; the methods differ at this level if it does not hold 0.

        Raises
        ------
        ValueError
            If the two were not measured on the same retrained models.
        """
        if not np.array_equal(self.actual, other.actual):
            raise ValueError(
                "the scores were measured on other retrained models or other queries; pass one "
                "truth = retrain(...) as subsets=truth to both"
            )
        difference = self.per_query - other.per_query
        found: Interval = bootstrap(np.mean, difference, level=level, random_state=random_state)
        return found

    def _title(self) -> str:
        """Return the score with its interval."""
        low, high = self.interval
        ceiling = "" if self.ceiling is None else f", noise ceiling {self.ceiling:.4g}"
        return (
            f"DatamodelingScore {self.score:.4g}, {self.interval.level:.0%} interval {low:.4g} to "
            f"{high:.4g}, {len(self.actual)} subsets{ceiling}"
        )

    def _columns(self) -> dict[str, Any]:
        return {"query": np.arange(len(self.per_query)), "correlation": self.per_query}


def linear_datamodeling_score(
    scores: Any,
    model: Any = None,
    X: Any = None,
    y: Any = None,
    *,
    subsets: Any = 20,
    fraction: float = 0.5,
    seeds: int | Sequence[int] = 1,
    measure: Measure | None = None,
    level: float = 0.95,
    n_jobs: int = 1,
    store: str | Path | None = None,
    random_state: RandomState = None,
) -> DatamodelingScore:
    """Return how well sums of scores rank the losses of models trained on subsets.

    Parameters
    ----------
    scores : InfluenceScores or array of shape (q, n_train)
        Effects of leaving training rows out.
    model : Model or anything that ``trustml.wrap`` takes
        With training data, and a way to train again; not needed where ``subsets`` is Retrained.
    X, y, measure
        The queries that the scores are for.
    subsets : Retrained, int, boolean array of shape (m, n_train), or list of arrays
        What ``retrain`` returned, so that several methods are compared on the same models; or
        how many random subsets, or which rows each one keeps.
    fraction : float in (0, 1)
        Part of the rows that a random subset keeps.
    seeds : int or sequence of int
        Trainings of each subset, averaged: more than one where training is random.
    level : float in (0, 1)
        Confidence level of the interval over queries.
    n_jobs, store
        As for ``retrain``.
    random_state : int, Generator or None
        Seed of the subsets and the bootstrap.

    Returns
    -------
    DatamodelingScore

    Raises
    ------
    TypeError
        If there is neither a model with queries nor what ``retrain`` returned.
    ValueError
        If shapes disagree, numbers are not finite, or there are fewer than two different subsets.

    References
    ----------
    Park et al. (2023), TRAK: attributing model behavior at scale, arXiv:2303.14186, section 4.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from trustml.influence import InfluenceFunctions, linear_datamodeling_score, retrain
    >>> from trustml.model import wrap
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = wrap(Ridge().fit(X[:400], y[:400]), train=(X[:400], y[:400]))
    >>> scores = InfluenceFunctions(model).fit().scores(X[400:], y[400:])
    >>> truth = retrain(model, X[400:], y[400:], subsets=10, random_state=0)
    >>> linear_datamodeling_score(scores, subsets=truth, random_state=0).score > 0.5
    True
    """
    values = to_numpy(getattr(scores, "values", scores))
    check_finite(values, "scores")
    if isinstance(subsets, Retrained):
        truth = subsets
    elif model is None or X is None:
        raise TypeError(
            "linear_datamodeling_score needs a model and its queries X to train anew, or "
            "subsets=retrain(model, X, y, ...)"
        )
    else:
        model = as_model(model)
        model.require_train("linear_datamodeling_score")
        n = 0 if model.train is None else len(model.train)
        _check_shape(values, len(Queries.of(model, X, y, measure)), n)
        truth = retrain(
            model,
            X,
            y,
            subsets=subsets,
            fraction=fraction,
            seeds=seeds,
            measure=measure,
            n_jobs=n_jobs,
            store=store,
            random_state=random_state,
        )
    _check_shape(values, truth.values.shape[2], truth.keep.shape[1])
    if (truth.keep == truth.keep[0]).all():
        raise ValueError(
            f"a rank correlation needs at least two different subsets, got {len(truth.keep)}"
            + (" that are all the same" if len(truth.keep) > 1 else "")
        )
    actual = truth.mean
    check_finite(actual, "measurements of the retrained models")
    predicted = ~truth.keep @ values.T
    correlation = rank_correlation(actual, predicted)
    interval = bootstrap(np.mean, correlation, level=level, random_state=random_state)
    score = float(correlation.mean())
    return DatamodelingScore(score, interval, correlation, predicted, actual, truth.noise_ceiling())


def _check_shape(values: np.ndarray, q: int, n: int) -> None:
    if values.shape != (q, n):
        raise ValueError(
            f"scores must have shape ({q}, {n}), queries by training rows, got {values.shape}"
        )
