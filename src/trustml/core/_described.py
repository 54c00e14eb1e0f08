"""What functions, losses and settings do, as text that a store can compare."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trustml.core.store import hash_tensors
from trustml.core.validation import to_numpy

_PLAIN = (bool, int, float, complex, str, bytes, slice, type(None))


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
        shown = {key: x for key, x in vars(thing).items() if isinstance(x, _PLAIN)}
        shown.pop("training")
        return f"{thing}{_text([shown, dict(thing.state_dict())], depth)}"
    if depth == 0:
        return type(thing).__qualname__
    if inspect.isfunction(thing):
        return _function(thing, depth)
    if inspect.ismethod(thing):
        return _text([thing.__func__, thing.__self__], depth)
    if inspect.iscode(thing):
        # The source of two functions on one line is the same, and at a prompt there is none.
        return thing.co_code.hex() + _text([thing.co_consts, thing.co_names], depth)
    if hasattr(thing, "get_params"):
        return f"{type(thing).__qualname__}{_text(thing.get_params(), depth - 1)}"
    if hasattr(thing, "__dict__") and not inspect.ismodule(thing) and not inspect.isclass(thing):
        return f"{type(thing).__qualname__}{_text(vars(thing), depth - 1)}"
    return str(getattr(thing, "__qualname__", type(thing).__qualname__))


def _function(function: Callable[..., Any], depth: int) -> str:
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):  # typed at a prompt
        source = ""
    seen = inspect.getclosurevars(function)
    held = {**seen.globals, **seen.nonlocals}
    code = _text(function.__code__, depth)
    return source + code + _text([function.__defaults__, function.__kwdefaults__, held], depth - 1)
