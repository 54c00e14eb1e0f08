"""What happens to the test loss when the rows that scores point at are really left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trustml.core.batches import Inputs
from trustml.core.random import RandomState, numpy_generator
from trustml.core.results import Result
from trustml.core.validation import check_choice, check_finite, check_positive_int, to_numpy
from trustml.evidence import Interval, bootstrap
from trustml.influence._ground_truth import as_seeds, check_repeatable
from trustml.influence._queries import Measure, Queries
from trustml.influence._retraining import Trainings
from trustml.model import Model, as_model

_ORDERS = ("helpful", "harmful")


@dataclass(frozen=True, eq=False, repr=False)
class RemovalCurve(Result):
    """Measurements after retraining without more and more rows, in the scores' order and at random.

    Attributes
    ----------
    orders : tuple of str
        "helpful" and "harmful" (the most helpful, or harmful, rows leave first), then "random".
    removed : numpy.ndarray of int, shape (f,)
        How many rows are left out; the first is 0.
    n_train : int
        Of how many.
    values : numpy.ndarray of shape (orders, f, q)
        The measurement of each query, averaged over trainings.
    spread : numpy.ndarray of shape (orders, f)
        Standard deviation over trainings (seeds; draws too for "random") of the mean measurement.
    intervals : list of list of Interval, orders by f
        Of the mean over queries, for these trainings.
    gaps : list of list of Interval, orders by f
        Of the difference to "random" in pairs of queries.
    areas : dict of str to Interval
        The mean over the removals of the difference to "random". For a loss: far above 0 for
        "helpful", far below for "harmful".
    accuracy : numpy.ndarray of shape (orders, f) or None
        Share of right answers, of classifiers measured by their loss.
    unit : str
        Of the measurement.
    """

    orders: tuple[str, ...]
    removed: np.ndarray
    n_train: int
    values: np.ndarray
    spread: np.ndarray
    intervals: list[list[Interval]]
    gaps: list[list[Interval]]
    areas: dict[str, Interval]
    accuracy: np.ndarray | None
    unit: str

    def _title(self) -> str:
        areas = "; ".join(f"{order} - random: {area}" for order, area in self.areas.items())
        return f"RemovalCurve of {self.values.shape[2]} queries, mean {self.unit}, {areas}"

    def _columns(self) -> dict[str, Any]:
        f = len(self.removed)
        flat = [interval for row in self.intervals for interval in row]
        gaps = [interval for row in self.gaps for interval in row]
        columns = {
            "order": np.repeat(self.orders, f),
            "removed": np.tile(self.removed, len(self.orders)),
            "mean": np.array([interval.estimate for interval in flat]),
            "low": np.array([interval.low for interval in flat]),
            "high": np.array([interval.high for interval in flat]),
            "gap": np.array([interval.estimate for interval in gaps]),
            "gap_low": np.array([interval.low for interval in gaps]),
            "gap_high": np.array([interval.high for interval in gaps]),
            "sd_over_trainings": self.spread.ravel(),
        }
        if self.accuracy is not None:
            columns["accuracy"] = self.accuracy.ravel()
        return columns


def removal_curve(
    scores: Any,
    model: Any,
    X: Any,
    y: Any = None,
    *,
    fractions: Sequence[float] = (0.05, 0.1, 0.2, 0.3),
    orders: str | Sequence[str] = _ORDERS,
    draws: int = 3,
    seeds: int | Sequence[int] = 1,
    measure: Measure | None = None,
    level: float = 0.95,
    n_jobs: int = 1,
    store: str | Path | None = None,
    random_state: RandomState = None,
) -> RemovalCurve:
    """Leave out the most helpful, the most harmful, and random rows; train anew; measure.

    Parameters
    ----------
    scores : InfluenceScores, or array of shape (q, n_train) or (n_train,)
        Effects of leaving training rows out; rows are ordered by their mean over the queries.
    model : Model or anything that ``trustml.wrap`` takes
        With training data, and a way to train again.
    X, y, measure
        Queries, as for ``retrain``. Rows that the scores were made for answer whether the scores
        hold; other rows, whether the choice of rows generalises.
    fractions : sequence of float in (0, 1)
        Shares of the training rows that are left out.
    orders : {"helpful", "harmful"}, or a sequence of them
        Which ends of the order leave first.
    draws : int
        Random orders to compare with.
    seeds, n_jobs, store
        As for ``retrain``.
    level : float in (0, 1)
        Confidence level of the intervals over queries.
    random_state : int, Generator or None
        Seed of the random orders and the bootstrap.

    Returns
    -------
    RemovalCurve

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from trustml.influence import InfluenceFunctions, removal_curve
    >>> from trustml.model import wrap
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = wrap(Ridge(alpha=0.1).fit(X[:300], y[:300]), train=(X[:300], y[:300]))
    >>> scores = InfluenceFunctions(model).fit().scores(X[300:], y[300:])
    >>> curve = removal_curve(scores, model, X[300:], y[300:], random_state=0)
    >>> curve.areas["helpful"].low > 0
    True
    """
    model = as_model(model)
    model.require_train("removal_curve")
    n = 0 if model.train is None else len(model.train)
    orders = (orders,) if isinstance(orders, str) else tuple(orders)
    for order in orders:
        check_choice(order, "orders", _ORDERS)
    draws = check_positive_int(draws, "draws")
    check_repeatable(store, random_state, drawn=True)
    counts = _counts(fractions, n)
    helpful = _by_helpfulness(scores, n)
    queries = Queries.of(model, X, y, measure)
    rng = numpy_generator(random_state)
    ends = {"helpful": helpful, "harmful": helpful[::-1]}
    sequences = [ends[order] for order in orders] + [rng.permutation(n) for _ in range(draws)]
    subsets = [np.arange(n)]
    subsets += [np.sort(sequence[count:]) for sequence in sequences for count in counts]
    measures: tuple[Measure, ...] = (queries.measure,)
    judged = measure is None and model.task == "classification"
    if judged:
        measures += (_rightness(model),)
    found = Trainings(model, queries, measures).run(subsets, as_seeds(seeds), n_jobs, store)
    check_finite(found, "measurements of the retrained models")
    first = np.broadcast_to(found[:1], (len(sequences), *found.shape[1:]))[:, None]
    rest = found[1:].reshape(len(sequences), len(counts), *found.shape[1:])
    runs = np.concatenate([first, rest], axis=1)  # (sequence, f, seed, measure, query)
    arms = [runs[i : i + 1] for i in range(len(orders))] + [runs[len(orders) :]]
    values = np.stack([arm[..., 0, :].mean((0, 2)) for arm in arms])
    values[:, 0] = values[0, 0]  # the same trainings: averages over copies differ by rounding
    intervals, gaps, areas = _intervals(values, level, rng)
    return RemovalCurve(
        orders=(*orders, "random"),
        removed=np.array([0, *counts]),
        n_train=n,
        values=values,
        spread=np.stack([arm[..., 0, :].mean(-1).std((0, 2)) for arm in arms]),
        intervals=intervals,
        gaps=gaps,
        areas=dict(zip(orders, areas, strict=True)),
        accuracy=np.stack([arm[..., 1, :].mean((0, 2, 3)) for arm in arms]) if judged else None,
        unit=queries.unit,
    )


def _counts(fractions: Sequence[float], n: int) -> list[int]:
    given = np.asarray(fractions, dtype=np.float64)
    if given.ndim != 1 or len(given) == 0 or not ((given > 0) & (given < 1)).all():
        raise ValueError(f"fractions must be numbers in (0, 1), at least one, got {fractions!r}")
    counts = np.round(given * n).astype(int)
    if (np.diff(counts, prepend=0) <= 0).any():
        raise ValueError(
            f"fractions must increase by a row or more each, got {fractions!r}, which leave out "
            f"{counts.tolist()} of {n} rows"
        )
    return [int(count) for count in np.minimum(counts, n - 1)]


def _by_helpfulness(scores: Any, n: int) -> np.ndarray:
    values = to_numpy(getattr(scores, "values", scores)).astype(np.float64)
    if values.ndim not in (1, 2) or values.shape[-1] != n:
        raise ValueError(
            f"scores must have shape (q, {n}) or ({n},), queries by training rows, got "
            f"{values.shape}"
        )
    check_finite(values, "scores")
    mean = values if values.ndim == 1 else values.mean(0)
    order: np.ndarray = np.argsort(-mean, kind="stable")
    return order


def _rightness(model: Model) -> Measure:
    def right(outputs: Tensor, inputs: Inputs, targets: Tensor | None) -> Tensor:
        best = model.logits_of(outputs).argmax(-1)
        return torch.zeros_like(best) if targets is None else (best == targets)

    return right


def _intervals(
    values: np.ndarray, level: float, rng: np.random.Generator
) -> tuple[list[list[Interval]], list[list[Interval]], list[Interval]]:
    """Bootstrap over the queries, of all curves on the same draws."""
    arms, f, q = values.shape
    gaps = values - values[-1:]
    areas = gaps[:-1, 1:].mean(1)
    columns = np.concatenate([values.reshape(-1, q), gaps.reshape(-1, q), areas]).T
    found = bootstrap(lambda rows: rows.mean(0), columns, level=level, random_state=rng)
    table = [found[k * f : (k + 1) * f] for k in range(2 * arms)]
    return table[:arms], table[arms:], found[2 * arms * f :]
