"""One row of a stream, as a user holds it."""

from __future__ import annotations

from typing import Any

import numpy as np

from trustml.core.validation import frame_columns


def as_rows(x: Any, y: Any) -> tuple[Any, Any]:
    """Return rows and outcomes with a first axis, which a single row comes without.

    A frame keeps its rows, and a pandas Series, as ``frame.iloc[i]`` gives, is one row of it.

    Returns
    -------
    tuple of rows and outcomes
    """
    if np.ndim(y) != 0:
        return x, y
    if hasattr(x, "to_frame") and np.ndim(x) == 1:
        x = x.to_frame().T.infer_objects()
    elif frame_columns(x) is None:
        x = (x if hasattr(x, "ndim") else np.asarray(x))[None]
    return x, np.asarray(y)[None]
