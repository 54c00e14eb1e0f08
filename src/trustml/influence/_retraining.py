"""Models trained anew on parts of the training rows: the ground truth of influence."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from trustml.core.batches import Batch, map_batches
from trustml.core.progress import track
from trustml.core.random import seeded
from trustml.core.store import Store
from trustml.core.validation import to_numpy
from trustml.influence._belonging import belongs_to
from trustml.influence._queries import Measure, Queries
from trustml.model import Model
from trustml.warnings import BackendWarning, ConvergenceWarning

Seed = int | None


@dataclass(frozen=True)
class Trainings:
    """What is trained and what is measured: everything that a worker needs.

    Attributes
    ----------
    model : Model
        With training data, and a way to train again.
    queries : Queries
        The rows that every retrained model is asked about.
    measures : tuple of callable
        Measurements (outputs, inputs, targets) -> (q,) of each.
    """

    model: Model
    queries: Queries
    measures: tuple[Measure, ...]

    def measured(self, model: Model) -> np.ndarray:
        """Return each measurement of each query by a model, float64 of shape (k, q)."""

        def part(batch: Batch) -> torch.Tensor:
            outputs = model.outputs(batch.inputs).detach()
            asked = [replace(self.queries, measure=measure) for measure in self.measures]
            found = [queries.checked(outputs, batch).detach().double() for queries in asked]
            return torch.stack(found, dim=1)

        parts = list(map_batches(part, self.queries.data, model.batch_size))
        return to_numpy(torch.cat(parts).T)

    def one(self, rows: np.ndarray, seed: Seed) -> np.ndarray:
        """Train on some rows and measure."""
        if seed is None:  # the estimator's own seed; what it draws beside that repeats too
            with seeded(0):
                trained = self.model.retrain(rows)
        else:
            trained = self.model.retrain(rows, random_state=seed)
        classes = self.model.classes_
        if classes is not None and not np.array_equal(trained.classes_, classes):  # type: ignore[arg-type]
            missing = sorted(set(classes.tolist()) - set(to_numpy(trained.classes_).tolist()))
            _refuse_missing(missing)
        return self.measured(trained)

    def run(
        self,
        subsets: Sequence[np.ndarray],
        seeds: Sequence[Seed],
        n_jobs: int = 1,
        store: str | Path | None = None,
    ) -> np.ndarray:
        """Train on every subset with every seed.

        Parameters
        ----------
        subsets : m arrays of row numbers
            The rows that each training keeps.
        seeds : s seeds
            None is the estimator's own.
        n_jobs : int
            Processes; -1 takes one a core. Each computes on one thread, so that the numbers do not
            depend on how many there are.
        store : path or None
            A folder that keeps every finished training.

        Returns
        -------
        numpy.ndarray of shape (m, s, k, q)
            The measurements.
        """
        workers = _workers(n_jobs)
        self._check_classes(subsets)
        cells = [(rows, seed) for rows in subsets for seed in seeds]
        shape = (len(cells), len(self.measures), len(self.queries))
        values, todo = np.zeros(shape), np.arange(len(cells))
        table = None
        if store is not None:
            held = Store(store, belongs_to(self.model, self.queries, self.measures, subsets, seeds))
            table = held.rows("measurements", shape)
            values, todo = np.array(table.values), np.flatnonzero(~table.done)
        results = self._results([cells[i] for i in todo], min(workers, max(1, len(todo))))
        for k, found in track(results, "training on subsets", total=len(todo)):
            i = int(todo[k])
            values[i] = found
            if table is not None:
                table.write(i, found[None])
        bad = np.flatnonzero(~np.isfinite(values).all((1, 2)))
        if len(bad):
            which = [(int(i) // len(seeds), seeds[int(i) % len(seeds)]) for i in bad[:5]]
            warnings.warn(
                f"{len(bad)} of {len(cells)} trainings gave measurements that are not finite, the "
                f"first (subset, seed): {which}; training diverged, or the measure is undefined",
                ConvergenceWarning,
                stacklevel=3,
            )
        return values.reshape(len(subsets), len(seeds), *shape[1:])

    def _results(
        self, cells: list[tuple[np.ndarray, Seed]], workers: int
    ) -> Iterator[tuple[int, np.ndarray]]:
        packed = None if workers == 1 else self._pickled()
        if packed is None:
            with _one_thread():
                for k, (rows, seed) in enumerate(cells):
                    yield k, self.one(rows, seed)
            return
        from joblib import Parallel, delayed

        pool = Parallel(
            workers, backend="loky", return_as="generator_unordered", batch_size=1, max_nbytes=None
        )
        task = delayed(_in_worker)
        with TemporaryDirectory(prefix="trustml-") as folder:
            path = Path(folder, "trainings")  # read once by each worker, not sent with each task
            path.write_bytes(packed)
            yield from pool(task(str(path), k, *cell) for k, cell in enumerate(cells))

    def _pickled(self) -> bytes | None:
        from joblib.externals.loky.backend.reduction import dumps

        try:
            return bytes(dumps(self))
        except (TypeError, AttributeError, RuntimeError, pickle.PicklingError) as error:
            warnings.warn(
                "trainings run one after another in this process: what trains the model cannot be "
                f"sent to another one ({error}); define train_fn without open files, locks or "
                "generators around it",
                BackendWarning,
                stacklevel=6,
            )
            return None

    def _check_classes(self, subsets: Sequence[np.ndarray]) -> None:
        """Say before the first training that an estimator would not learn all classes."""
        train, classes = self.model.train, self.model.classes_
        if classes is None or train is None or not hasattr(self.model.estimator, "classes_"):
            return
        parts = map_batches(lambda batch: batch.targets, train, 4096)
        targets = to_numpy(torch.cat([part for part in parts if part is not None])).reshape(-1)
        for rows in subsets:
            missing = np.setdiff1d(targets, targets[rows])
            if len(missing):
                _refuse_missing(classes[missing.astype(int)].tolist())


def _refuse_missing(classes: list[Any]) -> None:
    raise ValueError(
        f"a subset leaves no training row of the classes {classes[:5]}, so the model trained on it "
        "would not know them; keep more rows, or subsets that hold every class"
    )


def _workers(n_jobs: Any) -> int:
    if isinstance(n_jobs, bool) or not isinstance(n_jobs, (int, np.integer)) or n_jobs == 0:
        raise ValueError(f"n_jobs must be a number of processes, or -1 for all cores, got {n_jobs}")
    if n_jobs == 1:
        return 1
    from joblib import effective_n_jobs

    return int(effective_n_jobs(int(n_jobs)))


@lru_cache(maxsize=1)
def _unpacked(path: str) -> Trainings:
    found: Trainings = pickle.loads(Path(path).read_bytes())
    return found


def _in_worker(path: str, k: int, rows: np.ndarray, seed: Seed) -> tuple[int, np.ndarray]:
    """Train in a worker process, which unpacks what it trains once."""
    with _one_thread():
        return k, _unpacked(path).one(rows, seed)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread inside: sums in another order would give other numbers."""
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    with threadpool_limits(1):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)
