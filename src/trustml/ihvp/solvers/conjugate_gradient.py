"""Preconditioned block conjugate gradients that judge themselves by the true residual."""

from __future__ import annotations

import copy
import threading
from typing import Any

import torch
from torch import Tensor

from trustml.core import distributed
from trustml.ihvp.operators import LinearOperator
from trustml.ihvp.preconditioners import Preconditioner, build_preconditioner
from trustml.ihvp.solution import Status
from trustml.ihvp.solvers.base import Applied
from trustml.ihvp.solvers.iterative import IterativeFactorization, checked
from trustml.ihvp.solvers.krylov import Directions, Matrix, identity, solve_block
from trustml.ihvp.solvers.probing import choose_preconditioner
from trustml.ihvp.solvers.sketch import BOUND, SKETCH, Sketch

# Columns solved together: they share one Krylov space.
BLOCK = 64
# Bytes for search directions that are kept, to stay conjugate to them and to start later blocks.
_HISTORY = 2**28
# Bytes for the eight float64 vectors that a column of a block has.
_WORK = 2**31
# So many right-hand sides, in sketches, are certified by one; and the bytes it may hold.
_MANY, _SKETCHED = 2, 2**28
# Below so many units of its rounding, a float32 product cannot judge a residual.
_JUDGE = 100.0


# Threads that share a factorisation share its directions; products take turns anyway.
_ONE_AT_A_TIME = threading.RLock()


_TRUST = (
    "The residual is a true one, by a product with the matrix itself: the relative error of x is "
    "at most that times the matrix's condition number"
)
_TRUST_BOUND = (
    f"The residual is a true one or {BOUND}: the relative error of x is at most that times the "
    "matrix's condition number"
)


class ConjugateGradientFactorization(IterativeFactorization):
    """Conjugate gradients on blocks of right-hand sides, with float64 recurrences.

    The search directions of a block are orthonormalised, so dependent, equal or zero columns
    cannot break it down, and kept conjugate to all earlier ones that fit into memory, condensed
    to their leading Ritz vectors where they do not. Later blocks start from them, and so do later
    questions to the same factorisation. A converged column is frozen. The residuals that decide
    are true residuals, recomputed every 50 iterations and before a column counts as converged; in
    float64 where the tolerance is too tight for float32. Many right-hand sides share products with
    a few random columns instead, which bound the residual of any x. Directions of negative
    curvature are left out of the step, and the columns that lean on them are frozen and reported.

    Parameters
    ----------
    operator : LinearOperator
        The matrix, damping included; known by products alone.
    tol : float
        A column stops at ‖b − A x‖ ≤ tol · ‖b‖.
    max_iterations : int or None
        None means min(10·p, 2000).
    reason : str
        Why this method.
    preconditioner : str or Preconditioner
        "none", "jacobi", "nystrom", "blocks", "kfac", "ekfac" or an object; "auto" is chosen at
        the first question by a few iterations of each.

    References
    ----------
    O'Leary (1980), The block conjugate gradient algorithm and related methods. Ji and Li (2017),
    A breakdown-free block conjugate gradient method. Parks et al. (2006), Recycling Krylov
    subspaces for sequences of linear systems.
    """

    trust = _TRUST

    def __init__(
        self,
        operator: LinearOperator,
        tol: float,
        max_iterations: int | None = None,
        reason: str = "asked for",
        preconditioner: str | Preconditioner = "none",
    ) -> None:
        self.operator, self.tol = operator, tol
        self._max_iterations = max_iterations or min(10 * operator.size, 2000)
        self.method, self.method_reason = "cg", reason
        self._block = max(1, min(BLOCK, _WORK // (64 * operator.size)))
        self._history = self._fresh()
        self._sketch: Sketch | None = None
        self._choosing = isinstance(preconditioner, str) and preconditioner == "auto"
        self.preconditioner = build_preconditioner(
            "none" if self._choosing else preconditioner, operator
        )
        rounding = torch.finfo(operator.dtype).eps
        self._exact = operator.double() if tol < _JUDGE * rounding else operator
        self._matrix = Matrix(self._multiply, self._product, operator.dtype, rounding)
        self._sketches = 16 * SKETCH * operator.size <= _SKETCHED

    def __getstate__(self) -> dict[str, Any]:
        """Leave the directions behind: a copy collects its own."""
        return self.__dict__ | {"_history": self._fresh(), "_sketch": None}

    def _fresh(self) -> Directions:
        return Directions(self.operator.size, _HISTORY, self.operator.dtype)

    def _apply(self, b: Tensor) -> Applied:
        # In its own part of a pass a process may not change what must stay alike on all.
        asked = copy.copy(self) if distributed.inside_pass() else self
        with _ONE_AT_A_TIME:
            return asked._answer(b)

    def _answer(self, b: Tensor) -> Applied:
        spent = 0
        if self._choosing:
            choice = choose_preconditioner(
                self.operator,
                self._matrix,
                b,
                self.tol,
                self._max_iterations,
                self._block,
                _HISTORY,
            )
            self.preconditioner, self._history = choice.preconditioner, choice.history
            self.method_reason += f"; {choice.reason}"
            self._choosing, spent = False, choice.products
        if self._sketch is None and b.shape[1] >= _MANY * SKETCH and self._sketches:
            kind = self._exact.dtype
            self._sketch = Sketch(self._product, self.operator.size, kind, self.operator.device)
            self.trust = _TRUST_BOUND
            spent += SKETCH
        parts: list[Applied] = []
        for block in torch.split(b, self._block, dim=1):
            part, open_columns = self._solve_block(block, self._history)
            if part.status is Status.NEGATIVE_CURVATURE:
                # The space that the columns share met it: see which of them do so on their own.
                self._history = self._fresh()
                if block.shape[1] > 1:
                    part = self._one_by_one(block, part, open_columns)
            parts.append(part)
        x = torch.cat([part.x for part in parts], dim=1)
        return _worst(x, torch.cat([_measured(part) for part in parts]), parts, spent)

    def _one_by_one(self, block: Tensor, part: Applied, open_columns: Tensor) -> Applied:
        x, norms = part.x.clone(), _measured(part).clone()
        alone = []
        for j in open_columns.nonzero().flatten().tolist():
            single, _ = self._solve_block(block[:, j : j + 1], self._fresh())
            x[:, j : j + 1], norms[j : j + 1] = single.x, _measured(single)
            alone.append(single)
        return _worst(x, norms, alone, part.products)

    def _solve_block(self, block: Tensor, history: Directions) -> tuple[Applied, Tensor]:
        plain = self.preconditioner.name == "none"
        precondition = identity if plain else self.preconditioner.apply
        return solve_block(
            self._matrix,
            block,
            self.tol,
            self._max_iterations,
            history,
            precondition,
            self._sketch,
        )

    def _multiply(self, x: Tensor) -> Tensor:
        return checked(self.operator.matmat(x.to(self.operator.dtype)))

    def _product(self, x: Tensor) -> Tensor:
        return checked(self._exact.matmat(x.to(self._exact.dtype)))


def _measured(part: Applied) -> Tensor:
    if part.norms is None:
        raise ValueError("a block was solved without measuring its residual")
    return part.norms


def _worst(x: Tensor, norms: Tensor, parts: list[Applied], spent: int) -> Applied:
    """Join the verdicts of several solves: the gravest one counts."""
    gravity = [
        Status.CONVERGED,
        Status.INACCURATE,
        Status.MAX_ITERATIONS,
        Status.NEGATIVE_CURVATURE,
    ]
    return Applied(
        x,
        max(part.iterations for part in parts),
        max((part.status for part in parts), key=gravity.index),
        min(part.min_ritz for part in parts),
        sum(part.products for part in parts) + spent,
        norms,
    )
