"""What a solve reports: the answer, its certificate, and the damping that was used."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import torch
from torch import Tensor

from trustml.warnings import ConvergenceWarning, NegativeCurvatureWarning


class Status(Enum):
    """How a solve ended; the value is the sentence that the user reads."""

    CONVERGED = "every right-hand side reached the tolerance"
    MAX_ITERATIONS = (
        "a right-hand side is above the tolerance: raise max_iterations or the damping, "
        'or use method="cholesky" or "dual" where the matrix is small enough'
    )
    NEGATIVE_CURVATURE = (
        "a direction of negative curvature was met, the matrix is not positive definite: add "
        "damping above 1.1 times the most negative Ritz value, or use GaussNewton"
    )
    INDEFINITE = "the matrix is indefinite; it was solved by its eigendecomposition"
    RANK_DEFICIENT = "the matrix is rank deficient; it was solved by least squares on its range"
    INACCURATE = (
        "the tolerance is below what this matrix allows in its arithmetic: "
        "raise tol or the damping, or use a float64 model"
    )
    APPROXIMATE = (
        "the inverse is that of an approximation of the matrix, and the residual says how far off "
        'it is: use method="cg" for the matrix itself'
    )


@dataclass(frozen=True)
class Facts:
    """What a damping rests on, as far as it is known.

    Attributes
    ----------
    gradient_norm, relative_gradient_norm, effective_dof, stationary, min_ritz
        As of ``Damping``.
    at_hand : bool
        Whether asking for them is free.
    """

    gradient_norm: float = float("nan")
    relative_gradient_norm: float = float("nan")
    effective_dof: float = float("nan")
    stationary: bool = False
    min_ritz: float = float("nan")
    at_hand: bool = True


class FactsLike(Protocol):
    """Facts, or what computes each when it is asked for."""

    @property
    def gradient_norm(self) -> float: ...  # noqa: D102
    @property
    def relative_gradient_norm(self) -> float: ...  # noqa: D102
    @property
    def effective_dof(self) -> float: ...  # noqa: D102
    @property
    def stationary(self) -> bool: ...  # noqa: D102
    @property
    def min_ritz(self) -> float: ...  # noqa: D102
    @property
    def at_hand(self) -> bool: ...  # noqa: D102


@dataclass(frozen=True)
class Damping:
    """A damping and why it was chosen; add it to an operator with ``A + damping``.

    Attributes
    ----------
    value : float
        λ, in units of the operator's eigenvalues; at least 0.
    reason : str
        A sentence: who chose it, by which rule.
    facts : Facts
        What the properties say. What the choice did not need is computed when it is asked for,
        which takes passes over the data.
    """

    value: float
    reason: str
    facts: FactsLike = field(default=Facts(), repr=False, compare=False)

    @property
    def gradient_norm(self) -> float:
        """‖∇J‖ at the parameters, the regulariser included; NaN where it is not known."""
        return self.facts.gradient_norm

    @property
    def relative_gradient_norm(self) -> float:
        """‖∇J‖ over the root mean square of the per-example gradients' norms."""
        return self.facts.relative_gradient_norm

    @property
    def effective_dof(self) -> float:
        """Trace of (curvature of the data) (A + λI)⁻¹, between 0 and p."""
        return self.facts.effective_dof

    @property
    def stationary(self) -> bool:
        """Whether the model counts as trained to a minimum."""
        return self.facts.stationary

    @property
    def min_ritz(self) -> float:
        """Smallest eigenvalue or Ritz value of the undamped operator that was seen."""
        return self.facts.min_ritz


@dataclass(frozen=True)
class Solution:
    """The answer of a solve with its certificate.

    Attributes
    ----------
    x : Tensor of shape (p,) or (p, k)
        The solution, shaped as the right-hand side, in its dtype and on its device.
    relative_residual : Tensor of shape (k,)
        ‖(A+λI)x − b‖ / ‖b‖ of each right-hand side, from a product with the exact operator after
        the solve; 0 where b is 0.
    iterations : int
        Iterations of the slowest right-hand side; 0 for direct methods.
    converged : Tensor of shape (k,), bool
        Which right-hand sides are within the tolerance.
    damping : float
        The λ inside the operator, in units of its eigenvalues.
    damping_reason : str
        Where λ comes from.
    method : str
        The method that made x.
    method_reason : str
        Why that method.
    min_ritz : float
        Smallest Ritz value of the solved matrix that was seen (λ included): an upper bound of its
        smallest eigenvalue. NaN where nothing was to be solved.
    status : Status
        How the solve ended, with a sentence as its value.
    tol : float
        The relative residual that counts as converged.
    products : int
        Columns that the exact operator was multiplied with, the certificate's included; what a
        factorisation cost beforehand is not counted.
    trust : str
        What the method promises, in a sentence.
    """

    x: Tensor
    relative_residual: Tensor
    iterations: int
    converged: Tensor
    damping: float
    damping_reason: str
    method: str
    method_reason: str
    min_ritz: float
    status: Status
    tol: float
    products: int = 0
    trust: str = ""

    def summary(self) -> str:
        """Say in words how far the solve can be trusted."""
        k = len(self.relative_residual)
        worst = float(self.relative_residual.max()) if k else 0.0
        steps = f" in {self.iterations} iterations" if self.iterations else ""
        return (
            f"{self.method} ({self.method_reason}): {int(self.converged.sum())} of {k} right-hand "
            f"sides within a relative residual of {self.tol:g}{steps}; the worst is {worst:.2g}. "
            f"Damping {self.damping:g} ({self.damping_reason}). Smallest Ritz value "
            f"{self.min_ritz:.3g}. {self.status.value[0].upper()}{self.status.value[1:]}."
            + (f" {self.trust}." if self.trust else "")
        )

    def __repr__(self) -> str:
        """Show shape, method and verdict; the tensors are left out."""
        worst = float(self.relative_residual.max()) if len(self.relative_residual) else 0.0
        return (
            f"Solution(x of shape {tuple(self.x.shape)}, method={self.method!r}, "
            f"status={self.status.name}, worst relative_residual={worst:.2g}, "
            f"iterations={self.iterations}, damping={self.damping:g})"
        )


def warn_if_doubtful(solution: Solution, stacklevel: int = 3) -> None:
    """Warn once, with cause and remedy, where a right-hand side was not solved to the tolerance."""
    if bool(solution.converged.all()):
        return
    negative = solution.status in (Status.NEGATIVE_CURVATURE,)
    warnings.warn(
        solution.summary(),
        NegativeCurvatureWarning if negative else ConvergenceWarning,
        stacklevel=stacklevel + 1,
    )


def relative_norms(residual: Tensor, b: Tensor) -> Tensor:
    """Column norms of ``residual`` over those of ``b`` in float64; zero columns of b count as 0."""
    scale = b.double().norm(dim=0)
    norms = residual.double().norm(dim=0)
    return torch.where(scale > 0, norms / scale.clamp_min(torch.finfo(torch.float64).tiny), norms)
