"""Differentiable quantities of rows: probabilities, smoothed decisions, losses, errors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trustml.fairness._criteria import OF_ERRORS
from trustml.model import Model

SURROGATES = ("probability", "threshold", "loss")
Kind = Literal["loss", "value", "probability", "decision", "miss", "error"]


def margin(model: Model, outputs: Tensor, column: int | Tensor) -> Tensor:
    """Return how far a class, one for all rows or one a row, is ahead of the best other one."""
    logits = model.logits_of(outputs)
    chosen = torch.as_tensor(column, device=logits.device).expand(len(logits))[:, None]
    others = logits.scatter(1, chosen, -torch.inf).amax(1)
    return logits.gather(1, chosen)[:, 0] - others


def bandwidth(margins: Tensor) -> float:
    """Return the temperature of the smoothed decision."""
    # The derivative of a selection rate is the density of the margins at 0, so the logistic
    # kernel gets the standard deviation of Silverman's rule.
    spread = float(margins.double().std()) if len(margins) > 1 else 0.0
    if spread == 0:
        return 1.0
    return float(1.06 * spread * len(margins) ** -0.2 * math.sqrt(3) / math.pi)


@dataclass(frozen=True, eq=False)
class Measured:
    """The differentiable quantity whose group values a criterion compares.

    A class rather than a closure, so that what was fitted can be stored.
    """

    model: Model
    kind: Kind
    column: int = 0
    temperature: float = 1.0

    def __call__(self, outputs: Tensor, targets: Tensor | None) -> Tensor:
        """Return the quantity of each row, with its graph."""
        model = self.model
        if self.kind == "value":
            return model.values_of(outputs).reshape(len(outputs), -1).sum(1)
        if self.kind == "probability":
            return model.proba_of(outputs)[:, self.column]
        if self.kind == "decision":
            return torch.sigmoid(margin(model, outputs, self.column) / self.temperature)
        if targets is None:
            raise ValueError("a criterion of losses or errors needs y_val")
        if self.kind == "loss":
            return model.loss_fn(outputs, targets)
        own = targets.reshape(-1).long()
        if self.kind == "miss":
            return 1 - model.proba_of(outputs).gather(1, own[:, None])[:, 0]
        return torch.sigmoid(-margin(model, outputs, own) / self.temperature)

    def decided(self, outputs: Tensor, targets: Tensor | None) -> Tensor:
        """Return what is counted once decisions are made: 0 or 1, of numbers the quantity."""
        model = self.model
        if model.task == "regression":
            return self(outputs, targets)
        if self.kind in ("probability", "decision") or targets is None:
            return (margin(model, outputs, self.column) > 0).double()
        return (model.logits_of(outputs).argmax(1) != targets.reshape(-1)).double()


def quantity_of(
    model: Model,
    criterion: str | None,
    surrogate: str,
    column: int | None,
    outputs: Tensor,
    targets: Tensor | None,
) -> Measured:
    """Return the differentiable quantity whose group values a criterion compares.

    Parameters
    ----------
    model : Model
        Whose outputs.
    criterion : str or None
        A key of ``CRITERIA``; None for the user's own.
    surrogate : str
        One of ``SURROGATES``.
    column : int or None
        Of the favourable class; None where there is none.
    outputs, targets : Tensor of shape (n, ...)
        Of the validation rows, for the width of smoothed decisions.

    Returns
    -------
    Measured
    """
    losses = criterion in ("loss_parity", "worst_group")
    if criterion == "error_parity" and surrogate != "loss" and targets is not None:
        if surrogate == "probability":
            return Measured(model, "miss")
        width = bandwidth(margin(model, outputs, targets.reshape(-1).long()))
        return Measured(model, "error", 0, width)
    if losses or criterion in OF_ERRORS or surrogate == "loss":
        return Measured(model, "loss", column or 0)
    if column is None:
        return Measured(model, "value")
    if surrogate == "probability":
        return Measured(model, "probability", column)
    return Measured(model, "decision", column, bandwidth(margin(model, outputs, column)))
