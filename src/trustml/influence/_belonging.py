"""What retrained models depend on, as hashes and settings for a store's manifest."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trustml.core.batches import Data, apply
from trustml.core.store import hash_tensors
from trustml.core.validation import to_numpy
from trustml.influence._queries import Measure, Queries
from trustml.model import Model

_ROWS = 1024
_PLAIN = (bool, int, float, str, bytes, type(None))


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


def described(thing: Any) -> Any:
    """Return what a function or an estimator does, as text: source, defaults, plain settings.

    Parameters
    ----------
    thing : object
        A function with the plain values, arrays and functions that it refers to; an object with
        ``get_params``; anything else is its type.

    Returns
    -------
    str
        A name and 16 hexadecimal digits.
    """
    text = _text(thing, depth=3)
    named = getattr(thing, "__qualname__", type(thing).__qualname__)
    return f"{named} {hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"


def _text(thing: Any, depth: int) -> str:
    if isinstance(thing, _PLAIN):
        return repr(thing)
    if isinstance(thing, (Tensor, np.ndarray, np.generic)):
        array = to_numpy(thing)
        if array.dtype.kind not in "biuf":
            return repr(array.tolist())
        return hash_tensors(torch.as_tensor(array.astype(np.float64)))
    if isinstance(thing, (set, frozenset)):
        return str(sorted(_text(part, depth) for part in thing))
    if isinstance(thing, (list, tuple)):
        return str([_text(part, depth) for part in thing])
    if isinstance(thing, dict):
        return str(sorted((str(key), _text(value, depth)) for key, value in thing.items()))
    if isinstance(thing, partial):
        return _text([thing.func, thing.args, thing.keywords], depth)
    if isinstance(thing, nn.Module):
        return f"{thing}{_text(dict(thing.state_dict()), depth)}"
    if depth == 0:
        return type(thing).__qualname__
    if inspect.isfunction(thing):
        return _function(thing, depth)
    if hasattr(thing, "get_params"):
        return f"{type(thing).__qualname__}{_text(thing.get_params(), depth - 1)}"
    if hasattr(thing, "__dict__") and not inspect.ismodule(thing) and not inspect.isclass(thing):
        return f"{type(thing).__qualname__}{_text(vars(thing), depth - 1)}"
    return str(getattr(thing, "__qualname__", type(thing).__qualname__))


def _function(function: Callable[..., Any], depth: int) -> str:
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):  # typed at a prompt
        source = function.__code__.co_code.hex()
    seen = inspect.getclosurevars(function)
    held = {**seen.globals, **seen.nonlocals}
    return source + _text([function.__defaults__, held], depth - 1)


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
