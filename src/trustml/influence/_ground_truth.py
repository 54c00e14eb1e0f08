"""What influence predicts: models really trained without some of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trustml.core.random import RandomState, numpy_generator
from trustml.core.results import Result
from trustml.core.validation import check_positive_int, restore, to_numpy
from trustml.influence._queries import Measure, Queries
from trustml.influence._retraining import Trainings
from trustml.influence._scores import as_rows
from trustml.model import as_model


@dataclass(frozen=True, eq=False, repr=False)
class Retrained(Result):
    """Measurements of queries by models trained on parts of the data.

    Attributes
    ----------
    keep : numpy.ndarray of bool, shape (m, n_train)
        The rows that each subset keeps.
    seeds : tuple of int
        Each subset was trained once with each.
    values : numpy.ndarray of shape (m, s, q)
        The measurement of each query by each model.
    unit : str
        Of the measurement.
    """

    keep: np.ndarray
    seeds: tuple[int, ...]
    values: np.ndarray
    unit: str

    @property
    def mean(self) -> np.ndarray:
        """Measurements averaged over the seeds, shape (m, q)."""
        mean: np.ndarray = self.values.mean(1)
        return mean

    def noise_ceiling(self) -> float | None:
        """Return the rank correlation that the expected measurements would reach with ``mean``.

        The seeds are split in halves; the rank correlation r over the subsets of their means tells
        how much of ``mean`` is luck of the training. Spearman and Brown's formula takes r from half
        the seeds to all, and its square root is the correlation with what has no luck in it.

        Returns
        -------
        float or None
            In [0, 1], the mean over the queries; None with fewer than two seeds.

        References
        ----------
        Spearman (1910) and Brown (1910), British Journal of Psychology 3.
        """
        s = len(self.seeds)
        if s < 2:
            return None
        half, found = s // 2, []
        for shift in range(s):  # rotations: every seed is in each half equally often
            turned = np.roll(self.values, shift, axis=1)
            one, other = turned[:, :half].mean(1), turned[:, half : 2 * half].mean(1)
            found.append(rank_correlation(one, other))
        r, longer = max(0.0, float(np.mean(found))), s / half
        return float(np.sqrt(longer * r / (1 + (longer - 1) * r)))

    def _title(self) -> str:
        m, s, q = self.values.shape
        return f"Retrained: {q} queries, {m} subsets of {self.keep.shape[1]} rows, {s} seeds"

    def _columns(self) -> dict[str, Any]:
        return {
            "subset": np.arange(len(self.keep)),
            "rows": self.keep.sum(1),
            "mean": self.mean.mean(1),
            "sd_over_seeds": self.values.mean(2).std(1),
        }


def retrain(
    model: Any,
    X: Any,
    y: Any = None,
    *,
    subsets: Any = 20,
    fraction: float = 0.5,
    seeds: int | Sequence[int] = 1,
    measure: Measure | None = None,
    n_jobs: int = 1,
    store: str | Path | None = None,
    random_state: RandomState = None,
) -> Retrained:
    """Train on subsets of the training rows and measure the queries: ground truth for any method.

    The training should depend on its rows and its seed alone; then the numbers do not depend on
    ``n_jobs``, nor on how often a run was killed and started again.

    Parameters
    ----------
    model : Model or anything that ``trustml.wrap`` takes
        With training data, and a way to train again (see ``Model.retrain``).
    X, y
        Queries, as for ``InfluenceFunctions.scores``.
    subsets : int, boolean array of shape (m, n_train), or list of arrays of row numbers
        How many random subsets, or which rows each one keeps.
    fraction : float in (0, 1)
        Part of the rows that a random subset keeps.
    seeds : int or sequence of int
        Trainings of each subset: with seeds 0, 1, ..., or with these.
    measure : callable (outputs, X, y) -> (q,), optional
        Need not be differentiable. None: the loss.
    n_jobs : int
        Processes; -1 takes one a core. Each computes on one thread.
    store : path or None
        A folder that keeps every finished training: the same call goes on where a killed one
        stopped. Random subsets then need a ``random_state``.
    random_state : int, Generator or None
        Seed of the random subsets.

    Returns
    -------
    Retrained

    Notes
    -----
    A ValueError says which classes a subset lacks that the estimator must know, and a
    StoreMismatchError that the folder belongs to another model, other data, subsets, seeds or
    training.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from trustml.model import wrap
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = wrap(Ridge().fit(X[:400], y[:400]), train=(X[:400], y[:400]))
    >>> retrain(model, X[400:], y[400:], subsets=3, random_state=0).values.shape
    (3, 1, 42)
    """
    model = as_model(model)
    model.require_train("retrain")
    check_repeatable(store, random_state, drawn=isinstance(subsets, (int, np.integer)))
    n = 0 if model.train is None else len(model.train)
    queries = Queries.of(model, X, y, measure)
    keep = as_subsets(subsets, fraction, n, numpy_generator(random_state))
    used = as_seeds(seeds)
    trainings = Trainings(model, queries, (queries.measure,))
    rows = [np.flatnonzero(kept) for kept in keep]
    return Retrained(keep, used, trainings.run(rows, used, n_jobs, store)[:, :, 0], queries.unit)


def leave_one_out(
    model: Any,
    indices: Any,
    X: Any,
    y: Any = None,
    *,
    measure: Measure | None = None,
    n_jobs: int = 1,
    store: str | Path | None = None,
) -> Any:
    """Return the change of each query's loss when training rows are really left out, by refits.

    Parameters
    ----------
    model : Model or anything that ``trustml.wrap`` takes
        With training data, and a way to train again (see ``Model.retrain``).
    indices : array of int of shape (m,), or mask
        The training rows, left out one at a time: m refits.
    X, y, measure
        Queries, as for ``InfluenceFunctions.scores``.
    n_jobs, store
        As for ``retrain``.

    Returns
    -------
    array or Tensor of shape (q, m)
        Measurement after minus before, in its unit; positive: the row helps.

    Notes
    -----
    A refit stops where its own tolerance lets it, and one row moves the loss by about 1/n: with
    scikit-learn's default ``tol=1e-4`` for LogisticRegression the refits' noise is as large as
    most effects. Fit with ``tol=1e-8`` to see effects instead.

    Effects hold the regulariser beside the SUM of the losses, and so do refits of scikit-learn
    models. A ``train_fn`` that minimises mean loss plus weight decay holds it beside the mean, so
    that each row takes its share of the data's weight along: its refits are, to first order, a
    query's scores less their mean over all training rows. With
    ``weight_decay * n_train / len(X)`` in ``train_fn`` both are the same.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from trustml.model import wrap
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = wrap(Ridge().fit(X, y), train=(X, y))
    >>> leave_one_out(model, [0, 1], X[:5], y[:5]).shape
    (5, 2)
    """
    model = as_model(model)
    model.require_train("leave_one_out")
    n = 0 if model.train is None else len(model.train)
    rows = as_rows(indices, n).tolist()
    queries = Queries.of(model, X, y, measure)
    trainings = Trainings(model, queries, (queries.measure,))
    others = [np.delete(np.arange(n), row) for row in rows]
    after = trainings.run(others, (None,), n_jobs, store)[:, 0, 0]
    return restore(torch.as_tensor((after - trainings.measured(model)[0]).T), X)


def as_subsets(subsets: Any, fraction: float, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return the kept rows of each subset as booleans (m, n)."""
    if isinstance(subsets, (int, np.integer)):
        count = check_positive_int(subsets, "subsets")
        if not 0 < fraction < 1:
            raise ValueError(f"fraction must be in (0, 1), got {fraction}")
        size = min(n - 1, max(1, round(fraction * n)))
        keep = np.zeros((count, n), dtype=bool)
        for row in keep:
            row[rng.choice(n, size, replace=False)] = True
        return keep
    if isinstance(subsets, (list, tuple)) and len(subsets):
        parts = [as_rows(part, n, f"subsets[{i}]").numpy() for i, part in enumerate(subsets)]
        keep = np.zeros((len(parts), n), dtype=bool)
        for row, part in zip(keep, parts, strict=True):
            row[part] = True
        return keep
    keep = to_numpy(subsets)
    if keep.dtype != bool or keep.ndim != 2 or keep.shape[1] != n or len(keep) == 0:
        raise ValueError(
            f"subsets must be a number, a boolean array (m, {n}) of kept rows, or a list of arrays "
            f"of row numbers, got {keep.dtype} of shape {keep.shape}"
        )
    empty = np.flatnonzero(~keep.any(1))
    if len(empty):
        raise ValueError(f"subsets {empty[:5].tolist()} keep no row; each must keep at least one")
    return keep


def as_seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """Return distinct seeds: of a number the first so many."""
    if isinstance(seeds, (int, np.integer, bool, float)):
        return tuple(range(check_positive_int(seeds, "seeds")))
    array = np.asarray(list(seeds))
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise TypeError(f"seeds must be a number of trainings or integers, got {seeds!r}")
    given = tuple(array.tolist())
    if not given or len(set(given)) < len(given) or not all(0 <= s < 2**32 for s in given):
        raise ValueError(f"seeds must be distinct and in [0, 2**32), at least one, got {seeds!r}")
    return given


def check_repeatable(store: Any, random_state: Any, drawn: bool) -> None:
    """Refuse a store for subsets that nobody could ask for again."""
    if store is not None and drawn and not isinstance(random_state, (int, np.integer)):
        raise ValueError(
            "a store keeps trainings for the call that is repeated after a kill: give an int "
            f"random_state, so that it asks for the same subsets, got {random_state!r}"
        )


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation of the columns of (m, q) arrays; 0 where one is constant."""
    from scipy.stats import rankdata

    a, b = rankdata(a, axis=0), rankdata(b, axis=0)
    a, b = a - a.mean(0), b - b.mean(0)
    norms = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    found: np.ndarray = np.divide((a * b).sum(0), norms, out=np.zeros(len(norms)), where=norms > 0)
    return found
