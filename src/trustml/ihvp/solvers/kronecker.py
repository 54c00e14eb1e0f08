"""The damped inverse of K-FAC and EK-FAC in closed form, for their own matrix or another.

In a layer's eigenbasis the damped matrix is diag(values + wd + λ). A bias with another weight
decay than its weights adds a multiple of u u' to the coordinates of each output direction, u the
row of the bias in the inputs' eigenvectors, which Sherman and Morrison's formula inverts exactly.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trustml.core.modes import flushing_subnormals
from trustml.ihvp._kronecker import Block, KroneckerOperator
from trustml.ihvp.ekfac import Ekfac
from trustml.ihvp.kfac import Kfac
from trustml.ihvp.operators import Damped, LinearOperator, Scaled, leaves, total_damping
from trustml.ihvp.solution import Status
from trustml.ihvp.solvers.base import NOT_FINITE, Applied, Factorization
from trustml.ihvp.solvers.blocks import as_blocks
from trustml.ihvp.solvers.spectral import RANK_TOLERANCE

# What float32 leaves of one in a rotation and back, with a margin; what it can still divide by.
_ROUNDING, _TINY = 1e-7, 1e-25


def as_kronecker(operator: LinearOperator) -> tuple[KroneckerOperator, float] | None:
    """Read an expression as c · (K-FAC or EK-FAC), damped; None if it is something else."""
    if isinstance(operator, KroneckerOperator):
        return operator, 1.0
    if isinstance(operator, Damped):
        return as_kronecker(operator.inner)
    if isinstance(operator, Scaled) and operator.factor > 0:
        found = as_kronecker(operator.inner)
        return None if found is None else (found[0], found[1] * operator.factor)
    return None


def closed_form(operator: LinearOperator) -> str | None:
    """Return the method that inverts a structured operator exactly; None if it has none."""
    found = as_kronecker(operator)
    if found is not None:
        return type(found[0]).__name__.lower()
    return "blocks" if as_blocks(operator) is not None else None


class _KroneckerFactorization(Factorization):
    """What both methods share; concrete classes say which approximation they build.

    Parameters
    ----------
    operator : LinearOperator
        The matrix, damping included. A damped Kfac or Ekfac is inverted exactly; for another
        operator of an objective the approximation's inverse is applied, and the residual is that
        of the operator asked about.
    tol : float
        The relative residual that counts as converged.
    reason : str
        Why this method.
    """

    trust = (
        "The inverse is K-FAC's or EK-FAC's in closed form: where the matrix asked about is "
        "another one, the residual is the mistake; where it is the approximation itself, the "
        "residual is rounding and says nothing of its distance from Gauss-Newton"
    )
    kind: type[Kfac | Ekfac]
    block = 2**19  # what stays in a processor's cache is turned fastest

    def __init__(
        self,
        operator: LinearOperator,
        tol: float,
        max_iterations: int | None = None,
        reason: str = "asked for",
    ) -> None:
        self.operator, self.tol = operator, tol
        found = as_kronecker(operator)
        if found is None:
            approximation, scale = self._approximate(operator), 1.0
            self._status = Status.APPROXIMATE
            told = f"the inverse of {type(approximation).__name__} instead of the operator's"
        else:
            approximation, scale = found
            self._status = Status.CONVERGED
            told = (
                "closed form; the matrix is itself an approximation, "
                f"{type(approximation).__name__} with the {approximation.fisher} Fisher"
            )
        self.method = type(approximation).__name__.lower()
        self.method_reason = f"{reason}: {told}"
        self.approximation = approximation
        self._exact = operator.double()
        damping = total_damping(operator)[0]
        self._blocks = [_Inverse(block, scale, damping) for block in approximation.blocks]
        self._rest = scale * (approximation.rest_values + approximation.shift[approximation.rest])
        self._rest = self._rest + damping
        smallest = [block.smallest for block in self._blocks]
        largest = [block.largest for block in self._blocks]
        if len(self._rest):
            smallest.append(float(self._rest.min()))
            largest.append(float(self._rest.max()))
        if not math.isfinite(sum(largest)):
            raise ValueError(NOT_FINITE)
        self._min = min(smallest)
        null = RANK_TOLERANCE * math.sqrt(operator.size) * max(largest)
        self._singular = self._min <= null
        for block in self._blocks:
            block.drop(null)
        self._rest_inverse = torch.where(self._rest > null, 1 / self._rest, 0.0)
        # Rotations in float32 leave a residual of about its rounding times the condition.
        single = max(largest) * _ROUNDING <= tol * self._min and _TINY < self._min < 1 / _TINY
        least = torch.promote_types(operator.dtype, torch.float32)
        self._dtype = least if single else torch.float64
        self._closed = found is not None and self._dtype == operator.dtype
        self.single = self._closed

    def _approximate(self, operator: LinearOperator) -> KroneckerOperator:
        objectives = [getattr(leaf, "objective", None) for leaf in leaves(operator)]
        known = [objective for objective in objectives if objective is not None]
        if len(known) != 1 or known[0].space.size != operator.size:
            raise ValueError(
                f'method "{self.kind.__name__.lower()}" needs the curvature of one Objective plus '
                f"damping, got {type(operator).__name__} of {len(known)} objectives; use "
                'method="cg"'
            )
        return self.kind(known[0])

    def _apply(self, b: Tensor) -> Applied:
        given = b.dtype
        with flushing_subnormals():
            b = b.to(self._dtype)
            x, rest = torch.empty_like(b), self.approximation.rest
            x[rest] = self._rest_inverse.to(b.dtype)[:, None] * b[rest]
            left = (b[rest] - self._rest.to(b.dtype)[:, None] * x[rest]).square().sum(0)
            for block in self._blocks:
                left += block.solve(b, x)
        status = Status.RANK_DEFICIENT if self._singular else self._status
        # Eigenvectors are orthonormal: the residual's norm is that of its coordinates.
        norms = (left / b.square().sum(0)).double().sqrt() if self._closed else None
        return Applied(x.to(given), 0, status, self._min, norms=norms)

    def _product(self, x: Tensor) -> Tensor:
        with flushing_subnormals():
            return self._exact.matmat(x.to(self._exact.dtype)).double()

    def _quadratic_form(self, b: Tensor) -> Tensor:
        rest = b[self.approximation.rest].square()
        form = (self._rest_inverse[:, None] * rest).sum(0)
        for block in self._blocks:
            form += block.quadratic_form(b)
        return form

    def logdet(self) -> float:
        """Return log det A; −inf where A is singular."""
        if self._singular:
            return -math.inf
        return float(self._rest.log().sum()) + sum(block.logdet() for block in self._blocks)

    def trace(self) -> float:
        """Return the trace of A⁻¹; inf where A is singular."""
        if self._singular:
            return math.inf
        return float((1 / self._rest).sum()) + sum(block.trace() for block in self._blocks)


class KfacFactorization(_KroneckerFactorization):
    """The inverse of K-FAC plus damping, exact by eigenvectors: no damping of the factors."""

    kind = Kfac


class EkfacFactorization(_KroneckerFactorization):
    """The inverse of EK-FAC plus damping, exact."""

    kind = Ekfac


class _Inverse:
    """Of one block: diag(d) − c u u' for each output direction, with u the bias's row."""

    def __init__(self, block: Block, scale: float, damping: float) -> None:
        self._block = block
        self._d = scale * (block.values + block.decay) + damping
        self._c = scale * (block.decay - block.bias_decay)
        self._u = block.inner[-1]
        self.largest = float(self._d.max())
        self.smallest = float((self._d - max(self._c, 0.0) * self._u.square()).min())

    def drop(self, null: float) -> None:
        """Prepare the inverse, with nothing along directions of eigenvalues up to ``null``."""
        self._inverse = torch.where(self._d > null, 1 / self._d, 0.0)
        if self._c:
            self._z = self._inverse * self._u  # (o, m)
            self._rest = 1 - self._c * (self._z * self._u).sum(1)
            if bool((self._rest <= RANK_TOLERANCE).any()) or bool((self._d <= null).any()):
                raise ValueError(
                    "a bias has another weight decay than its weights, and the curvature with it "
                    "is singular: add damping, for instance A + 1e-6"
                )

    def _divide(self, z: Tensor) -> Tensor:
        """Return the inverse times coordinates (k, o, m)."""
        divided = self._inverse.to(z.dtype) * z
        if self._c:
            along = self._z.to(z.dtype)
            pull = (along * z).sum(2) * (self._c / self._rest).to(z.dtype)
            divided += along * pull[:, :, None]
        return divided

    def solve(self, b: Tensor, x: Tensor) -> Tensor:
        """Write the block's part of A⁻¹b into x; return the squared norms of b − A x on it."""
        z = self._block.rotate(b.T)
        self._block.restore(self._divide(z), x.T)
        back = self._block.rotate(x.T)
        z -= self._d.to(z.dtype) * back
        if self._c:
            u = self._u.to(z.dtype)
            z += self._c * (back @ u)[:, :, None] * u
        return z.square_().sum((1, 2))

    def quadratic_form(self, b: Tensor) -> Tensor:
        z = self._block.rotate(b.T)
        return (z * self._divide(z)).sum((1, 2))

    def logdet(self) -> float:
        bordered = float(self._rest.log().sum()) if self._c else 0.0
        return float(self._d.log().sum()) + bordered

    def trace(self) -> float:
        total = float(self._inverse.sum())
        if self._c:
            total += float((self._c * self._z.square().sum(1) / self._rest).sum())
        return total
