"""In-Run Data Shapley: each step's change of a query's loss, shared among the rows of its batch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from trustml.core.validation import check_choice, restore
from trustml.ihvp import Objective
from trustml.influence._attributor import Attributor
from trustml.influence._checkpoints import check_checkpoints, objectives_at
from trustml.influence._queries import Measure, Queries
from trustml.influence._scores import InfluenceScores, as_rows
from trustml.influence._shapley_step import next_point, shares
from trustml.influence._tracin import check_rates
from trustml.warnings import ApproximationWarning

_DOUBTFUL = 0.25  # of the measured changes is not in the predicted ones

Order = Literal[1, 2]


@dataclass(frozen=True, eq=False)
class TrainingStep:
    """A step of gradient descent on the mean loss of a batch.

    Attributes
    ----------
    state : state dict or path of a safetensors file
        The module's before the step.
    rows : array of int of shape (b,), or mask
        The training rows of the batch.
    learning_rate : float
        Of the mean of the batch's losses.
    """

    state: Any
    rows: Any
    learning_rate: float


class InRunShapley(Attributor):
    r"""Shapley values of the training rows within one training run.

    A step on batch B with learning rate η changes a query's loss ℓ_q by a sum over its rows, to
    first order; to second order in the parameters, the Shapley value of row i in the step is still
    a closed form, and what it helped is

    .. math:: φ_i = \frac{η}{b} ∇ℓ_q' g_i - \frac{η^2}{2 b^2} g_i' ∇^2ℓ_q Σ_{j ∈ B} g_j ,

    summed over the steps. Positive: the row lowered the query's loss. The values are of this run,
    not of the data: order and learning rates are in them. Gradients are taken in eval mode.

    The sums are compared with what the loss really changed by in each step; where they differ, the
    learning rate is too large for the expansion, or momentum, weight decay or dropout moved the
    model too. ``validity_`` has the figures, and above a quarter a warning says so.

    Parameters
    ----------
    model : Model or anything that ``trustml.wrap`` takes
        With its training data, and gradients.
    trajectory : list of TrainingStep, or None
        The steps, for ``scores``; their changes are checked against plain steps of descent. None:
        watch the training itself, with ``watch``.
    order : {1, 2}
        Of the expansion; 2 costs a Hessian product for each query and step.
    parameters : selection or None
        Which parameters, as in ``ihvp.Objective``.

    Attributes
    ----------
    objective_ : Objective
        The training objective.
    validity_ : RunValidity
        Of the last ``scores``.

    References
    ----------
    Wang, Mittal, Song and Jia (2024), Data Shapley in one training run, arXiv:2406.11011.

    Examples
    --------
    >>> import torch
    >>> from trustml.model import wrap
    >>> X, net = torch.eye(4), torch.nn.Linear(4, 1)
    >>> y = X.sum(1, keepdim=True)
    >>> shapley = InRunShapley(wrap(net, task="regression", train=(X, y))).fit()
    >>> run = shapley.watch(X[:2], y[:2])
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    >>> for rows in ([0, 1], [2, 3]):
    ...     with run.step(rows, learning_rate=0.01):
    ...         optimizer.zero_grad()
    ...         torch.nn.functional.mse_loss(net(X[rows]), y[rows]).backward()
    ...         optimizer.step()
    >>> run.scores().values.shape
    torch.Size([2, 4])
    """

    name = "in_run_shapley"
    note = "Of this one training run: what the row's steps did, not what a refit without it does."
    divided = False

    def __init__(
        self,
        model: Any,
        trajectory: Sequence[TrainingStep] | None = None,
        order: Order = 1,
        parameters: str | Sequence[str] | None = None,
    ) -> None:
        self.model = model
        self.trajectory = trajectory
        self.order = order
        self.parameters = parameters

    def watch(self, X: Any, y: Any = None, *, measure: Measure | None = None) -> ShapleyRun:
        """Return a watcher of the training that is about to happen to the model's own module.

        Parameters
        ----------
        X, y, measure
            Queries, as for ``scores``.

        Returns
        -------
        ShapleyRun
            Wrap each step in its ``step``.
        """
        self._check_fitted()
        queries = Queries.of(self.model_, X, y, measure)
        return ShapleyRun(self, queries, X)

    def _prepare(self) -> None:
        check_choice(self.order, "order", (1, 2))
        if self.trajectory is None:
            return
        steps = list(self.trajectory)
        wrong = [type(step).__name__ for step in steps if not isinstance(step, TrainingStep)]
        if wrong:
            raise TypeError(f"trajectory must be a list of TrainingStep, got {wrong[0]} in it")
        self._states = check_checkpoints([step.state for step in steps])
        self._rates = check_rates([step.learning_rate for step in steps], len(steps))
        self._rows = [as_rows(step.rows, len(self.objective_.data), "rows") for step in steps]

    def _moments(self) -> Iterator[tuple[Objective, Tensor, float]]:
        """Yield each step: the objective before it, its rows, its learning rate."""
        if self.trajectory is None:
            raise ValueError(
                "there is no trajectory to replay: pass trajectory=[TrainingStep(state, rows, "
                "learning_rate), ...], or watch the training with watch(X, y).step(...)"
            )
        moments = objectives_at(self.objective_, self._states)
        yield from zip(moments, self._rows, self._rates, strict=True)

    def _raw_scores(self, queries: Queries) -> tuple[Tensor, None]:
        record = _Record(len(queries), len(self.objective_.data))
        for moment, rows, rate in self._moments():
            before = queries.values(moment)
            found = shares(moment, queries, rows, rate, self.order)
            record.add(rows, found, queries.values(next_point(moment, rows, rate)) - before)
        self.validity_ = record.validity(self.order)
        return record.values.to(record.dtype), None

    def _raw_self(self) -> Tensor:
        total = torch.zeros(len(self.objective_.data), dtype=torch.float64)
        for moment, rows, rate in self._moments():
            own = Queries.of(self.model_, moment.data.subset(rows), None, None)
            found = shares(moment, own, rows, rate, self.order).diagonal()
            total[rows] += found.double().cpu()
        return total


@dataclass(frozen=True, eq=False)
class RunValidity:
    """How well the expansion followed the run.

    Attributes
    ----------
    predicted, measured : numpy.ndarray of shape (steps,)
        Change of the queries' mean measurement in each step: minus the sum of the scores, and as
        it was.
    error : float
        Sum of their absolute differences over that of the measured changes: 0 is perfect.
    """

    predicted: np.ndarray
    measured: np.ndarray
    error: float


class _Record:
    """Scores and changes of the steps so far."""

    def __init__(self, q: int, n: int) -> None:
        self.values = torch.zeros(q, n, dtype=torch.float64)
        self.dtype = torch.float32
        self.predicted: list[float] = []
        self.measured: list[float] = []

    def add(self, rows: Tensor, found: Tensor, change: Tensor) -> None:
        self.dtype = found.dtype
        self.values[:, rows] += found.double().cpu()
        self.predicted.append(-float(found.double().sum(1).mean()))
        self.measured.append(float(change.double().mean()))

    def validity(self, order: int) -> RunValidity:
        predicted, measured = np.array(self.predicted), np.array(self.measured)
        size = float(np.abs(measured).sum())
        gap = float(np.abs(predicted - measured).sum())
        error = gap / size if size > 0 else (0.0 if gap == 0 else float("inf"))
        if error > _DOUBTFUL:
            cure = "order=2, or " if order == 1 else ""
            warnings.warn(
                f"the scores add up to changes of the loss that are {error:.0%} off the measured "
                f"ones: the steps are too long for an expansion of order {order}, or momentum, "
                f"weight decay or dropout moved the model too; take {cure}smaller learning rates",
                ApproximationWarning,
                stacklevel=4,
            )
        return RunValidity(predicted, measured, error)


class ShapleyRun:
    """Watches a training run step by step; made by ``InRunShapley.watch``.

    Attributes
    ----------
    validity_ : RunValidity
        Of the last ``scores``.
    """

    def __init__(self, shapley: InRunShapley, queries: Queries, like: Any) -> None:
        self._shapley, self._queries, self._like = shapley, queries, like
        self._record = _Record(len(queries), len(shapley.objective_.data))

    @contextmanager
    def step(self, rows: Any, learning_rate: float) -> Iterator[None]:
        """Score the rows of a batch before the block, measure what the block did after it.

        Parameters
        ----------
        rows : array of int of shape (b,), or mask
            The training rows of the batch.
        learning_rate : float
            Of the mean of the batch's losses.

        Yields
        ------
        None
            For the optimizer's step on the model's own module.
        """
        shapley, queries = self._shapley, self._queries
        objective = shapley.objective_
        chosen = as_rows(rows, len(objective.data), "rows")
        (rate,) = check_rates([learning_rate], 1)
        before = queries.values(objective)
        found = shares(objective, queries, chosen, rate, shapley.order)
        yield
        self._record.add(chosen, found, queries.values(objective) - before)

    def scores(self) -> InfluenceScores:
        """Return the scores of the steps so far.

        Returns
        -------
        InfluenceScores
            ``values`` (q, n_train); 0 for rows that were in no batch.
        """
        shapley = self._shapley
        self.validity_ = self._record.validity(shapley.order)
        values = self._record.values.to(self._record.dtype)
        return InfluenceScores(
            values=restore(values, self._like),
            unit=self._queries.unit,
            scale="effect",
            method=shapley.name,
            note=shapley.note,
        )
