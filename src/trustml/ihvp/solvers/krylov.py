"""A-orthogonal search directions that outlive their solve, and the block iteration on them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trustml.ihvp.solution import Status
from trustml.ihvp.solvers.base import Applied
from trustml.ihvp.solvers.sketch import Sketch

_REFRESH = 50
_DEPENDENT = 1e-10
# A step along a residual of so many times the goal may end below it.
_NEAR = 300.0
# Ritz values below this multiple of the smallest are not worth keeping.
_BOTTOM = 1.01
Multiply = Callable[[Tensor], Tensor]


class Directions:
    """Search directions P and products Q = A P with P'Q = I; what does not fit is condensed.

    Parameters
    ----------
    size : int
        p.
    memory : int
        Bytes for P and Q; two blocks are kept whatever it says.
    dtype : torch.dtype
        Of the products: more digits are not worth holding.
    """

    def __init__(self, size: int, memory: int, dtype: torch.dtype) -> None:
        self._room = max(2, memory // (2 * dtype.itemsize * size))
        self._dtype, self._settled = dtype, 0
        self._p: list[Tensor] = []
        self._q: list[Tensor] = []

    @property
    def count(self) -> int:
        """How many are held."""
        return sum(block.shape[1] for block in self._p)

    def append(self, p: Tensor, q: Tensor) -> None:
        """Add a block that is A-orthonormal to all others."""
        self._p.append(p.to(self._dtype))
        self._q.append(q.to(self._dtype))
        if len(self._p) > 2 and self.count > self._room:
            self._condense()
        elif len(self._p) > 16:
            # A few large blocks multiply faster than many small ones; the newest stay apart.
            self._join(slice(0, -1))

    def _join(self, which: slice) -> None:
        self._p[which] = [torch.cat(self._p[which], dim=1)]
        self._q[which] = [torch.cat(self._q[which], dim=1)]

    def _condense(self) -> None:
        """Keep the newest block, which CG must stay conjugate to, and leading Ritz vectors."""
        self._join(slice(0, -1))
        kept = max(1, (self._room - self._p[-1].shape[1]) // 2)
        _, vectors = self._ritz()
        self._p[0], self._q[0] = self._p[0] @ vectors[:, :kept], self._q[0] @ vectors[:, :kept]

    def _ritz(self) -> tuple[Tensor, Tensor]:
        """Return squared lengths, ascending, and the combinations of P that have them."""
        # P'AP = I: the shortest have the largest Rayleigh quotients.
        p = self._p[0]
        lengths, vectors = torch.linalg.eigh((p.T @ p).double())
        return lengths, vectors.to(self._dtype)

    def settle(self) -> None:
        """After a block: keep the Ritz vectors away from the bottom of the spectrum.

        What lies at the bottom (the damping, as a rule) is solved by any residual in one step.
        """
        if self.count <= 1.5 * self._settled:
            return
        self._join(slice(0, None))
        lengths, vectors = self._ritz()
        keep = lengths < lengths[-1] / _BOTTOM
        self._p[0], self._q[0] = self._p[0] @ vectors[:, keep], self._q[0] @ vectors[:, keep]
        self._settled = self.count

    def conjugate(self, block: Tensor) -> Tensor:
        """Remove from the columns what is not A-orthogonal to the directions."""
        for p, q in zip(self._p, self._q, strict=True):
            block = block - p @ (q.T @ block.to(self._dtype))
        return block

    def project(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best step within the directions, and its product with A."""
        residual = residual.to(self._dtype)
        step, product = torch.zeros_like(residual), torch.zeros_like(residual)
        for p, q in zip(self._p, self._q, strict=True):
            weights = p.T @ residual
            step.addmm_(p, weights)
            product.addmm_(q, weights)
        return step, product

    def newest(self) -> tuple[Tensor, Tensor]:
        """Return the block that was added last."""
        return self._p[-1], self._q[-1]


@dataclass(frozen=True)
class Matrix:
    """What the iteration is told of A: products, and how exact they are.

    ``certify`` takes the solution in the operator's dtype; ``rounding`` is that of ``multiply``.
    """

    multiply: Multiply
    certify: Multiply
    dtype: torch.dtype
    rounding: float


def solve_block(
    matrix: Matrix,
    b: Tensor,
    tol: float,
    max_iterations: int,
    history: Directions,
    precondition: Multiply,
    sketch: Sketch | None = None,
) -> tuple[Applied, Tensor]:
    """Run a block until all converge or curvature is negative; and say which are still open."""
    run = _Run(matrix, b, tol, max_iterations, history, precondition, sketch)
    while run.step():
        pass
    history.settle()
    return run.finish(), run.active


class _Run:
    """The state of one block: x, its residual, and which columns are open or verified."""

    def __init__(
        self,
        matrix: Matrix,
        b: Tensor,
        tol: float,
        max_iterations: int,
        history: Directions,
        precondition: Multiply,
        sketch: Sketch | None,
    ) -> None:
        self.matrix, self.b, self.history, self.sketch = matrix, b, history, sketch
        self.precondition, self.max_iterations = precondition, max_iterations
        self.norms_b = _norms(b)
        self.tol, self.goal = tol, tol * self.norms_b
        self.certified = torch.full_like(self.norms_b, math.nan)
        step, product = history.project(b)
        self.x, self.residual = step.double(), b - product
        self.active = torch.ones(b.shape[1], dtype=torch.bool, device=b.device)
        self.verified = ~self.active
        self.best_x, self.best = torch.zeros_like(b), self.norms_b.clone()
        self.earlier = torch.full_like(self.best, math.inf)
        self.drift = self.earlier.clone()
        self.largest, self.min_ritz = 0.0, math.inf
        self.iterations = self.products = 0
        self.negative = self.inaccurate = False

    def step(self) -> bool:
        """Do one iteration; False at the end."""
        if self.sketch is not None:
            self._accept(self.sketch)
        norms = _norms(self.residual)
        done = self.active & (norms <= self.goal)
        refresh = self.iterations > 0 and self.iterations % _REFRESH == 0
        if bool(done.any()) or refresh:
            norms = self._verify(done, refresh)
        better = self.active & (norms < 0.5 * self.best)
        self.best_x[:, better], self.best[better] = self.x[:, better], norms[better]
        if not bool(self.active.any()) or self.iterations >= self.max_iterations:
            return False
        self._project()
        directions = self._directions()
        if directions.shape[1] == 0:
            self.inaccurate = True  # rounding hides where to go on, or b is outside the range
            return False
        products = self.matrix.multiply(directions)
        self.products += directions.shape[1]
        self.iterations += 1
        return self._advance(directions, products)

    def _verify(self, done: Tensor, refresh: bool) -> Tensor:
        """Replace residuals by true ones, of x as it will be handed back; freeze what is solved."""
        check = self.active if refresh else done
        self.x[:, check] = self.x[:, check].to(self.matrix.dtype).double()
        self.residual[:, check] = self.b[:, check] - self.matrix.certify(self.x[:, check])
        self.products += int(check.sum())
        norms: Tensor = _norms(self.residual)
        self.verified = self.verified | (check & (norms <= self.goal))
        self.active = self.active & ~self.verified
        stuck = torch.zeros_like(done)
        if refresh:
            # Near the rounding of x and of the products with it, no progress means the end.
            near = norms <= 100 * self.matrix.rounding * self.largest * _norms(self.x)
            stuck = self.active & near & (norms > 0.5 * self.earlier)
            self.earlier = norms
        # The recurrence was too optimistic: go on from the true residual while that helps.
        drifted = done & self.active
        stuck = stuck | (drifted & (norms > 0.5 * self.drift))
        self.drift = torch.where(drifted, norms, self.drift)
        self.inaccurate |= bool(stuck.any())
        better = stuck & (norms < self.best)
        self.best_x[:, better], self.best[better] = self.x[:, better], norms[better]
        self.active = self.active & ~stuck
        return norms

    def _accept(self, sketch: Sketch) -> None:
        """Freeze columns that one step along the residual solves, which takes no product to see.

        Where the directions hold what matters, the residual lies at the bottom of the spectrum.
        """
        near = self.active & (_norms(self.residual) <= _NEAR * self.goal)
        open_ = near.nonzero().flatten()
        if not len(open_):
            return
        residual = self.residual[:, open_]
        x = self.x[:, open_].addcmul_(residual, residual.new_tensor(sketch.step(residual)))
        x = x.to(self.matrix.dtype).double()
        bound = sketch.bound(x, self.b[:, open_])
        solved = bound <= self.tol
        found = open_[solved]
        self.x[:, found], self.certified[found] = x[:, solved], bound[solved]
        self.verified[found], self.active[found] = True, False

    def _project(self) -> None:
        """Take what is left of the residual within the directions: P'Q is I up to rounding only."""
        where = self._open()
        residual = self.residual[:, where]
        step, product = self.history.project(residual)
        # Where P'Q is far from I the step may lead uphill: it is not taken.
        descends = (step * residual).sum(dim=0) > (step * product).sum(dim=0) / 2
        if not bool(descends.all()):
            step, product = (torch.where(descends, part, 0.0) for part in (step, product))
        self.x[:, where] += step
        self.residual[:, where] -= product

    def _open(self) -> slice | Tensor:
        """Return which columns are open: a slice where all are, since it copies nothing."""
        return slice(None) if bool(self.active.all()) else self.active.nonzero().flatten()

    def _directions(self) -> Tensor:
        """Return orthonormal directions for the open columns, conjugate to all earlier ones."""
        open_ = self.residual[:, self._open()]
        fresh = self._conjugate(self.precondition(open_))
        if fresh.shape[1] or self.precondition is identity:
            return fresh
        return self._conjugate(open_)

    def _conjugate(self, block: Tensor) -> Tensor:
        fresh: Tensor = orthonormal(block)[:, : max(0, len(block) - self.history.count)]
        for _ in range(2):  # rounding: twice is enough
            fresh = self.history.conjugate(fresh)
        return orthonormal(fresh)

    def _advance(self, directions: Tensor, products: Tensor) -> bool:
        inner: Tensor = directions.T @ products
        inner = (inner + inner.T) / 2
        values = torch.linalg.eigvalsh(inner)
        self.largest = max(self.largest, float(values.abs().max()))
        self.min_ritz = min(self.min_ritz, float(values[0]))
        where = self._open()
        coordinates = directions.T @ self.residual[:, where]
        basis = _basis(coordinates, inner, 10 * self.matrix.rounding * self.largest)
        if basis is None:
            self.negative = True
            return False
        vectors, curvatures = basis
        if not len(curvatures):
            return False
        vectors = vectors / curvatures.sqrt()
        self.history.append(directions @ vectors, products @ vectors)
        p, q = self.history.newest()
        weights = p.T @ self.residual[:, where].to(p.dtype)
        self.x[:, where] += p @ weights
        self.residual[:, where] -= q @ weights
        return True

    def finish(self) -> Applied:
        """Return the best x of each column; all residuals are true ones."""
        norms = _norms(self.residual)
        worse = ~self.verified & (norms > self.best)
        self.x[:, worse] = self.best_x[:, worse]
        rest = ~self.verified
        if bool(rest.any()):
            self.x[:, rest] = self.x[:, rest].to(self.matrix.dtype).double()
            self.residual[:, rest] = self.b[:, rest] - self.matrix.certify(self.x[:, rest])
            self.products += int(rest.sum())
        if self.negative:
            status = Status.NEGATIVE_CURVATURE
        elif self.inaccurate:
            status = Status.INACCURATE
        else:
            status = Status.MAX_ITERATIONS if bool(self.active.any()) else Status.CONVERGED
        norms = torch.where(
            self.certified.isnan(), _norms(self.residual) / self.norms_b, self.certified
        )
        return Applied(self.x, self.iterations, status, self.min_ritz, self.products, norms)


def identity(columns: Tensor) -> Tensor:
    """Return the columns: no preconditioner."""
    return columns


def orthonormal(block: Tensor) -> Tensor:
    """Return an orthonormal basis of the columns' span; dependent columns vanish."""
    norms = _norms(block)
    block = block[:, norms > 0] / norms[norms > 0]
    for cut in (_DEPENDENT, 0.5):  # the second time only rounding is left to remove
        if block.shape[1]:
            values, vectors = torch.linalg.eigh(block.T @ block)
            keep = values > cut * values[-1]
            block = block @ (vectors[:, keep] / values[keep].sqrt())
    return block


def _norms(block: Tensor) -> Tensor:
    """Return the columns' norms; faster than torch's for row-major blocks."""
    return block.square().sum(dim=0).sqrt()


def _basis(coordinates: Tensor, inner: Tensor, floor: float) -> tuple[Tensor, Tensor] | None:
    """Return a basis of the columns' span where ``inner`` is diagonal, or None if it is not PD."""
    span = orthonormal(coordinates)
    values, vectors = torch.linalg.eigh(span.T @ inner @ span)
    if len(values) and float(values[0]) < -floor:
        return None
    keep = values > floor
    return span @ vectors[:, keep], values[keep]
