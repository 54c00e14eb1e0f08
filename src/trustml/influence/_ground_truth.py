"""What influence predicts: actual refits without a training row."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from trustml.core.batches import Batch, map_batches
from trustml.core.progress import track
from trustml.core.validation import restore
from trustml.influence._queries import Measure, Queries
from trustml.influence._scores import as_rows
from trustml.model import Model, as_model


def leave_one_out(
    model: Any, indices: Any, X: Any, y: Any = None, *, measure: Measure | None = None
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

    Returns
    -------
    array or Tensor of shape (q, m)
        Measurement after minus before, in its unit; positive: the row helps.

    Notes
    -----
    A refit stops where its own tolerance lets it, and one row moves the loss by about 1/n: with
    scikit-learn's default ``tol=1e-4`` for LogisticRegression the refits' noise is as large as
    most effects. Fit with ``tol=1e-8`` to see effects instead.

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
    rows = as_rows(indices, n)
    queries = Queries.of(model, X, y, measure)
    before = measured(model, queries)
    every = np.arange(n)
    changes = [
        measured(model.retrain(np.delete(every, int(i))), queries) - before
        for i in track(rows.tolist(), "refitting without each row", total=len(rows))
    ]
    return restore(torch.stack(changes, dim=1), X)


def measured(model: Model, queries: Queries) -> torch.Tensor:
    """Return the measurement of each query by a model, shape (q,)."""

    def part(batch: Batch) -> torch.Tensor:
        outputs = model.outputs(batch.inputs).detach()
        return queries.measure(outputs, batch.inputs, batch.targets).reshape(-1)

    return torch.cat(list(map_batches(part, queries.data, model.batch_size)))
