"""Checks of what users pass, and the ways between numpy, torch and data frames."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor


def _as_frame(x: Any) -> Any:
    """Return a narwhals frame or series of ``x``, or None if it is neither."""
    if isinstance(x, (Tensor, np.ndarray, list, tuple, dict, int, float, str)) or x is None:
        return None
    if type(x).__module__.partition(".")[0] in {"torch", "numpy", "builtins"}:
        return None
    import narwhals.stable.v1 as nw

    native = nw.from_native(x, pass_through=True, allow_series=True)
    if isinstance(native, nw.LazyFrame):
        return native.collect()
    return native if isinstance(native, (nw.DataFrame, nw.Series)) else None


def is_sparse(x: Any) -> bool:
    """Return whether ``x`` is one of scipy's sparse matrices or arrays."""
    return hasattr(x, "tocsr")


def to_numpy(x: Any) -> np.ndarray:
    """Return ``x`` as a numpy array.

    Parameters
    ----------
    x : array-like
        Tensor on any device (detached first), array, sparse matrix, nested list, pandas or polars
        frame or series.

    Returns
    -------
    numpy.ndarray
        Shares memory with ``x`` where that is possible.

    Examples
    --------
    >>> import torch
    >>> to_numpy(torch.ones(2)).dtype.name
    'float32'
    """
    if isinstance(x, Tensor):
        x = x.detach().cpu().resolve_conj().resolve_neg()
        if x.dtype == torch.bfloat16:  # numpy has no such type
            x = x.float()
        array: np.ndarray = x.numpy()
        return array
    if isinstance(x, np.ndarray):
        return x
    if isinstance(x, (list, tuple)) and any(isinstance(item, Tensor) for item in x):
        return np.stack([to_numpy(item) for item in x])
    if is_sparse(x):
        return np.asarray(x.toarray())
    frame = _as_frame(x)
    return np.asarray(x if frame is None else frame.to_numpy())


def as_tensor(
    x: Any,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    name: str = "X",
) -> Tensor:
    """Return ``x`` as a tensor; memory is shared where that is possible.

    Parameters
    ----------
    x : array-like
        What ``to_numpy`` takes.
    dtype : torch.dtype or None
        None keeps the type of ``x``.
    device : torch.device, str or None
        None keeps the device of ``x``.
    name : str
        How the error calls ``x``.

    Returns
    -------
    Tensor

    Raises
    ------
    TypeError
        If ``x`` does not hold numbers.
    ValueError
        If ``x`` is ragged.

    Examples
    --------
    >>> as_tensor([[1, 2], [3, 4]], dtype=torch.float64).shape
    torch.Size([2, 2])
    """
    if isinstance(x, Tensor):
        return x.to(device=device, dtype=dtype)
    try:
        array = to_numpy(x)
    except ValueError as error:
        raise ValueError(
            f"{name} is ragged or not an array: {error}; pass rows of equal length"
        ) from error
    if array.dtype == object:
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{name} has values that are not numbers ({error}); encode them first"
            ) from error
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold numbers, got dtype {array.dtype}; encode it first")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    if not array.flags.writeable or any(step < 0 for step in array.strides):
        array = array.copy()  # torch shares memory, and has neither read-only nor flipped tensors
    if not array.dtype.isnative or array.dtype.itemsize > 8:
        array = array.astype(array.dtype.kind + str(min(array.dtype.itemsize, 8)))
    return torch.from_numpy(array).to(device=device, dtype=dtype)


def restore(result: Tensor | np.ndarray, like: Any) -> Tensor | np.ndarray:
    """Return ``result`` in the kind of ``like``: a tensor on its device, otherwise an array.

    Parameters
    ----------
    result : Tensor or numpy.ndarray
        What a method computed.
    like : object
        What the user passed; a dict or tuple of tensors counts as a tensor.

    Returns
    -------
    Tensor or numpy.ndarray

    Examples
    --------
    >>> import numpy as np
    >>> type(restore(torch.ones(2), like=np.ones(2))).__name__
    'ndarray'
    """
    if isinstance(like, dict):
        like = next(iter(like.values()), None)
    elif isinstance(like, tuple) and like:
        like = like[0]
    if isinstance(like, Tensor):
        return as_tensor(result, device=like.device)
    return to_numpy(result)


def all_finite(x: Tensor | np.ndarray) -> bool:
    """Say whether floating point numbers hold neither NaN nor infinity, in one pass if so."""
    if isinstance(x, Tensor):
        x = x.detach()
    with np.errstate(over="ignore", invalid="ignore"):
        # Their sum is not finite then; an overflow of the sum alone is no fault.
        if math.isfinite(x.sum()):
            return True
    return bool((torch.isfinite(x) if isinstance(x, Tensor) else np.isfinite(x)).all())


def check_finite(x: Any, name: str) -> None:
    """Refuse NaN and infinity.

    Parameters
    ----------
    x : array-like
        Anything that is not floating point passes.
    name : str
        How the error calls ``x``.

    Raises
    ------
    ValueError
        If a value is NaN or infinite.
    """
    if isinstance(x, Tensor):
        if not x.is_floating_point() or all_finite(x):
            return
        finite = torch.isfinite(x)
        n_bad, shape = int((~finite).sum()), tuple(x.shape)
        first = [int(i) for i in (~finite).nonzero()[0]] if n_bad else []
    else:
        array = to_numpy(x)
        if array.dtype.kind != "f" or all_finite(array):
            return
        bad = ~np.isfinite(np.atleast_1d(array))
        n_bad, shape = int(bad.sum()), array.shape
        first = [int(i[0]) for i in np.nonzero(bad)] if n_bad else []
    if n_bad:
        raise ValueError(
            f"{name} has {n_bad} NaN or infinite values (shape {shape}, the first at index "
            f"{tuple(first)}); remove or impute these rows"
        )


def check_same_length(**arrays: Any) -> int:
    """Return the common length of the named arrays; None is skipped.

    Parameters
    ----------
    **arrays : array-like
        At least one that is not None.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If lengths differ, or are zero.

    Examples
    --------
    >>> check_same_length(X=[[1.0], [2.0]], y=[0, 1])
    2
    """
    lengths = {name: n_rows(x) for name, x in arrays.items() if x is not None}
    if len(set(lengths.values())) != 1:
        given = ", ".join(f"{name} has {n} rows" for name, n in lengths.items())
        raise ValueError(f"{' and '.join(lengths)} must have the same length, but {given}")
    length = next(iter(lengths.values()))
    if length == 0:
        raise ValueError(f"{' and '.join(lengths)} must not be empty: got 0 rows")
    return length


def n_rows(x: Any) -> int:
    """Return the length of an array, tensor, frame, list or sparse matrix."""
    return int(x.shape[0]) if is_sparse(x) else len(x)


def check_positive_int(value: Any, name: str) -> int:
    """Return ``value`` as an int of at least 1.

    Parameters
    ----------
    value : int
        A numpy integer will do; a bool or a float will not.
    name : str
        How the error calls it.

    Returns
    -------
    int

    Raises
    ------
    TypeError
        If it is not an integer.
    ValueError
        If it is below 1.
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be a positive integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value}")
    return int(value)


def check_alpha(alpha: Any) -> float:
    """Return ``alpha``, an error rate, as a float strictly between 0 and 1.

    Parameters
    ----------
    alpha : float in (0, 1)
        0.1 asks for 90 % coverage.

    Returns
    -------
    float

    Raises
    ------
    TypeError
        If it is not a number.
    ValueError
        If it is outside (0, 1).

    Examples
    --------
    >>> check_alpha(0.1)
    0.1
    """
    if isinstance(alpha, (bool, np.bool_, str)) or np.ndim(alpha) != 0:
        raise TypeError(f"alpha must be one number in (0, 1), got {alpha!r}")
    try:
        value = float(alpha)
    except (TypeError, ValueError) as error:
        raise TypeError(f"alpha must be one number in (0, 1), got {alpha!r}") from error
    if not 0 < value < 1 or math.isnan(value):
        raise ValueError(
            f"alpha must be in (0, 1), got {value}; it is the allowed error rate: 0.1 asks for "
            "90 % coverage"
        )
    return value


def check_choice(value: Any, name: str, allowed: Collection[Any]) -> None:
    """Refuse a value that is not among the allowed ones.

    Parameters
    ----------
    value : object
        What was given.
    name : str
        How the error calls it.
    allowed : collection
        What may be given.

    Raises
    ------
    ValueError
        If ``value`` is not allowed; the text lists what is.
    """
    if not any(value is option or value == option for option in allowed):
        raise ValueError(
            f"{name} must be one of {', '.join(repr(option) for option in allowed)}, got {value!r}"
        )


def frame_columns(x: Any) -> list[str] | None:
    """Return the column names of a pandas or polars frame, None for anything else."""
    frame = _as_frame(x)
    return [str(column) for column in frame.columns] if hasattr(frame, "columns") else None


def column_of(x: Any, key: str | int) -> np.ndarray:
    """Return one column of rows: by name of a frame, by number of anything.

    Parameters
    ----------
    x : frame, array or list of shape (n, d)
        Rows.
    key : str or int
        Name, or number.

    Returns
    -------
    numpy.ndarray of shape (n,)

    Raises
    ------
    ValueError
        If there is no such column.
    """
    names, frame = frame_columns(x), _as_frame(x)
    if isinstance(key, str):
        if names is None or key not in names:
            there = "no names" if names is None else f"the columns {', '.join(names)}"
            raise ValueError(f"there is no column {key!r}: the rows have {there}")
        key = names.index(key)
    rows = np.asarray(to_numpy(x)) if frame is None else None
    width = len(names or []) if rows is None else (rows.shape[1] if rows.ndim == 2 else 0)
    if not -width <= key < width:
        raise ValueError(f"there is no column {key}: the rows have {width} columns")
    found = frame[:, key].to_numpy() if rows is None else rows[:, key]
    return np.asarray(found)


def take_rows(x: Any, indices: np.ndarray) -> Any:
    """Return the rows of an array, tensor, list or frame at ``indices``, in its own kind."""
    if isinstance(x, Tensor):
        return x[torch.from_numpy(indices).to(x.device)]
    if isinstance(x, np.ndarray):
        return x[indices]
    if is_sparse(x):
        return x.tocsr()[indices]
    if isinstance(x, (list, tuple)):
        return [x[i] for i in indices]
    frame = _as_frame(x)
    if frame is not None:
        return frame[indices.tolist()].to_native()
    return x[indices]
