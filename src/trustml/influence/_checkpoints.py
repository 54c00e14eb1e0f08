"""The training objective at other points of a training run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from trustml.ihvp import Objective

State = Mapping[str, Tensor]


def check_checkpoints(checkpoints: Any) -> list[State | Path] | None:
    """Return checkpoints as a list of state dicts and paths; None stays None.

    Parameters
    ----------
    checkpoints : sequence of state dict or path, or None
        Of one module. Paths are safetensors files.

    Returns
    -------
    list or None

    Raises
    ------
    TypeError
        If it is no sequence of state dicts and paths.
    ValueError
        If it is empty, or a file is missing or not a safetensors file.
    """
    if checkpoints is None:
        return None
    if isinstance(checkpoints, (str, Path, Mapping)) or not isinstance(checkpoints, Sequence):
        raise TypeError(
            "checkpoints must be a list of state dicts or of paths of safetensors files, got "
            f"{type(checkpoints).__name__}; put a single one into a list"
        )
    if not checkpoints:
        raise ValueError("checkpoints is empty; give at least one, or None for the model as it is")
    return [_checked(checkpoint) for checkpoint in checkpoints]


def _checked(checkpoint: Any) -> State | Path:
    if isinstance(checkpoint, Mapping):
        return checkpoint
    if not isinstance(checkpoint, (str, Path)):
        raise TypeError(
            f"a checkpoint must be a state dict or a path, got {type(checkpoint).__name__}; use "
            "module.state_dict()"
        )
    path = Path(checkpoint)
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path.name} is no safetensors file, and nothing else is read from disk here: pass "
            "the state dict itself, torch.load(path, weights_only=True)"
        )
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    return path


def objectives_at(
    objective: Objective, checkpoints: Sequence[State | Path] | None
) -> Iterator[Objective]:
    """Yield the objective at each checkpoint, on copies of the module; one is held at a time.

    Parameters
    ----------
    objective : Objective
        Its module has the checkpoints' shapes.
    checkpoints : sequence of state dict or path, or None
        None yields the objective itself.

    Yields
    ------
    Objective

    Raises
    ------
    ValueError
        If a state does not fit the module.
    """
    if checkpoints is None:
        yield objective
        return
    for number, checkpoint in enumerate(checkpoints):
        state = checkpoint
        if isinstance(state, Path):
            from safetensors.torch import load_file

            state = load_file(state)
        moved = objective.at(objective.space.vector())
        try:
            moved.module.load_state_dict(dict(state))
        except RuntimeError as error:
            raise ValueError(
                f"checkpoint {number} does not fit {type(objective.module).__name__}: {error}"
            ) from error
        yield moved
