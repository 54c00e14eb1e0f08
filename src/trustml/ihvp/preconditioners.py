"""Approximate inverses that make conjugate gradients need fewer products."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trustml.ihvp._fisher_roots import many_outputs
from trustml.ihvp.lowrank import adaptive_factor, known_diagonal
from trustml.ihvp.matrices import Dense, Diagonal
from trustml.ihvp.objective import Objective
from trustml.ihvp.operators import FactoredOperator, LinearOperator, leaves
from trustml.ihvp.quadratic import probes
from trustml.warnings import BackendWarning

if TYPE_CHECKING:
    from trustml.ihvp.solvers.base import Factorization

PRECONDITIONERS = ("none", "jacobi", "nystrom", "blocks", "kfac", "ekfac")
# Bytes that a preconditioner may hold.
_MEMORY = 2**28
# The largest parameter tensor whose dense block is worth trying.
_LARGEST_BLOCK = 2000
# Random signs that estimate a diagonal which only products know.
_SIGNS = 32
_LARGEST_RANK = 1024
# What one pass over the factors costs in products: a backward pass for each output direction.
_OUTPUTS = 10


class Preconditioner(ABC):
    """A symmetric positive definite M⁻¹ ≈ A⁻¹, applied to residuals.

    It changes how many products a solve needs, never its answer: that is judged by the true
    residual of A. A subclass of your own implements ``apply``, and sets ``name`` and ``products``.

    Attributes
    ----------
    name : str
        As in a solution's reason.
    products : int
        Columns that the operator was multiplied with to build it.
    """

    name: str
    products: int = 0

    @abstractmethod
    def apply(self, residual: Tensor) -> Tensor:
        """Return M⁻¹ times float64 columns (p, k)."""

    def __repr__(self) -> str:
        """Name and cost."""
        return f"{type(self).__name__}({self.name!r}, built with {self.products} products)"


class Unpreconditioned(Preconditioner):
    """M = I."""

    name = "none"

    def apply(self, residual: Tensor) -> Tensor:
        """Return the residual."""
        return residual


class Jacobi(Preconditioner):
    """M = |diag A|: exact where one pass gives it, else estimated from random signs.

    References
    ----------
    Bekas, Kokiopoulou and Saad (2007), An estimator for the diagonal of a matrix.
    """

    name = "jacobi"

    def __init__(self, operator: LinearOperator) -> None:
        if _one_pass(operator):
            entries = operator.diagonal().double().abs()
            floor = 1e-12 * float(entries.max())
        else:
            z = probes(operator, min(_SIGNS, operator.size))
            entries = (z * operator.matmat(z)).double().mean(dim=1).abs()
            # Where the noise of the estimate happens to cancel it, nothing is blown up.
            floor = 1e-2 * float(entries.mean())
            self.products = z.shape[1]
        self._entries = entries.clamp_min(floor + 1e-300)[:, None]

    def apply(self, residual: Tensor) -> Tensor:
        """Divide by the diagonal."""
        return residual / self._entries


class Nystrom(Preconditioner):
    """M = K'K + diag(d) + θ I by a randomised Nystrom approximation of A − diag(d).

    d is the known diagonal (damping, weight decay) and θ the smallest kept eigenvalue. The rank
    doubles until θ ≤ min d or the memory is spent.

    References
    ----------
    Frangella, Tropp and Udell (2023), Randomized Nyström preconditioning, arXiv:2110.02820.
    """

    name = "nystrom"

    def __init__(self, operator: LinearOperator, most: int = _LARGEST_RANK) -> None:
        most = max(1, min(most, operator.size, _MEMORY // (32 * operator.size)))
        smallest = float(known_diagonal(operator).min())
        factor = adaptive_factor(operator, "nystrom", max(smallest, 0.0), most)
        self.products, rows = factor.products, factor.rows
        theta = float(factor.values[-1]) if len(rows) == most < operator.size else 0.0
        floor = 1e-10 * (float(factor.values[0]) if len(rows) else 1.0) + 1e-300
        self._d = (factor.shift + theta).clamp_min(floor)[:, None]
        self._rows = rows
        gram = (rows / self._d.T) @ rows.T
        gram.diagonal().add_(1.0)
        self._factor = torch.linalg.cholesky(gram)
        self.rank = len(rows)

    def apply(self, residual: Tensor) -> Tensor:
        """Solve with K'K + D by Woodbury's identity."""
        y = residual / self._d
        small = torch.cholesky_solve(self._rows @ y, self._factor)
        return y - (self._rows.T @ small) / self._d


class Approximate(Preconditioner):
    """M = another matrix than A, such as its K-FAC, with a solver of its own.

    Parameters
    ----------
    name : str
        What it is called.
    inverse : Factorization
        Its solver.
    products : int
        What building it cost.
    """

    def __init__(self, name: str, inverse: Factorization, products: int) -> None:
        self.name, self._inverse, self.products = name, inverse, products

    def apply(self, residual: Tensor) -> Tensor:
        """Return the other matrix's solution."""
        return self._inverse._apply(residual).x


def build_preconditioner(
    name: str | Preconditioner, operator: LinearOperator, most: int = _LARGEST_RANK
) -> Preconditioner:
    """Return the preconditioner of a name, built for an operator.

    Parameters
    ----------
    name : {"none", "jacobi", "nystrom", "blocks", "kfac", "ekfac"} or Preconditioner
        An object is returned as it is.
    operator : LinearOperator
        The matrix, damping included.
    most : int
        Products that "nystrom" may spend: its largest rank.

    Returns
    -------
    Preconditioner

    Raises
    ------
    ValueError
        If the name is unknown, or the operator lacks what it needs.

    Examples
    --------
    >>> from trustml.ihvp import Dense
    >>> build_preconditioner("jacobi", Dense(torch.diag(torch.tensor([1.0, 4.0]))))
    Jacobi('jacobi', built with 0 products)
    """
    if isinstance(name, Preconditioner):
        return name
    if name not in PRECONDITIONERS:
        raise ValueError(
            f"preconditioner must be 'auto', one of {PRECONDITIONERS} or a Preconditioner, "
            f"got {name!r}"
        )
    if name == "nystrom":
        return Nystrom(operator, min(most, _LARGEST_RANK))
    if name == "none":
        return Unpreconditioned()
    return Jacobi(operator) if name == "jacobi" else _of_layers(name, operator)


def expected_products(name: str, operator: LinearOperator, most: int) -> int | None:
    """Return what building a preconditioner will about cost, or None if it cannot be built.

    Parameters
    ----------
    name : str
        As for ``build_preconditioner``.
    operator : LinearOperator
        The matrix.
    most : int
        Products that may be spent.

    Returns
    -------
    int or None
    """
    objective = objective_of(operator)
    if name in ("blocks", "kfac", "ekfac") and objective is None:
        return None
    if name == "nystrom":
        return min(most // 2, operator.size)
    if name == "blocks":
        slices = objective.space.slices.values() if objective is not None else ()
        if max(place.stop - place.start for place in slices) > _LARGEST_BLOCK:
            return None
        return _OUTPUTS if _one_pass(operator) else operator.size
    if name == "jacobi":
        return 0 if _one_pass(operator) else _SIGNS
    return _OUTPUTS


def objective_of(operator: LinearOperator) -> Objective | None:
    """Return the objective that an expression is a curvature of, or None."""
    for leaf in leaves(operator):
        objective = getattr(leaf, "objective", None)
        if isinstance(objective, Objective) and objective.space.size == operator.size:
            return objective
    return None


def _of_layers(name: str, operator: LinearOperator) -> Preconditioner:
    from trustml.ihvp.solvers import SOLVERS  # the solvers import this module

    if objective_of(operator) is None:
        raise ValueError(
            f'preconditioner="{name}" needs the curvature of an objective, got '
            f'{type(operator).__name__}; use "jacobi" or "nystrom"'
        )
    cost = operator.size if name == "blocks" and not _one_pass(operator) else _OUTPUTS
    with warnings.catch_warnings():  # it becomes an error
        warnings.simplefilter("ignore", BackendWarning)
        inverse = SOLVERS[name](operator, 0.5)  # type: ignore[call-arg]
    found = getattr(inverse, "approximation", None)
    if found is not None and not found.blocks:
        raise ValueError(
            f'preconditioner="{name}": no layer has Kronecker factors; use "jacobi" or "nystrom"'
        )
    return Approximate(name, inverse, cost)


def _one_pass(operator: LinearOperator) -> bool:
    """Say whether the diagonal needs no products."""
    cheap = (Dense, Diagonal, FactoredOperator)
    return all(isinstance(leaf, cheap) and not many_outputs(leaf) for leaf in leaves(operator))
