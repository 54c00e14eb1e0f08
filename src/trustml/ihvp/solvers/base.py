"""What all solvers share: input checks, zero columns, the certificate, the warning."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trustml.ihvp.operators import LinearOperator, check_columns, total_damping
from trustml.ihvp.quadratic import probes
from trustml.ihvp.solution import Solution, Status, relative_norms, warn_if_doubtful


@dataclass(frozen=True)
class Applied:
    """What a method hands back for a block of nonzero right-hand sides.

    ``x`` is in their dtype: float64, but for methods that take ``single`` ones.
    ``products`` counts the columns that the exact operator was multiplied with. ``norms`` are the
    relative norms of b − A x for x rounded to the operator's dtype, where the method knows them:
    the certificate.
    """

    x: Tensor
    iterations: int
    status: Status
    min_ritz: float
    products: int = 0
    norms: Tensor | None = None


class Factorization(ABC):
    """A prepared inverse: all work that needs no right-hand side is done.

    Made by ``factorize``; concrete classes implement ``_apply``, ``_product``,
    ``_quadratic_form``, ``logdet`` and ``trace``.

    Attributes
    ----------
    operator : LinearOperator
        The exact matrix, damping included; it certifies every answer.
    method, method_reason : str
        Which method, and why.
    tol : float
        The relative residual that counts as converged.
    trust : str
        How far to trust the method's answers: a sentence of every ``Solution.summary()``.
    block : int or None
        Numbers of right-hand sides that a direct method takes at a time; None: all at once.
    single : bool
        Whether ``_apply`` takes right-hand sides in the operator's dtype, too.
    """

    operator: LinearOperator
    method: str
    method_reason: str
    tol: float
    trust: str = ""
    block: int | None = None
    single: bool = False

    def __repr__(self) -> str:
        """Show what was prepared, and why so."""
        name, p = type(self).__name__, self.operator.size
        return f"{name}(p={p}, tol={self.tol:g}; {self.method_reason})"

    @abstractmethod
    def _apply(self, b: Tensor) -> Applied:
        """Solve for float64 columns (p, k), none of them zero."""

    @abstractmethod
    def _product(self, x: Tensor) -> Tensor:
        """Return A x in float64, by the exact operator or its verified float64 copy."""

    @abstractmethod
    def _quadratic_form(self, b: Tensor) -> Tensor:
        """Return b'A⁻¹b in float64 for float64 columns (p, k)."""

    @abstractmethod
    def logdet(self) -> float:
        """Return log det A; −inf where A is singular, NaN never: an indefinite A raises."""

    @abstractmethod
    def trace(self) -> float:
        """Return the trace of A⁻¹; inf where A is singular."""

    def solve(self, B: Tensor) -> Solution:
        """Solve A x = b for each column of ``B``.

        Parameters
        ----------
        B : Tensor of shape (p,) or (p, k)
            Right-hand sides on the operator's device, in its dtype or in float64; finite.

        Returns
        -------
        Solution
            With the true relative residual of each column.
        """
        return self._solve(B, stacklevel=3)

    def _solve(self, B: Tensor, stacklevel: int) -> Solution:
        columns = self._check(B)
        x: Tensor | None = None
        residual = torch.zeros(columns.shape[1], dtype=torch.float64, device=columns.device)
        applied, products = Applied(columns[:, :0].double(), 0, Status.CONVERGED, float("nan")), 0
        step = max(1, columns.shape[1] if self.block is None else self.block // len(columns))
        for start in range(0, columns.shape[1], step):
            part = slice(start, start + step)
            nonzero = (columns[:, part] != 0).any(dim=0)
            if not bool(nonzero.any()):
                continue
            # A view where no column is left out: copies of a large block are dear.
            every = bool(nonzero.all())
            b = columns[:, part] if every else columns[:, part][:, nonzero]
            unit, scale = _scaled(b, self.single)
            applied = self._apply(unit)
            plain = bool((scale == 1).all())
            answer = (applied.x if plain else applied.x * scale).to(columns.dtype)
            if not _all_finite(answer):
                raise ValueError(
                    f"the answer overflows {columns.dtype}: right-hand sides are as large as "
                    f"{float(b.abs().max()):.1e} for this matrix; scale them, or the loss"
                )
            products += applied.products
            norms = applied.norms
            # Scaling rounds nothing, but where the answer leaves the range of its dtype.
            if norms is None or not (plain or torch.equal(answer.double() / scale, applied.x)):
                found = answer.double() / scale
                norms = relative_norms(unit.double() - self._product(found), unit)
                products += found.shape[1]
            place = torch.arange(start, start + len(nonzero), device=columns.device)[nonzero]
            where = part if every else place
            residual[where] = norms
            if answer.shape == columns.shape:  # all at once: no copy
                x = answer
                break
            x = torch.zeros_like(columns) if x is None else x
            x[:, where] = answer
        x = torch.zeros_like(columns) if x is None else x
        converged = residual <= self.tol
        damping, reason = total_damping(self.operator)
        solution = Solution(
            x=x[:, 0] if B.ndim == 1 else x,
            relative_residual=residual,
            iterations=applied.iterations,
            converged=converged,
            damping=damping,
            damping_reason=reason,
            method=self.method,
            method_reason=self.method_reason,
            min_ritz=applied.min_ritz,
            status=_settle(applied.status, bool(converged.all()), applied.iterations),
            tol=self.tol,
            products=products,
            trust=self.trust,
        )
        warn_if_doubtful(solution, stacklevel)
        return solution

    def apply(self, B: Tensor) -> Tensor:
        """Return A⁻¹ B without a certificate; for bulk work after a certified ``solve``.

        Parameters
        ----------
        B : Tensor of shape (p,) or (p, k)
            As for ``solve``.

        Returns
        -------
        Tensor
            Shaped as ``B``.
        """
        columns = self._check(B)
        x = torch.zeros_like(columns)
        nonzero = (columns != 0).any(dim=0)
        if bool(nonzero.any()):
            unit, scale = _scaled(columns[:, nonzero])
            x[:, nonzero] = (self._apply(unit).x * scale).to(columns.dtype)
        return x[:, 0] if B.ndim == 1 else x

    def quadratic_form(self, B: Tensor) -> Tensor:
        """Return b'A⁻¹b for each column of ``B``.

        Parameters
        ----------
        B : Tensor of shape (p,) or (p, k)
            As for ``solve``.

        Returns
        -------
        Tensor of shape (k,)
            In the dtype of ``B``.
        """
        columns = self._check(B)
        unit, scale = _scaled(columns)
        return (self._quadratic_form(unit) * scale.square()).to(columns.dtype)

    def _check(self, B: Tensor) -> Tensor:
        columns = check_columns(self.operator, B, "B", wide=True)
        if not _all_finite(columns):
            bad = (~torch.isfinite(columns)).any(dim=0).nonzero().flatten().tolist()
            raise ValueError(
                f"B has NaN or infinite entries in columns {bad[:5]}; a gradient that overflowed "
                "must be fixed before it is solved for"
            )
        return columns


def verify(
    exact: LinearOperator, copy: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> Callable[[Tensor], Tensor]:
    """Compare a copy of the matrix with the operator's products on two random vectors.

    Parameters
    ----------
    exact : LinearOperator
        In float64 where that is possible.
    copy : callable
        Products of the copy.
    dtype : torch.dtype
        Of the operator that was given.

    Returns
    -------
    callable
        What certifies: the copy if it agrees, the operator if they differ by rounding.

    Raises
    ------
    ValueError
        If a product is not finite, or the operator is not symmetric and deterministic.
    """
    z = probes(exact, 2)
    reference = exact.matmat(z).double()
    if not bool(torch.isfinite(reference).all()):
        raise ValueError(NOT_FINITE)
    size = max(float(reference.norm()), 1e-300)
    if (
        float((reference - copy(z.double())).norm())
        <= (1e-7 if dtype == torch.float64 else 1e-3) * size
    ):
        return copy
    again = float((exact.matmat(z).double() - reference).norm()) / size
    z = probes(exact, 8)
    reference = exact.matmat(z).double()
    cross = z.double().T @ reference
    skew = float((cross - cross.T).abs().max()) / float(z.double().norm() * reference.norm())
    if max(again, skew) > 1e-5:
        raise ValueError(
            f"the operator's products change from call to call (by {again:.1e}) or are not "
            f"symmetric (by {skew:.1e}): its product must be linear, symmetric and deterministic; "
            "look for randomness in the model's forward()"
        )
    return _Exact(exact)


@dataclass(frozen=True)
class _Exact:
    """Products by the operator itself; no closure, so that a fitted inverse can be pickled."""

    operator: LinearOperator

    def __call__(self, x: Tensor) -> Tensor:
        return self.operator.matmat(x.to(self.operator.dtype)).double()


def _all_finite(x: Tensor) -> bool:
    """Tell it from the sum, which needs no second block of memory; look closer if it overflows."""
    return math.isfinite(float(x.sum())) or bool(torch.isfinite(x).all())


# Sizes whose squares and quotients stay far from overflow, in float32 too.
_SAFE = 1e-12


def _scaled(b: Tensor, single: bool = False) -> tuple[Tensor, Tensor]:
    """Return columns whose norms cannot overflow, in float64 unless ``single``; and their scale."""
    size = b.abs().amax(dim=0).double()
    if bool(((size > _SAFE) & (size < 1 / _SAFE)).all()):
        return b if single else b.double(), torch.ones_like(size)
    # A power of two: scaling rounds nothing.
    scale = torch.where(size > 0, torch.exp2(size.log2().floor()), 1.0)
    return b.double() / scale, scale


NOT_FINITE = (
    "the operator's products have NaN or infinite entries; check the model's outputs and loss on "
    "its training data"
)


def _settle(status: Status, all_converged: bool, iterations: int) -> Status:
    """Let the certificate overrule the method's own opinion."""
    if status is Status.CONVERGED and not all_converged:
        return Status.INACCURATE
    doubtful = (Status.MAX_ITERATIONS, Status.INACCURATE, Status.APPROXIMATE)
    if status in doubtful and all_converged:
        return Status.CONVERGED
    return status
