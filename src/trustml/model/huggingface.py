"""Models of the transformers library, recognised without importing it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from trustml.model.converted import Converted, Task
from trustml.model.torch import convert as convert_module

_TASKS: tuple[tuple[str, Task], ...] = (
    ("ForSequenceClassification", "classification"),
    ("ForImageClassification", "classification"),
    ("ForAudioClassification", "classification"),
    ("ForCausalLM", "language-modeling"),
    ("LMHeadModel", "language-modeling"),
)
_PROBLEMS: dict[str, Task] = {
    "regression": "regression",
    "single_label_classification": "classification",
    "multi_label_classification": "multilabel",
}


def convert(model: Any, task: Task | None, device: torch.device | str | None) -> Converted | None:
    """Take a transformers model; it eats dicts of tensors and its ``logits`` are the outputs.

    Language-modeling targets are the NEXT tokens (shifted by the user), -100 where none counts.

    Parameters
    ----------
    model : object
        Anything; only ``PreTrainedModel`` is taken.
    task : str or None
        None reads the model's configuration and class name.
    device : torch.device, str or None
        Where to run; None is where the model lives.

    Returns
    -------
    Converted or None
        None if it is no transformers model.
    """
    if not any(base.__name__ == "PreTrainedModel" for base in type(model).__mro__):
        return None
    if task is None:
        task = _PROBLEMS.get(str(getattr(model.config, "problem_type", None)))
        name = type(model).__name__
        task = task or next((found for end, found in _TASKS if name.endswith(end)), None)
    return _with_task(convert_module(model, task, device), task)


def _with_task(converted: Converted | None, task: Task | None) -> Converted | None:
    return None if converted is None else replace(converted, task=task)


def column_names(model: Any) -> list[str] | None:
    """Return the class names of a transformers configuration, None for its placeholders."""
    names = getattr(getattr(model, "config", None), "id2label", None)
    if not isinstance(names, dict) or all(str(v).startswith("LABEL_") for v in names.values()):
        return None
    return [str(names[key]) for key in sorted(names)]
