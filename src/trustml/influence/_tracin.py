"""TracIn: inner products of gradients along a training run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trustml.ihvp import Objective
from trustml.influence._attributor import Attributor
from trustml.influence._checkpoints import check_checkpoints, objectives_at
from trustml.influence._gradient_products import gradient_products, squared_norms
from trustml.influence._queries import Queries


class TracIn(Attributor):
    r"""Inner products of gradients, summed over checkpoints of a training run (TracInCP).

    The raw score is :math:`Σ_t η_t g_q(θ_t)' g_i(θ_t)`. A step of gradient descent on the mean
    loss moves the parameters by −η g_i / n because of row i, so the effect, raw / n, is what the
    query's loss would not have lost without the row, to first order, if each checkpoint stands for
    steps whose learning rates add up to η_t. It knows no curvature: rows are not compared with
    what the others already say.

    Parameters
    ----------
    model : Model or anything that ``trustml.wrap`` takes
        With its training data, and gradients.
    checkpoints : list of state dict or path of a safetensors file, or None
        Of the model's module. None: the model as it is, the plain inner product of gradients.
    learning_rates : list of float or None
        η_t of each checkpoint: the sum of the learning rates of the steps that it stands for. None:
        1 each, and the unit says so.
    parameters : selection or None
        Which parameters' gradients, as in ``ihvp.Objective``.

    Attributes
    ----------
    objective_ : Objective
        The training objective.
    learning_rates_ : list of float
        One a checkpoint.

    References
    ----------
    Pruthi et al. (2020), Estimating training data influence by tracing gradient descent,
    arXiv:2002.08484.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from trustml.model import wrap
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = wrap(Ridge().fit(X[:400], y[:400]), train=(X[:400], y[:400]))
    >>> TracIn(model).fit().scores(X[400:], y[400:]).values.shape
    (42, 400)
    """

    name = "tracin"
    note = "First order along the training path, without curvature: ranks are safer than sizes."

    def __init__(
        self,
        model: Any,
        checkpoints: Sequence[Any] | None = None,
        learning_rates: Sequence[float] | None = None,
        parameters: str | Sequence[str] | None = None,
    ) -> None:
        self.model = model
        self.checkpoints = checkpoints
        self.learning_rates = learning_rates
        self.parameters = parameters

    def _prepare(self) -> None:
        self._states = check_checkpoints(self.checkpoints)
        count = 1 if self._states is None else len(self._states)
        self.learning_rates_ = check_rates(self.learning_rates, count)

    def _raw_scores(self, queries: Queries) -> tuple[Tensor, None]:
        return self._over_time(lambda objective: gradient_products(objective, queries)), None

    def _raw_self(self) -> Tensor:
        return self._over_time(squared_norms)

    def _over_time(self, part: Callable[[Objective], Tensor]) -> Tensor:
        moments = objectives_at(self.objective_, self._states)
        pairs = zip(self.learning_rates_, moments, strict=True)
        return torch.stack([rate * part(moment) for rate, moment in pairs]).sum(0)

    def _unit(self, unit: str) -> str:
        return unit if self.learning_rates is not None else f"{unit} per unit of learning rate"


def check_rates(rates: Any, count: int) -> list[float]:
    """Return one learning rate a checkpoint.

    Parameters
    ----------
    rates : sequence of float or None
        None is 1 each.
    count : int
        How many are needed.

    Returns
    -------
    list of float

    Raises
    ------
    TypeError
        If it is no sequence.
    ValueError
        If the number differs, or one is not a positive number.
    """
    if rates is None:
        return [1.0] * count
    if isinstance(rates, str) or not hasattr(rates, "__len__"):
        raise TypeError(f"learning_rates must be a list, one for each checkpoint, got {rates!r}")
    if len(rates) != count:
        raise ValueError(f"learning_rates has {len(rates)} entries for {count} checkpoints")
    numbers = [float(rate) for rate in rates]
    if not all(math.isfinite(rate) and rate > 0 for rate in numbers):
        raise ValueError(f"learning_rates must be positive numbers, got {numbers}")
    return numbers
