"""Corruptions of images and shifts of tables, in five severities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trustml.core.random import RandomState, numpy_generator, row_uniforms
from trustml.core.validation import check_choice, check_finite, restore, to_numpy

Array = NDArray[np.float64]
Rows = list[np.random.Generator]


class Known(NamedTuple):
    """What clean data look like: range or standard deviations, and medians by column."""

    scale: Array
    median: Array


@dataclass(frozen=True)
class Corruption:
    """One way to spoil inputs.

    Attributes
    ----------
    name : str
        As in ``CORRUPTIONS``.
    on : str
        "images", "tables" or "both".
    meaning : str
        What it does, for reports.
    strengths : tuple of float
        One per severity; their unit is in ``meaning``.
    apply : callable
        (X, strength, what is known of clean data, generators of the rows) -> X of the same shape.
    """

    name: str
    on: str
    meaning: str
    strengths: tuple[float, float, float, float, float]
    apply: Callable[[Array, float, Known, Rows], Array]


def _noise(X: Array, strength: float, known: Known, rows: Rows) -> Array:
    noise = np.stack([row.standard_normal(X.shape[1:]) for row in rows])
    return X + strength * known.scale * noise


def _blur(X: Array, strength: float, known: Known, rows: Rows) -> Array:
    from scipy.ndimage import gaussian_filter

    still = [0.0] * (X.ndim - 2)
    sigma = [*still, strength * X.shape[-2], strength * X.shape[-1]]
    return np.asarray(gaussian_filter(X, sigma, mode="nearest"), dtype=np.float64)


def _contrast(X: Array, strength: float, known: Known, rows: Rows) -> Array:
    middle = X.mean(axis=tuple(range(1, X.ndim)), keepdims=True)
    faded: Array = middle + (1 - strength) * (X - middle)
    return faded


def _brightness(X: Array, strength: float, known: Known, rows: Rows) -> Array:
    return X + strength * known.scale


def _shift_pixels(X: Array, strength: float, known: Known, rows: Rows) -> Array:
    result = np.empty_like(X)
    for i, row in enumerate(rows):
        step = max(1, round(strength * X.shape[-1]))
        axis, sign = -1 - int(row.integers(2)), 1 if row.random() < 0.5 else -1
        moved = np.roll(X[i], sign * step, axis=axis)
        edge = [slice(None)] * moved.ndim
        edge[axis] = slice(0, step) if sign > 0 else slice(-step, None)
        moved[tuple(edge)] = X[i].min()  # what moves in is background, not the other edge
        result[i] = moved
    return result


def _rotate(X: Array, strength: float, known: Known, rows: Rows) -> Array:
    from scipy.ndimage import rotate

    return np.stack(
        [
            rotate(
                image,
                strength if row.random() < 0.5 else -strength,
                axes=(-1, -2),
                reshape=False,
                order=1,
                mode="nearest",
            )
            for image, row in zip(X, rows, strict=True)
        ]
    )


def _permute(X: Array, strength: float, known: Known, rows: Rows) -> Array:
    one = rows[0]  # exchanges values between rows, so it needs the whole batch
    result = X.copy()
    d = X.shape[1]
    for column in one.permutation(d)[: max(1, round(strength * d))]:
        result[:, column] = X[one.permutation(len(X)), column]
    return result


def _scale(X: Array, strength: float, known: Known, rows: Rows) -> Array:
    return X * (1 + strength)


def _shift(X: Array, strength: float, known: Known, rows: Rows) -> Array:
    return X + strength * known.scale


def _drop(X: Array, strength: float, known: Known, rows: Rows) -> Array:
    gone = np.stack([row.random(X.shape[1:]) < strength for row in rows])
    return np.where(gone, known.median, X)


CORRUPTIONS: dict[str, Corruption] = {
    corruption.name: corruption
    for corruption in (
        Corruption(
            "gaussian_noise",
            "both",
            "normal noise; strength in value ranges (images) or standard deviations (tables)",
            (0.1, 0.2, 0.3, 0.5, 0.8),
            _noise,
        ),
        Corruption(
            "blur",
            "images",
            "Gaussian blur; width in image sides",
            (0.05, 0.08, 0.11, 0.15, 0.2),
            _blur,
        ),
        Corruption(
            "contrast", "images", "contrast lost; fraction", (0.3, 0.5, 0.65, 0.8, 0.9), _contrast
        ),
        Corruption(
            "brightness",
            "images",
            "light added; value ranges",
            (0.1, 0.2, 0.3, 0.4, 0.6),
            _brightness,
        ),
        Corruption(
            "shift_pixels",
            "images",
            "moved; image sides",
            (0.05, 0.125, 0.2, 0.25, 0.375),
            _shift_pixels,
        ),
        Corruption("rotate", "images", "turned; degrees", (10, 20, 35, 60, 90), _rotate),
        Corruption(
            "feature_permutation",
            "tables",
            "columns permuted between rows; fraction of the columns",
            (0.1, 0.25, 0.5, 0.75, 1.0),
            _permute,
        ),
        Corruption(
            "scaling",
            "tables",
            "all values too large (wrong unit); fraction",
            (0.05, 0.1, 0.2, 0.5, 1.0),
            _scale,
        ),
        Corruption(
            "shift",
            "tables",
            "every column moved; standard deviations",
            (0.25, 0.5, 1.0, 1.5, 2.0),
            _shift,
        ),
        Corruption(
            "missing",
            "tables",
            "values replaced by the column's median; fraction",
            (0.1, 0.2, 0.3, 0.5, 0.8),
            _drop,
        ),
    )
}


def corrupt(
    X: Any,
    kind: str,
    severity: int = 3,
    random_state: RandomState = 0,
    *,
    image_shape: tuple[int, ...] | None = None,
    bounds: tuple[float, float] | None = None,
    reference: Any = None,
) -> Any:
    """Return inputs that are a little, or badly, spoilt.

    A row's noise depends on the seed and on the row alone, not on its batch; only
    "feature_permutation" exchanges values between the rows that it is given.

    Parameters
    ----------
    X : array or Tensor of shape (n, d), (n, height, width) or (n, channels, height, width)
        Inputs; not changed.
    kind : str
        A key of ``CORRUPTIONS``.
    severity : {1, 2, 3, 4, 5}
        How badly.
    random_state : int, Generator or None
        Decides noise and directions.
    image_shape : tuple of int or None
        Shape of a row of flat X that holds images.
    bounds : (low, high) or None
        Valid values, to which images are clipped; None takes the range of ``reference`` for
        images and leaves tables alone.
    reference : array of the shape of X, or None
        What ranges and standard deviations are taken from, best the training inputs; None is X.

    Returns
    -------
    ndarray or Tensor, like X
        Floating point, in X's own dtype if that is one.

    Raises
    ------
    ValueError
        If the corruption is unknown or not for such inputs, or severity is not 1 to 5.

    Examples
    --------
    >>> import numpy as np
    >>> noisy = corrupt(np.zeros((2, 8, 8)), "gaussian_noise", bounds=(0, 1))
    >>> noisy.shape, bool(noisy.min() >= 0)
    ((2, 8, 8), True)
    """
    check_choice(kind, "kind", tuple(CORRUPTIONS))
    check_choice(severity, "severity", (1, 2, 3, 4, 5))
    chosen = CORRUPTIONS[kind]
    given = to_numpy(X)
    check_finite(given, "X")
    if given.ndim < 2 or len(given) == 0:
        raise ValueError(f"X must have rows of shape (n, ...), got {given.shape}")
    values = given.astype(np.float64)
    clean = values if reference is None else to_numpy(reference).astype(np.float64)
    if image_shape is not None:
        values = values.reshape(len(values), *image_shape)
    images = values.ndim > 2
    if chosen.on == ("tables" if images else "images"):
        fix = "pass image_shape=(height, width)" if not images else "flatten X to (n, d)"
        raise ValueError(
            f"{kind!r} is for {chosen.on}, got rows of shape {values.shape[1:]}; {fix}"
        )
    if images:
        low, high = bounds or (float(clean.min()), float(clean.max()))
        scale = np.array(high - low)
    else:
        scale = clean.std(axis=0)
    known = Known(scale, np.median(clean, axis=0))
    seed = int(numpy_generator(random_state).integers(2**31))
    rows = [np.random.default_rng(int(u * 2**53)) for u in row_uniforms(given, seed)]
    spoilt = chosen.apply(values, float(chosen.strengths[severity - 1]), known, rows)
    if images or bounds is not None:
        spoilt = spoilt.clip(*((low, high) if images else bounds or ()))
    dtype = given.dtype if given.dtype.kind == "f" else np.dtype(np.float64)
    result = restore(spoilt.reshape(given.shape).astype(dtype), X)
    if isinstance(X, Tensor) and isinstance(result, Tensor) and X.is_floating_point():
        return result.to(X.dtype)  # bfloat16 has no numpy type
    return result
