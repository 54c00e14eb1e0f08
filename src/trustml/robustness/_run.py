"""From a model and rows to a verdict: what every door of the room goes through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trustml.core.batches import Batch, as_data, map_batches
from trustml.core.validation import as_tensor
from trustml.model import Model
from trustml.robustness._aim import Aim
from trustml.robustness._judge import Verdict, judge
from trustml.robustness._method import Attack
from trustml.robustness._problem import Bill, Problem
from trustml.robustness._threat import Threat


def execute(
    model: Model, threat: Threat, aim: Aim, settings: Attack, seed: int
) -> tuple[Verdict, Bill]:
    """Attack, batch by batch, the rows that are not where the attacker wants them; then judge."""

    def one(batch: Batch) -> tuple[Tensor, Tensor, Bill]:
        rows = batch.indices.to(threat.clean.device)
        bill = Bill.blank(len(rows), rows.device)
        problem = pose(model, threat.select(rows), aim.select(rows), bill)
        logits = problem.logits(problem.threat.clean)
        if not bool(torch.isfinite(logits).all()):
            raise ValueError(
                "the model's outputs on X are NaN or infinite; nothing can be attacked"
            )
        points = problem.threat.clean.clone()
        todo = (~problem.aim.reached(logits)).nonzero().squeeze(1)
        if len(todo) and threat.eps > 0:
            points[todo] = settings.run(problem.select(todo), seed)
        return rows, points, bill

    points = threat.clean.clone()
    bill = Bill.blank(len(points), points.device)
    data = as_data(threat.clean)
    title = f"attack ({settings.name})"
    for rows, found, part in map_batches(one, data, model.batch_size, title):
        points[rows] = found
        for total, share in zip(vars(bill).values(), vars(part).values(), strict=True):
            total[rows] = share
    return judge(model, threat, aim, points, bill), bill


def pose(model: Model, threat: Threat, aim: Aim, bill: Bill) -> Problem:
    """Return the problem of all rows of ``threat``."""

    def forward(points: Tensor) -> Tensor:
        return model.logits_of(model.outputs(points.to(model.dtype)))

    device = threat.clean.device
    return Problem(forward, threat, aim, bill, torch.arange(len(threat.clean), device=device))


def attackable(model: Model, what: str) -> Model:
    """Return the model if it is a differentiable classifier."""
    model.require_gradients(what)
    if model.task != "classification":
        raise TypeError(
            f"{what} needs a classifier, and this model's task is {model.task!r}: whether a "
            "prediction is wrong is not defined for it"
        )
    return model


def clean_rows(model: Model, X: Any, what: str) -> Tensor:
    """Return X as one floating tensor on the model's device; floats keep their own dtype."""
    inputs = model.continuous_inputs(X, what)
    if inputs.ndim < 2:
        raise ValueError(f"X must have shape (n, *features), got {tuple(inputs.shape)}")
    rows = as_tensor(X, device=model.device).detach()
    return rows if rows.is_floating_point() else inputs.detach().float()
