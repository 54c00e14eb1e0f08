"""How far the solutions of an approximate curvature are from those of the exact one."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trustml.ihvp import Damping, Factorization, GaussNewton, Objective
from trustml.ihvp.solution import relative_norms


def approximation_errors(
    objective: Objective, inverse: Factorization, damping: Damping, blocks: Iterable[Tensor]
) -> NDArray[np.float64]:
    """Return relative residuals under the damped Gauss-Newton matrix.

    Parameters
    ----------
    objective : Objective
        Whose matrix it is.
    inverse : Factorization
        What solves.
    damping : Damping
        λ.
    blocks : iterable of Tensor of shape (b, p)
        Right-hand sides.

    Returns
    -------
    numpy.ndarray
        One number for each right-hand side.
    """
    exact = GaussNewton(objective).double() + damping
    errors = []
    for block in blocks:
        b = block.T.to(exact.dtype)
        solved = inverse.apply(block.T).to(exact.dtype)
        errors.append(relative_norms(exact @ solved - b, b).cpu().numpy())
    return np.concatenate(errors)
