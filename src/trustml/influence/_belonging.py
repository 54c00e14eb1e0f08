"""What retrained models depend on, as hashes and settings for a store's manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trustml.core._described import described
from trustml.core.batches import Data, apply
from trustml.core.store import hash_tensors
from trustml.influence._queries import Measure, Queries
from trustml.model import Model

_ROWS = 1024


def belongs_to(
    model: Model,
    queries: Queries,
    measures: Sequence[Measure],
    subsets: Sequence[np.ndarray],
    seeds: Sequence[int | None],
) -> dict[str, Any]:
    """Return what measurements of retrained models depend on.

    Parameters
    ----------
    model : Model
        Its weights, its training data, and how it is trained.
    queries : Queries
        The rows that are asked about.
    measures : sequence of callable
        What is measured of them.
    subsets : sequence of arrays of row numbers
        What each training keeps.
    seeds : sequence of int or None
        Of the trainings.

    Returns
    -------
    dict
        JSON values.
    """
    return {
        "model": _hash_model(model, queries.data),
        "training data": None if model.train is None else hash_data(model.train),
        "queries": hash_data(queries.data),
        "measure": [described(measure) for measure in measures],
        "training": described(getattr(model.refit, "train", model.refit)),
        "subsets": hash_tensors(*(torch.as_tensor(rows) for rows in subsets)),
        "seeds": [None if seed is None else int(seed) for seed in seeds],
    }


def _hash_model(model: Model, queries: Data) -> str:
    """Hash the weights; of a model that only predicts, its answers to the queries."""
    if model.differentiable:
        state = model.module.state_dict()
        return hash_tensors(*(x for _, x in sorted(state.items())))
    return hash_tensors(*(model.outputs(b.inputs).detach() for b in queries.batches(_ROWS)))


def hash_data(data: Data) -> str:
    digest = hashlib.blake2b(digest_size=16)

    def add(x: Tensor) -> Tensor:
        digest.update(hash_tensors(x).encode())
        return x

    for batch in data.batches(_ROWS):
        apply(add, batch.inputs)
        digest.update(hash_tensors(batch.targets).encode())
    return digest.hexdigest()
