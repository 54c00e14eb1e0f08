"""How often each row is drawn in each bootstrap replicate, a few nanoseconds a row."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_BITS = 16
_AMBIGUOUS = np.uint8(255)
_FEW = 1000  # rows; up to here it is faster to draw them one by one


def poisson_weights(n: int, count: int, rng: np.random.Generator, mean: float = 1.0) -> np.ndarray:
    """Return independent Poisson weights, uint8 of shape (count, n); ``mean`` is at most 1."""
    return _poisson(_table(mean), (count, n), rng)


def multinomial_weights(totals: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return how often each of n rows is drawn when ``totals`` are, (len(totals), n)."""
    shape = len(totals), n
    weights, missing = np.zeros(shape, dtype=np.uint8), totals
    if n > _FEW:
        # Poisson weights, given their sum, are multinomial: draw somewhat too few, add the rest.
        weights = poisson_weights(n, len(totals), rng, 1 - 5 / n**0.5)
        missing = totals - weights.sum(1, dtype=np.int64)
        for replicate in np.flatnonzero(missing < 0):
            weights[replicate], missing[replicate] = 0, totals[replicate]
    cells = np.repeat(np.arange(len(totals)) * n, missing)
    cells += rng.integers(n, size=len(cells))
    weights += np.bincount(cells, minlength=weights.size).astype(np.uint8).reshape(shape)
    return weights


def hashed_poisson(words: np.ndarray) -> np.ndarray:
    """Return a Poisson weight of mean 1 for each random 64-bit word, from its upper half."""
    number = (words >> np.uint64(32)).astype(np.uint32)
    weights = np.zeros(words.shape, dtype=np.uint8)
    for threshold in np.floor(_cdf(1.0) * 2.0**32):
        if threshold < 2.0**32:
            weights += number >= np.uint32(threshold)
    return weights


def _cdf(mean: float) -> np.ndarray:
    k = np.arange(30)
    masses = np.exp(-mean) * np.concatenate([[1.0], np.cumprod(mean / k[1:])])
    return np.cumsum(masses)


@lru_cache(maxsize=64)
def _table(mean: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the weight of each 16-bit number (255: it takes more bits to tell), and the law."""
    cdf = _cdf(mean)
    low = np.searchsorted(cdf, np.arange(2**_BITS) / 2**_BITS, side="right")
    high = np.searchsorted(cdf, np.arange(1, 2**_BITS + 1) / 2**_BITS, side="left")
    return np.where(low == high, low, _AMBIGUOUS).astype(np.uint8), cdf


def _poisson(
    table: tuple[np.ndarray, np.ndarray], shape: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    of_number, cdf = table
    size = shape[0] * shape[1]
    words = rng.integers(0, 2**64, size=-(-size // 4), dtype=np.uint64)
    numbers = words.view(np.uint16)[:size]
    weights = of_number[numbers]
    open_ = np.flatnonzero(weights == _AMBIGUOUS)
    exact = (numbers[open_] + rng.random(len(open_))) / 2**_BITS
    weights[open_] = np.searchsorted(cdf, exact, side="right")
    return weights.reshape(shape)
