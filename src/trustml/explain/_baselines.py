"""The rows that attributions start from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trustml.core.random import RandomState, numpy_generator
from trustml.core.validation import as_tensor, check_choice, check_finite
from trustml.model import Model

NAMES = ("zero", "mean", "train")


def baseline_rows(
    baseline: Any, model: Model, rows: Tensor, most: int, random_state: RandomState
) -> Tensor:
    """Return the baselines, (b, *features), in the dtype of ``rows``.

    Returns
    -------
    Tensor

    Raises
    ------
    ValueError
        If the name is unknown or the array does not fit the rows.
    """
    if isinstance(baseline, str):
        check_choice(baseline, "baseline", NAMES)
        if baseline == "zero":
            return torch.zeros_like(rows[:1])
        model.require_train(f"baseline={baseline!r}")
        train = model.train.inputs.to(rows)  # type: ignore[union-attr]
        if baseline == "mean":
            return train.mean(0, keepdim=True)
        if len(train) <= most:
            return train
        chosen = numpy_generator(random_state).choice(len(train), most, replace=False)
        return train[torch.from_numpy(chosen).to(train.device)]
    found = as_tensor(baseline, dtype=rows.dtype, device=rows.device, name="baseline")
    check_finite(found, "baseline")
    if found.shape == rows.shape[1:]:
        found = found[None]
    if found.shape[1:] != rows.shape[1:] or not len(found):
        raise ValueError(
            f"baseline must be one of {', '.join(map(repr, NAMES))}, one row of shape "
            f"{tuple(rows.shape[1:])}, or several of them, got shape {tuple(found.shape)}"
        )
    return found


def baseline_name(baseline: Any) -> str:
    """Return what the result calls the baseline."""
    return baseline if isinstance(baseline, str) else "given"
