"""Curvatures by name, as every ``curvature=`` argument means them."""

from __future__ import annotations

from collections.abc import Callable

from trustml.core.losses import Autodiff
from trustml.core.validation import check_choice
from trustml.ihvp._fisher_roots import many_outputs
from trustml.ihvp.blocks import BlockDiagonal
from trustml.ihvp.ekfac import Ekfac
from trustml.ihvp.fisher import EmpiricalFisher, Fisher
from trustml.ihvp.gauss_newton import GaussNewton
from trustml.ihvp.hessian import Hessian
from trustml.ihvp.kfac import Kfac
from trustml.ihvp.matrices import Diagonal
from trustml.ihvp.objective import Objective, check_objective
from trustml.ihvp.operators import LinearOperator

# Draws a row for a diagonal of many outputs: its entries are known to a few per cent.
_SAMPLES = 16


def diagonal(objective: Objective) -> Diagonal:
    """Return the diagonal of the Gauss-Newton matrix, weight decay included.

    More outputs a row than EK-FAC would take one by one are sampled, as there.

    Parameters
    ----------
    objective : Objective
        At the parameters where it is wanted.

    Returns
    -------
    Diagonal
    """
    exact = GaussNewton(objective)
    if not many_outputs(exact) or isinstance(objective.loss, Autodiff):
        return Diagonal(exact.diagonal())
    return Diagonal(Fisher(objective, _SAMPLES).diagonal())


CURVATURES: dict[str, Callable[[Objective], LinearOperator]] = {
    "gauss_newton": GaussNewton,
    "hessian": Hessian,
    "fisher": Fisher,
    "empirical_fisher": EmpiricalFisher,
    "ekfac": Ekfac,
    "kfac": Kfac,
    "block_diagonal": BlockDiagonal,
    "diagonal": diagonal,
}


def curvature(
    name: str | Callable[[Objective], LinearOperator], objective: Objective
) -> LinearOperator:
    """Return the curvature of an objective that a name means.

    Parameters
    ----------
    name : str or callable
        "auto" is "gauss_newton": positive semi-definite, equal to the Hessian where the outputs are
        linear in the parameters, and solvable in output space. Then "hessian", "fisher",
        "empirical_fisher", and approximations of Gauss-Newton: "block_diagonal", "ekfac", "kfac",
        "diagonal". A callable maps the objective to its curvature, for instance
        ``functools.partial(ihvp.Ekfac, fisher="monte-carlo")``.
    objective : Objective
        Its regulariser is part of every curvature.

    Returns
    -------
    LinearOperator

    Raises
    ------
    TypeError
        If a callable returns no operator.
    """
    check_objective(objective)
    if callable(name):
        operator = name(objective)
        if not isinstance(operator, LinearOperator):
            raise TypeError(
                f"a curvature must be a trustml.ihvp operator, got {type(operator).__name__}"
            )
        return operator
    if name == "auto":
        name = "gauss_newton"
    check_choice(name, "curvature", ("auto", *CURVATURES))
    return CURVATURES[name](objective)
