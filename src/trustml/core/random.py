"""Random generators that leave the global ones alone, and uniforms that belong to a row."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from trustml.core.validation import to_numpy

RandomState = int | torch.Generator | np.random.Generator | None

_SEED_RANGE = 2**63 - 1
_BLOCK = 2**15  # numbers hashed at a time: these stay in the cache


def _check(random_state: Any) -> None:
    kinds = (int, np.integer, torch.Generator, np.random.Generator, type(None))
    if isinstance(random_state, bool) or not isinstance(random_state, kinds):
        old = isinstance(random_state, np.random.RandomState)
        hint = "; numpy.random.default_rng(seed) is its successor" if old else ""
        raise TypeError(
            f"random_state must be an int, a torch.Generator, a numpy.random.Generator or None, "
            f"got {type(random_state).__name__}{hint}"
        )
    if isinstance(random_state, (int, np.integer)) and random_state < 0:
        raise ValueError(f"random_state must be non-negative, got {random_state}")


def torch_generator(
    random_state: RandomState, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return a torch generator for ``random_state``; the global generator is not touched.

    Parameters
    ----------
    random_state : int, torch.Generator, numpy.random.Generator or None
        A seed; a generator, which is used and so advances; None for fresh entropy.
    device : torch.device or str
        Where the generator draws; a given ``torch.Generator`` of another device seeds a new one.

    Returns
    -------
    torch.Generator

    Examples
    --------
    >>> import torch
    >>> a = torch.rand(2, generator=torch_generator(0))
    >>> torch.equal(a, torch.rand(2, generator=torch_generator(0)))
    True
    """
    _check(random_state)
    device = torch.device(device)
    if isinstance(random_state, torch.Generator):
        if random_state.device.type == device.type:
            return random_state
        seed = int(
            torch.randint(
                _SEED_RANGE, (), generator=random_state, device=random_state.device
            ).item()
        )
    elif isinstance(random_state, np.random.Generator):
        seed = int(random_state.integers(_SEED_RANGE))
    elif random_state is None:
        seed = int(np.random.default_rng().integers(_SEED_RANGE))
    else:
        seed = int(random_state)
    return torch.Generator(device=device).manual_seed(seed)


def numpy_generator(random_state: RandomState) -> np.random.Generator:
    """Return a numpy generator for ``random_state``; the global state is not touched.

    Parameters
    ----------
    random_state : int, torch.Generator, numpy.random.Generator or None
        A seed; a generator, which is used and so advances; None for fresh entropy.

    Returns
    -------
    numpy.random.Generator

    Examples
    --------
    >>> bool(numpy_generator(3).random() == numpy_generator(3).random())
    True
    """
    _check(random_state)
    if isinstance(random_state, torch.Generator):
        device = random_state.device
        drawn = torch.randint(_SEED_RANGE, (), generator=random_state, device=device)
        return np.random.default_rng(int(drawn.item()))
    return np.random.default_rng(random_state)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of Python, numpy and torch inside, and put them back after.

    For calling code of others, which may draw from them; our own takes a ``random_state``.

    Parameters
    ----------
    seed : int
        In [0, 2**32).

    Yields
    ------
    None

    Examples
    --------
    >>> import torch
    >>> with seeded(0):
    ...     a = torch.rand(2)
    >>> with seeded(0):
    ...     print(torch.equal(a, torch.rand(2)))
    True
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices):
        try:
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002


def row_uniforms(rows: Any, seed: int) -> np.ndarray:
    """Return one uniform number a row, a hash of ``(seed, row)``: the same alone or in a batch.

    Numbers are hashed as float64, so float32 rows and their float64 copies agree, and so do
    ``-0.0`` and ``0.0``.

    Parameters
    ----------
    rows : array of shape (n, ...)
        Numbers, or anything else with a stable ``repr``.
    seed : int
        Different seeds give independent uniforms.

    Returns
    -------
    numpy.ndarray of shape (n,)
        Strictly between 0 and 1.

    Raises
    ------
    TypeError
        If ``seed`` is not an int.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(6.0).reshape(3, 2)
    >>> bool(row_uniforms(x, 0)[2] == row_uniforms(x[2:], 0)[0])
    True
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed must be an int, got {type(seed).__name__}")
    array = to_numpy(rows)
    flat = array.reshape(len(array), -1)
    if flat.dtype.kind in "biuf":
        sums = _sums(flat)
    else:
        digests = (hashlib.blake2b(repr(row.tolist()).encode(), digest_size=8) for row in flat)
        sums = np.frombuffer(b"".join(d.digest() for d in digests), dtype="<u8")
    own = int.from_bytes(hashlib.blake2b(str(int(seed)).encode(), digest_size=8).digest(), "little")
    bits = _mixed(_mixed(sums) ^ np.uint64(own)) >> np.uint64(12)
    return (bits.astype(np.float64) + 0.5) / 2.0**52


def _sums(flat: np.ndarray) -> np.ndarray:
    """Return a sum modulo 2^64 of the words of each row, each times its own odd number."""
    keys = np.random.PCG64(0).random_raw(flat.shape[1]) | np.uint64(1)
    sums = np.empty(len(flat), dtype=np.uint64)
    step = max(1, _BLOCK // max(flat.shape[1], 1))
    numbers = np.empty((min(step, len(flat)), flat.shape[1]))
    halves = np.empty(numbers.shape, dtype=np.uint64)
    for start in range(0, len(flat), step):
        block = flat[start : start + step]
        # -0.0 and 0.0 are one number, and so are a float32 and its float64.
        words = np.add(block, 0.0, out=numbers[: len(block)]).view(np.uint64)
        # Short numbers have only high bits; a product modulo 2^64 would never look below them.
        words ^= np.right_shift(words, np.uint64(32), out=halves[: len(block)])
        np.einsum("ij,j->i", words, keys, out=sums[start : start + step])
    return sums


def _mixed(words: np.ndarray) -> np.ndarray:
    """Let every bit depend on every other: the finaliser of SplitMix64."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        words = (words ^ (words >> np.uint64(shift))) * np.uint64(factor)
    return words
