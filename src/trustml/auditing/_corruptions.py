"""Strange rows made from ordinary ones, where the user has none."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trustml.auditing._check import Skip
from trustml.auditing._data import image_side
from trustml.core.random import numpy_generator
from trustml.core.validation import frame_columns, restore, to_numpy


def stand_ins(X: Any, random_state: int) -> dict[str, Any]:
    """Return corrupted copies of rows, by name, in the kind of `X`.

    Pictures get strong noise, a turn by 90 degrees, and textures in their place; tables get
    noise of three standard deviations and a shift by four in every numeric feature.

    Parameters
    ----------
    X : array, tensor or frame of shape (n, ...)
        Ordinary rows.
    random_state : int
        Seed.

    Returns
    -------
    dict of str to rows

    Raises
    ------
    Skip
        If the rows are not numbers.
    """
    generator = numpy_generator(random_state)
    if frame_columns(X) is not None:
        return _frames(X, generator)
    rows = to_numpy(X)
    if rows.dtype.kind not in "fiu":
        raise Skip(f"Rows of {rows.dtype} cannot be corrupted with numbers; pass X_ood.")
    kind = rows.dtype if rows.dtype.kind == "f" else np.dtype(np.float64)
    made = (_pictures if image_side(rows.shape[1:]) else _tables)(rows.astype(kind), generator)
    return {name: restore(np.ascontiguousarray(Z.astype(kind)), X) for name, Z in made.items()}


def _pictures(rows: NDArray[Any], generator: np.random.Generator) -> dict[str, NDArray[Any]]:
    from trustml.datasets import corrupt, foreign_images

    low, high = float(rows.min()), float(rows.max())
    seed = int(generator.integers(2**31))
    foreign = foreign_images(len(rows), rows.shape[1:], seed, kind="textures", bounds=(low, high))
    return {
        "gaussian noise": corrupt(rows, "gaussian_noise", 4, seed),
        "turned by 90 degrees": corrupt(rows, "rotate", 5, seed),
        "textures": foreign,
    }


def _tables(rows: NDArray[Any], generator: np.random.Generator) -> dict[str, NDArray[Any]]:
    spread = rows.std(axis=0)
    sign = generator.choice([-1.0, 1.0], rows.shape[1:])
    return {
        "noise of 3 sd": rows + 3 * spread * generator.normal(size=rows.shape),
        "shift by 4 sd": rows + 4 * spread * sign,
    }


def _frames(X: Any, generator: np.random.Generator) -> dict[str, Any]:
    import narwhals.stable.v1 as nw

    frame = nw.from_native(X, eager_only=True)
    numeric = [name for name, dtype in frame.schema.items() if dtype.is_numeric()]
    if not numeric:
        raise Skip("No column is numeric, so there is nothing to corrupt; pass X_ood.")
    columns = np.stack([frame[name].to_numpy().astype(np.float64) for name in numeric], axis=1)
    out = {}
    for title, values in _tables(columns, generator).items():
        series = [
            nw.new_series(name, values[:, j], backend=frame.implementation)
            for j, name in enumerate(numeric)
        ]
        out[title] = frame.with_columns(*series).to_native()
    return out
