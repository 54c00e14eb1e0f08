"""Curvatures by name, as every ``curvature=`` argument means them."""

from __future__ import annotations

from collections.abc import Callable

from trustml.ihvp.fisher import EmpiricalFisher
from trustml.ihvp.gauss_newton import GaussNewton
from trustml.ihvp.hessian import Hessian
from trustml.ihvp.matrices import Diagonal
from trustml.ihvp.objective import Objective, check_objective
from trustml.ihvp.operators import LinearOperator

_LATER = ("fisher", "kfac", "ekfac")


def diagonal(objective: Objective) -> Diagonal:
    """Return the diagonal of the Gauss-Newton matrix, weight decay included."""
    return Diagonal(GaussNewton(objective).diagonal())


CURVATURES: dict[str, Callable[[Objective], LinearOperator]] = {
    "gauss_newton": GaussNewton,
    "hessian": Hessian,
    "empirical_fisher": EmpiricalFisher,
    "diagonal": diagonal,
}


def curvature(name: str, objective: Objective) -> LinearOperator:
    """Return the curvature of an objective that a name means.

    Parameters
    ----------
    name : {"auto", "gauss_newton", "hessian", "empirical_fisher", "diagonal"}
        "auto" is Gauss-Newton: positive semi-definite, equal to the Hessian where the outputs are
        linear in the parameters, and solvable in output space. "diagonal" is Gauss-Newton's.
    objective : Objective
        Its regulariser is part of every curvature.

    Returns
    -------
    LinearOperator

    Raises
    ------
    ValueError
        If there is no such curvature.
    """
    check_objective(objective)
    if name == "auto":
        name = "gauss_newton"
    if name not in CURVATURES:
        later = " (it comes with a later version)" if name in _LATER else ""
        raise ValueError(f"curvature must be one of {['auto', *CURVATURES]}, got {name!r}{later}")
    return CURVATURES[name](objective)
