"""Stochastic and full-batch Neumann iterations, restarted from the true residual.

A round estimates A⁻¹ r for the true residual r by x ← x + M⁻¹(r − A_t x)/s, with A_t the operator
on a mini-batch, or on all data. Its noise is proportional to ‖r‖, so the rounds together converge
to the exact answer, and each starts with the certificate of the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from trustml.ihvp.matrices import Diagonal
from trustml.ihvp.objective import Objective
from trustml.ihvp.operators import Damped, LinearOperator, Restricted, Scaled, Sum, leaves
from trustml.ihvp.quadratic import is_null, lanczos, probes
from trustml.ihvp.solution import Status
from trustml.ihvp.solvers.base import Applied
from trustml.ihvp.solvers.iterative import IterativeFactorization, checked

Multiply = Callable[[Tensor], Tensor]
# Mini-batches that the data are cut into, and the rows that one has at least.
_PARTS, _LEAST_ROWS = 8, 16
_LANCZOS_STEPS = 12
# Above the largest eigenvalue that a few Lanczos steps saw.
_SAFETY = 1.1
# A scale that diverges is doubled at most so often.
_DOUBLINGS = 8
_DEFAULT_PRODUCTS = 2000


class MiniBatches:
    """The operator on parts of the data, drawn at random: unbiased, the same on every run.

    The rows are shuffled once by a seed and cut into parts; a draw is a part's operator, scaled so
    that its mean over the parts is A. Weight decay and damping are exact in each.

    Parameters
    ----------
    operator : LinearOperator
        An expression in curvatures of one objective.
    method : str
        Who asks, for the message.

    Raises
    ------
    ValueError
        If the operator is of no objective, and so has no parts.
    """

    def __init__(self, operator: LinearOperator, method: str) -> None:
        found = [getattr(leaf, "objective", None) for leaf in leaves(operator)]
        objectives = {id(one): one for one in found if isinstance(one, Objective)}
        if len(objectives) != 1:
            raise ValueError(
                f'method "{method}" draws mini-batches, so it needs the curvature of an '
                f"ihvp.Objective, got {operator!r}; for a matrix known by products alone use "
                'method="cg", "minres", "neumann", "nystrom" or "lanczos"'
            )
        objective = next(iter(objectives.values()))
        n = len(objective.data)
        self.count = max(1, min(_PARTS, n // _LEAST_ROWS))
        order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
        self.parts = [
            _on_rows(operator, rows, self.count) for rows in torch.tensor_split(order, self.count)
        ]

    def draw(self) -> Iterator[LinearOperator]:
        """Yield parts for ever: every part once in a random order, then again."""
        generator = torch.Generator().manual_seed(1)
        while True:
            for index in torch.randperm(self.count, generator=generator).tolist():
                yield self.parts[index]


def _on_rows(operator: LinearOperator, rows: Tensor, count: int) -> LinearOperator:
    """Return the expression on some rows, the data's part of it times ``count``."""
    if isinstance(operator, Damped):
        return Damped(_on_rows(operator.inner, rows, count), operator.damping, operator.reason)
    if isinstance(operator, Scaled):
        return Scaled(_on_rows(operator.inner, rows, count), operator.factor)
    if isinstance(operator, Restricted):
        return Restricted(_on_rows(operator.inner, rows, count), operator.indices)
    if isinstance(operator, Sum):
        return Sum(_on_rows(operator.left, rows, count), _on_rows(operator.right, rows, count))
    objective = getattr(operator, "objective", None)
    if not isinstance(objective, Objective):
        return operator
    others = torch.ones(len(objective.data), dtype=torch.bool)
    others[rows] = False
    part = objective.without(others) if bool(others.any()) else objective
    try:
        curvature: LinearOperator = type(operator)(part)  # type: ignore[call-arg]
    except TypeError as error:
        raise ValueError(
            f"{type(operator).__name__} has no mini-batches; use ihvp.GaussNewton or ihvp.Hessian"
        ) from error
    # n copies of the regulariser are not wanted: the part has one already.
    return Sum(Scaled(curvature, float(count)), Diagonal((1.0 - count) * objective.weight_decay))


class RichardsonFactorization(IterativeFactorization):
    """What LiSSA, the Neumann series and ASTRA share.

    Parameters
    ----------
    operator : LinearOperator
        The matrix, damping included; λ is the only knob.
    tol : float
        The relative residual that counts as converged.
    max_iterations : int or None
        Products with the operator on all data, mini-batches counted as their part; None means
        2000.
    reason : str
        Why this method.
    """

    trust = (
        "The series sees all data: the residual, by the matrix itself, says where it was cut off"
    )

    def __init__(
        self,
        operator: LinearOperator,
        tol: float,
        max_iterations: int | None = None,
        reason: str = "asked for",
    ) -> None:
        self.operator, self.tol = operator, tol
        self._budget = max_iterations or _DEFAULT_PRODUCTS
        self.method_reason = reason
        values = lanczos(operator, probes(operator, 1)[:, 0], 4 * _LANCZOS_STEPS).ritz()[0]
        checked(values)
        self._min_ritz, self._max_ritz = float(values[0]), float(values[-1])
        self._prepare()

    def _prepare(self) -> None:
        """Set what a method needs beside the operator: mini-batches, preconditioner, scale."""
        self._batches: MiniBatches | None = None
        self._precondition: Multiply | None = None
        self._scale = _SAFETY * self._max_ritz

    def _apply(self, b: Tensor) -> Applied:
        norms_b = b.norm(dim=0)
        x = torch.zeros_like(b)
        residual, best = b, torch.ones_like(norms_b)
        scale, doublings, spent, products = max(self._scale, 1e-300), 0, 0.0, 0
        epochs, stalls = 1, 0
        while spent + 2 <= self._budget and doublings <= _DOUBLINGS:
            open_ = best > self.tol
            if not bool(open_.any()):
                break
            epochs = max(1, min(epochs, int(self._budget - spent) - 1))
            step = self._round(residual[:, open_], scale, epochs)
            trial = (x[:, open_] + step).to(self.operator.dtype).double()
            spent += epochs + 1
            products += (epochs + 1) * int(open_.sum())
            error = b[:, open_] - self._product(trial) if bool(torch.isfinite(trial).all()) else b
            after = torch.nan_to_num(error.norm(dim=0) / norms_b[open_], nan=math.inf)
            if not bool(torch.isfinite(after).all()) or bool((after > 2 * best[open_]).any()):
                scale, doublings = 2 * scale, doublings + 1  # it diverges: smaller steps
                continue
            gain = float((after / best[open_]).max())
            better = after < best[open_]
            places = open_.nonzero().flatten()[better]
            x[:, places], best[places] = trial[:, better], after[better]
            residual = residual.clone()
            residual[:, places] = error[:, better]
            if not bool(better.any()):  # too large steps, or too short a round: in turns
                stalls += 1
                if stalls > 2 * _DOUBLINGS:
                    break
                scale = 2 * scale if stalls % 2 else scale
            if gain > 0.5:  # slow: a longer round averages more and needs fewer certificates
                epochs = min(2 * epochs, self._longest())
        status = Status.CONVERGED if bool((best <= self.tol).all()) else Status.MAX_ITERATIONS
        null = is_null(self._min_ritz, self._max_ritz, self.operator.dtype)
        if status is Status.MAX_ITERATIONS and self._min_ritz < 0 and not null:
            status = Status.NEGATIVE_CURVATURE
        return Applied(x, round(spent), status, self._min_ritz, products, best)

    def _longest(self) -> int:
        return max(1, self._budget // 4)

    def _round(self, r: Tensor, scale: float, epochs: int) -> Tensor:
        """Run a Neumann series for A⁻¹ r; mini-batch iterates are averaged over the last half."""
        batches = self._batches
        draws = batches.draw() if batches is not None else None
        steps = epochs * (1 if batches is None else batches.count)
        x, total, averaged = torch.zeros_like(r), torch.zeros_like(r), 0
        limit = 1e6 * float(r.norm())
        for t in range(steps):
            operator = self.operator if draws is None else next(draws)
            change = r - operator.matmat(x.to(operator.dtype)).double() if t else r
            x = x + self._precondition_or_not(change) / scale
            if draws is not None and 2 * t >= steps:
                total, averaged = total + x, averaged + 1
            if t % 8 == 7 and not float(change.norm()) <= limit:
                return torch.full_like(r, math.inf)
        return total / averaged if averaged else x

    def _precondition_or_not(self, columns: Tensor) -> Tensor:
        return columns if self._precondition is None else self._precondition(columns)

    def _product(self, x: Tensor) -> Tensor:
        return checked(self.operator.matmat(x.to(self.operator.dtype)))


def largest_of_parts(batches: MiniBatches, precondition: Multiply | None = None) -> float:
    """Return the largest eigenvalue seen of M⁻¹ A_t over the parts, by power iterations."""
    worst = 0.0
    for part in batches.parts:
        z = probes(part, 1).double()
        value = 0.0
        for _ in range(_LANCZOS_STEPS):
            z = part.matmat((z / z.norm()).to(part.dtype)).double()
            z = z if precondition is None else precondition(z)
            value = float(z.norm())
            if not 0 < value < math.inf:
                break
        worst = max(worst, value)
    return worst
