"""Low-rank approximations of a curvature that keep what is known of the rest: its diagonal."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from trustml.core.validation import check_positive_int
from trustml.ihvp.hessian import Hessian
from trustml.ihvp.matrices import Diagonal
from trustml.ihvp.operators import (
    Damped,
    FactoredOperator,
    LinearOperator,
    Restricted,
    Scaled,
    Sum,
)

KINDS = ("lanczos", "nystrom", "sketch")
# Columns that a Krylov space grows by: enough for repeated eigenvalues and for fast products.
_BLOCK = 8
_FIRST_RANK = 16
# Probes, and power iterations with them, that estimate what an approximation leaves out.
_PROBES, _POWERS = 4, 3
_DEPENDENT = 1e-10
Multiply = Callable[[Tensor], Tensor]


def known_diagonal(operator: LinearOperator) -> Tensor:
    """Return the part of an expression that is known to be diagonal, (p,) in float64.

    It is the damping, the weight decay and every ``Diagonal`` that was added; what is left of the
    matrix is low rank or unknown.

    Parameters
    ----------
    operator : LinearOperator
        An expression.

    Returns
    -------
    Tensor of shape (p,)
    """
    if isinstance(operator, FactoredOperator):
        return operator.shift.double()
    if isinstance(operator, Diagonal):
        return operator.entries.double()
    if isinstance(operator, Hessian):
        return operator.objective.weight_decay.double()
    if isinstance(operator, Damped):
        return known_diagonal(operator.inner) + operator.damping
    if isinstance(operator, Scaled):
        return operator.factor * known_diagonal(operator.inner)
    if isinstance(operator, Sum):
        return known_diagonal(operator.left) + known_diagonal(operator.right)
    if isinstance(operator, Restricted):
        return known_diagonal(operator.inner)[operator.indices]
    return torch.zeros(operator.size, dtype=torch.float64, device=operator.device)


class LowRankApproximation(FactoredOperator):
    """A ≈ K'K + diag(d): d is what is known of the diagonal, K'K approximates the rest.

    The complement of the low-rank part is kept: its eigenvalues are d, weight decay and damping
    included, so that the inverse is 1/d there and not 0. Solve with ``method="dual"``, exact for
    it whatever p.

    Parameters
    ----------
    operator : LinearOperator
        A, with or without damping. Negative eigenvalues of A − diag(d) are left out.
    rank : int
        Rows of K; "sketch" needs twice as many products, the others as many.
    kind : {"lanczos", "nystrom", "sketch"}
        "lanczos" is best for a given number of products. "nystrom" multiplies once, all columns
        together. "sketch" multiplies a second time, for slowly decaying eigenvalues.
    random_state : int
        Seeds the random start; the global generator is not touched.

    Attributes
    ----------
    rank : int
        Rows of K that are not zero.
    captured : float
        Share of the trace of A − diag(d) that K'K has, estimated from random signs, in [0, 1].
    error : float
        Estimate of ‖A − K'K − diag(d)‖ by a few power iterations; a lower bound.

    Raises
    ------
    ValueError
        If ``kind`` is unknown or ``rank`` not in 1..p.

    References
    ----------
    Frangella, Tropp and Udell (2023), Randomized Nyström preconditioning, arXiv:2110.02820.
    Halko, Martinsson and Tropp (2011), Finding structure with randomness, arXiv:0909.4061.

    Examples
    --------
    >>> from trustml.ihvp import Dense, solve
    >>> A = Dense(torch.diag(torch.tensor([9.0, 4.0, 0.0, 0.0])), is_psd=True) + 0.5
    >>> low = LowRankApproximation(A, rank=2, kind="lanczos")
    >>> low.rank, round(low.captured, 4)
    (2, 1.0)
    >>> solve(low, torch.ones(4), "dual").x
    tensor([0.1053, 0.2222, 2.0000, 2.0000])
    """

    def __init__(
        self,
        operator: LinearOperator,
        rank: int,
        kind: str = "lanczos",
        random_state: int = 0,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
        if not isinstance(operator, LinearOperator):
            raise TypeError(f"operator must be an ihvp operator, got {type(operator).__name__}")
        if check_positive_int(rank, "rank") > operator.size:
            raise ValueError(f"rank must be at most p = {operator.size}, got {rank}")
        growing = GrowingFactor(operator, kind, random_state)
        growing.grow(rank)
        self._hold(operator, kind, growing)

    @classmethod
    def adaptive(
        cls, operator: LinearOperator, most: int, kind: str = "nystrom", tol: float = 1e-3
    ) -> LowRankApproximation:
        """Return one whose rank doubles until what it leaves out is small beside the diagonal.

        Parameters
        ----------
        operator : LinearOperator
            A.
        most : int
            The largest rank.
        kind : {"lanczos", "nystrom", "sketch"}
            As in the constructor.
        tol : float
            The smallest kept eigenvalue should be below tol · min d.

        Returns
        -------
        LowRankApproximation
        """
        target = tol * max(float(known_diagonal(operator).min()), 0.0)
        found: LowRankApproximation = object.__new__(cls)
        found._hold(operator, kind, adaptive_factor(operator, kind, target, most))
        return found

    def _hold(self, operator: LinearOperator, kind: str, growing: GrowingFactor) -> None:
        self.kind = kind
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device
        self.rows, self.shift, self.scale = growing.rows, growing.shift, 1.0
        self.rank = len(self.rows)
        if not self.rank:  # a matrix that is its diagonal: one row of zeros stands for K
            self.rows = self.rows.new_zeros(1, self.size)
        self.n_factors = len(self.rows)
        self.is_psd = bool((self.shift >= 0).all())
        self.captured, self.error = growing.left_out()

    def told(self) -> str:
        """Say in words what is captured."""
        return (
            f"rank {self.rank} of {self.size} has about {self.captured:.1%} of the trace, what it "
            f"leaves out has norm about {self.error:.2g}, the known diagonal is kept"
        )

    def __repr__(self) -> str:
        """Show the kind, the rank and what it captures."""
        return f"LowRankApproximation({self.kind!r}; {self.told()})"

    def matmat(self, vectors: Tensor) -> Tensor:
        """Return the product with ``vectors`` of shape (p, k)."""
        v = vectors.double()
        return (self.rows.T @ (self.rows @ v) + self.shift[:, None] * v).to(self.dtype)

    def factors(self, examples: range | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all rows at once: (row indices (r,), K (r, 1, p))."""
        every = range(self.n_factors) if examples is None else examples
        which = torch.as_tensor(every, dtype=torch.long, device=self.device)
        yield which, self.rows[which, None]

    def factor_norms(self) -> Tensor:
        """Return the squared norms of the rows, shape (r, 1)."""
        return self.rows.square().sum(dim=1, keepdim=True)

    def factor_rows(self, examples: Tensor, columns: Tensor) -> Tensor:
        """Return some rows of K; ``columns`` is all zeros."""
        return self.rows[examples]

    def dense(self) -> Tensor:
        """Return the matrix in float64."""
        return self.rows.T @ self.rows + torch.diag(self.shift)

    def diagonal(self) -> Tensor:
        """Return the diagonal of shape (p,)."""
        return (self.rows.square().sum(dim=0) + self.shift).to(self.dtype)

    def double(self) -> LinearOperator:
        """Return the same matrix with products in float64."""
        if self.dtype == torch.float64:
            return self
        copy: LowRankApproximation = object.__new__(LowRankApproximation)
        copy.__dict__.update(self.__dict__)
        copy.dtype = torch.float64
        return copy


class GrowingFactor:
    """Rows K with K'K ≈ A − diag(d) that can be extended; all in float64 but the products.

    Attributes
    ----------
    rows : Tensor of shape (r, p)
        K, by descending eigenvalue.
    values : Tensor of shape (r,)
        Eigenvalues of K'K, or estimates of them.
    shift : Tensor of shape (p,)
        d.
    products : int
        Columns multiplied so far.
    """

    def __init__(self, operator: LinearOperator, kind: str, random_state: int = 0) -> None:
        self.shift = known_diagonal(operator)
        self._operator, self._kind = operator, kind
        self._definite = operator.is_psd
        self._rounding = torch.finfo(operator.dtype).eps
        self._generator = torch.Generator().manual_seed(random_state)
        self._basis = torch.zeros(operator.size, 0, dtype=torch.float64, device=operator.device)
        self._images = self._basis
        self._next = self._basis
        self.rows, self.values = self._basis.T, self._basis.new_zeros(0)
        self.products = 0

    def multiply(self, columns: Tensor) -> Tensor:
        """Return (A − diag(d)) times float64 columns."""
        self.products += columns.shape[1]
        product = self._operator.matmat(columns.to(self._operator.dtype)).double()
        if not bool(torch.isfinite(product).all()):
            raise ValueError(
                "the operator's products have NaN or infinite entries; check the model's outputs "
                "and loss on its training data"
            )
        return product - self.shift[:, None] * columns

    def grow(self, rank: int) -> None:
        """Extend to ``rank`` dimensions and recompute K."""
        if self._kind == "lanczos":
            while self._basis.shape[1] < rank:
                width = min(_BLOCK, rank - self._basis.shape[1])
                block = self._extension(self._next[:, :width], width)
                self._next = self.multiply(block)
                self._append(block, self._next)
        else:
            block = self._extension(self._next, rank - self._basis.shape[1])
            self._append(block, self.multiply(block))
        span, images = self._basis, self._images
        if self._kind == "sketch":
            span = torch.linalg.qr(images)[0]
            images = self.multiply(span)
        inner = span.T @ images
        values, vectors = torch.linalg.eigh((inner + inner.T) / 2)
        if self._definite or self._kind == "nystrom":
            # The images know the matrix outside the span, too: C V (V'CV)⁻¹ V'C.
            keep = values > 10 * self._rounding * values.abs().max()
            rows = (images @ vectors[:, keep] / values[keep].sqrt()).T
            values, vectors = torch.linalg.eigh(rows @ rows.T)
            self.values = values.flip(0).clamp_min(0)
            self.rows = (vectors.T @ rows).flip(0)
            return
        keep = values > 0
        self.values = values[keep].flip(0)
        self.rows = ((span @ vectors[:, keep]) * self.values.flip(0).sqrt()).T.flip(0)

    def _extension(self, wanted: Tensor, width: int) -> Tensor:
        """Return ``width`` orthonormal columns outside the basis: the wanted ones, then random."""
        block = self._outside(wanted)
        while block.shape[1] < width:
            fresh = torch.randn(
                len(self._basis), width, generator=self._generator, dtype=torch.float64
            ).to(self._basis.device)
            fresh = fresh - block @ (block.T @ fresh)
            fresh = self._outside(fresh)[:, : width - block.shape[1]]
            block = torch.linalg.qr(torch.cat([block, fresh], dim=1))[0]
        return block

    def _outside(self, columns: Tensor) -> Tensor:
        size = columns.norm(dim=0)
        columns = columns[:, size > 0] / size[size > 0]
        rest = columns - self._basis @ (self._basis.T @ columns)
        # What the basis holds already is rounding, and would be found again.
        rest = _orthonormal(rest[:, rest.norm(dim=0) > 1e3 * self._rounding])
        return _orthonormal(rest - self._basis @ (self._basis.T @ rest))

    def _append(self, block: Tensor, images: Tensor) -> None:
        self._basis = torch.cat([self._basis, block], dim=1)
        self._images = torch.cat([self._images, images], dim=1)

    def left_out(self) -> tuple[float, float]:
        """Estimate the share of the trace that K'K has, and the norm of the rest."""
        signs = torch.randint(
            0, 2, (len(self.shift), _PROBES), generator=self._generator, dtype=torch.float64
        )
        z = (2 * signs - 1).to(self.shift.device)
        rest, norm = self._rest(z), 0.0
        missing = max(float((z * rest).sum()) / _PROBES, 0.0)
        for _ in range(_POWERS - 1):
            sizes = rest.norm(dim=0)
            if not bool((sizes > 0).any()):
                break
            rest = self._rest(rest[:, sizes > 0] / sizes[sizes > 0])
            norm = max(norm, float(rest.norm(dim=0).max()))
        held = float(self.rows.square().sum())
        return (held / (held + missing) if held + missing > 0 else 1.0), norm

    def _rest(self, columns: Tensor) -> Tensor:
        return self.multiply(columns) - self.rows.T @ (self.rows @ columns)


def adaptive_factor(
    operator: LinearOperator, kind: str, target: float, most: int, random_state: int = 0
) -> GrowingFactor:
    """Double the rank until the smallest kept eigenvalue is at most ``target``.

    Parameters
    ----------
    operator : LinearOperator
        A.
    kind : {"lanczos", "nystrom", "sketch"}
        As for ``LowRankApproximation``.
    target : float
        What the smallest kept eigenvalue of A − diag(d) should reach.
    most : int
        The rank is at most this.
    random_state : int
        Seeds the random start.

    Returns
    -------
    GrowingFactor
    """
    factor = GrowingFactor(operator, kind, random_state)
    rank = min(_FIRST_RANK, most, operator.size)
    while True:
        factor.grow(rank)
        # A Lanczos space has small Ritz values early: ask for the upper half to be below.
        middle = len(factor.values) // 2 if kind == "lanczos" else len(factor.values) - 1
        reached = len(factor.values) < rank or float(factor.values[max(middle, 0)]) <= target
        if reached or rank >= min(most, operator.size):
            return factor
        rank = min(2 * rank, most, operator.size)


def _orthonormal(block: Tensor) -> Tensor:
    """Return an orthonormal basis of the columns' span; dependent columns vanish."""
    if block.shape[1] == 0:
        return block
    values, vectors = torch.linalg.eigh(block.T @ block)
    keep = values > _DEPENDENT * values[-1].clamp_min(1e-300)
    basis: Tensor = torch.linalg.qr(block @ (vectors[:, keep] / values[keep].sqrt()))[0]
    return basis


__all__ = ["KINDS", "GrowingFactor", "LowRankApproximation", "adaptive_factor", "known_diagonal"]
