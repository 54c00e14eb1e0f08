r"""One Newton step without row i, for all rows at once.

Without row i the curvature is H − Λ, with Λ = J_i' Λ_i J_i / n. By Woodbury the step is again
H⁻¹ times a gradient of row i, along another direction in output space:

.. math:: θ_{-i} - θ = \tfrac1n H^{-1} J_i' \hat u_i, \qquad
          \hat u_i = (I - \tfrac1n Λ_i N_i)^{-1} u_i, \qquad N_i = J_i H^{-1} J_i',

with u_i the gradient and Λ_i the Hessian of the loss with respect to the outputs. For least
squares this is the exact refit, 1 / (1 − leverage).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from trustml.core.batches import Batch
from trustml.core.passes import collect
from trustml.ihvp import Factorization, LinearOperator, Objective
from trustml.influence._train_rows import rows_at_once
from trustml.warnings import ConvergenceWarning

# Their products are shared among processes, so that each goes through all rows itself.
_ITERATIVE = ("cg", "minres", "lissa", "neumann", "astra")
# Methods whose answers are exact to rounding.
EXACT = ("cholesky", "dual")
# The correction applies the inverse to every training output; "auto" spends this many operations.
_BUDGET = 3e11
_LEAST_REST = 1e-9  # 1 - leverage below this: the row alone holds a direction in place


@dataclass(frozen=True)
class LeaveOneOut:
    """What leaving out each row does to the row itself.

    Attributes
    ----------
    cotangents : Tensor of shape (n, ...)
        û_i, in the shape of the outputs; u_i where no correction was asked for.
    shifts : Tensor of shape (n, ...)
        Change of the row's own outputs if it is left out.
    raw_self : Tensor of shape (n,)
        g_i' H⁻¹ g_i.
    self_effects : Tensor of shape (n,)
        Predicted change of the row's own loss if it is left out.
    """

    cotangents: Tensor
    shifts: Tensor
    raw_self: Tensor
    self_effects: Tensor


def choose_correction(
    wanted: str, operator: LinearOperator, inverse: Factorization, n_outputs: int
) -> tuple[str, str]:
    """Return whether one Newton step without each row is taken, and why.

    Parameters
    ----------
    wanted : {"auto", "leverage", "none"}
        "auto": where a direct solve makes it cheap.
    operator : LinearOperator
        The curvature.
    inverse : Factorization
        Of the damped curvature.
    n_outputs : int
        Columns that the inverse would be applied to: all outputs of all training rows.

    Returns
    -------
    correction : {"leverage", "none"}
    reason : str

    Raises
    ------
    ValueError
        If it is wanted of a curvature that a row cannot be taken out of.
    """
    kind = type(operator).__name__
    fits = kind in ("Hessian", "GaussNewton", "EmpiricalFisher")
    if wanted == "leverage" and not fits:
        raise ValueError(
            f'correction="leverage" takes one row out of the curvature, which is not defined for '
            f'{kind}; use curvature="gauss_newton", or correction="none"'
        )
    if wanted != "auto":
        return wanted, "asked for"
    if not fits:
        return "none", f"a single row cannot be taken out of {kind}"
    if inverse.method not in EXACT:
        return "none", f"{inverse.method} would solve once for every training output"
    held = operator.size if inverse.method == "cholesky" else n_outputs
    flops = 6.0 * held * operator.size * n_outputs
    if flops > _BUDGET:
        return "none", f"it would take about {flops:.0e} operations"
    return "leverage", f"cheap with a direct solve ({inverse.method})"


def leave_one_out_steps(
    objective: Objective,
    inverse: Factorization,
    cotangents: Tensor,
    correct: bool,
    empirical: bool = False,
) -> LeaveOneOut:
    """Return û_i and what follows from it, in one pass over the rows.

    Parameters
    ----------
    objective : Objective
        Its data are the rows.
    inverse : Factorization
        Of the damped curvature.
    cotangents : Tensor of shape (n, ...)
        u_i.
    correct : bool
        False keeps û_i = u_i.
    empirical : bool
        The curvature is the empirical Fisher: Λ_i = u_i u_i'.

    Returns
    -------
    LeaveOneOut
    """
    p, c = objective.space.size, cotangents[:1].numel()

    def part(batch: Batch) -> Tensor:
        u = cotangents[batch.indices.to(cotangents.device)]
        outputs, jacobian = objective.gradients.rows(
            batch.inputs,
            lambda out: torch.eye(c, dtype=out.dtype, device=out.device).expand(len(out), c, c),
        )
        flat = u.reshape(len(u), c, 1).double()
        if not correct:  # one direction a row is all that is asked for, not one an output
            pull = flat.mT.to(jacobian) @ jacobian
            solved = inverse.apply(pull[:, 0].T).T[:, :, None]
            shift = (jacobian @ solved).double()
            return torch.stack([flat, shift, shift, torch.zeros_like(flat)], dim=1)
        columns = jacobian.reshape(-1, p).T
        solved = inverse.apply(columns).T.reshape(-1, c, p)
        spread = (jacobian @ solved.transpose(1, 2)).double()  # N_i
        factor = flat if empirical else _loss_factor(objective, outputs, batch)
        new, bad = _corrected(flat, factor, spread, objective.n)
        told = bad.to(new)[:, None, None].expand_as(new)
        return torch.stack([new, spread @ flat, spread @ new, told], dim=1)

    size = objective.capped(rows_at_once(2 * c * p))
    shared = inverse.method not in _ITERATIVE
    new, raw, moved, bad = collect(part, objective.data, size, shared=shared).unbind(1)
    if bool(bad.any()):
        _warn_of_excess(bad.flatten(1).any(1).nonzero().flatten().tolist())
    u = cotangents.reshape(len(cotangents), c, 1).double()
    return LeaveOneOut(
        cotangents=new.reshape(cotangents.shape).to(cotangents.dtype),
        shifts=(moved / objective.n).reshape(cotangents.shape).to(cotangents.dtype),
        raw_self=(u * raw).sum((1, 2)).to(cotangents.dtype),
        self_effects=((u * moved).sum((1, 2)) / objective.n).to(cotangents.dtype),
    )


def _loss_factor(objective: Objective, outputs: Tensor, batch: Batch) -> Tensor:
    if batch.targets is None:
        raise ValueError("the training data have no targets; wrap(..., train=(X, y))")
    return objective.loss.hessian_factor(outputs, batch.targets).double()


def _corrected(u: Tensor, factor: Tensor, spread: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return û (b, c, 1) in the symmetric form, and which rows have all the leverage."""
    inner = factor.transpose(1, 2) @ spread @ factor / n
    rest = (
        torch.eye(inner.shape[1], dtype=inner.dtype, device=inner.device)
        - (inner + inner.transpose(1, 2)) / 2
    )
    values, vectors = torch.linalg.eigh(rest)
    bad = values.amin(1) <= _LEAST_REST
    inverse = torch.where(values <= _LEAST_REST, 0.0, 1 / values)
    right = vectors.transpose(1, 2) @ (factor.transpose(1, 2) @ (spread @ u))
    return u + factor @ (vectors @ (inverse[:, :, None] * right)) / n, bad


def _warn_of_excess(rows: list[int]) -> None:
    warnings.warn(
        f"{len(rows)} training rows have leverage one (the first: {rows[:5]}): without such a row "
        "the objective has no unique minimum, so its leave-one-out effect is not corrected along "
        "the direction that it alone determines; add weight decay or damping",
        ConvergenceWarning,
        stacklevel=5,
    )
