"""Which inner layers a detector reads, and how a layer's output becomes a vector a row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from torch import Tensor, nn

from trustml.model import Model, Observation
from trustml.model.passes import Layers
from trustml.ood._seen import as_double, unit_rows

LayerChoice = str | Sequence[str] | None
Shapes = dict[str, tuple[int, ...]]

_MOST = 4
_SIGNALS = (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.MaxPool1d, nn.AvgPool1d)
_MAPS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.BatchNorm3d)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.MultiheadAttention, nn.RNNBase)


def chosen_layers(model: Model, layers: LayerChoice) -> list[str]:
    """Return the names of the inner layers to read, in the order in which they finish.

    "auto" takes the end of each stage: of the layers on the way from the input to the head - leaf
    layers, residual or transformer blocks as wholes - the last of each run of equal width, at
    most four, evenly spaced; where all have one width, evenly spaced blocks. Activations, norms
    and pooling belong to the layer with weights before them. Never the head.

    Parameters
    ----------
    model : Model
        One that has seen a batch.
    layers : "auto", sequence of str or None
        None reads no inner layer.

    Returns
    -------
    list of str
        Empty for models without inner layers.

    Raises
    ------
    ValueError
        If a name is not one of ``model.layers``, or its output is no tensor with a row for each
        input.
    """
    if layers is None:
        return []
    if isinstance(layers, str):
        if layers != "auto":
            raise ValueError(f'layers must be "auto", a list of names or None, got {layers!r}')
        return _stages(model) if model.differentiable else []
    known = _shapes(model)
    for name in layers:
        if name not in known:
            raise ValueError(
                f"layers holds {name!r}; {model!r} has {', '.join(known)}, and only these put out "
                "a tensor with a row for each input"
            )
    if not layers:
        raise ValueError('layers is empty; name some, or take "auto" or None (the features)')
    return [name for name in known if name in set(layers)]


def pooled_key(name: str) -> str:
    """Return the key of a layer's mean over positions: one reading for all detectors."""
    return f"{name} (mean over positions)"


def pooled_layers(model: Model, layers: LayerChoice) -> Layers:
    """Return how to read layers as one vector a row: the mean over positions or tokens.

    Parameters
    ----------
    model : Model
        One that has seen a batch.
    layers : "auto", sequence of str or None
        As in ``chosen_layers``.

    Returns
    -------
    dict of str to (str, callable)
        As for ``Model.observations``.
    """
    return layer_readings(model, layers, pooled_key, pooled)


def layer_readings(
    model: Model,
    layers: LayerChoice,
    key: Callable[[str], str],
    reading: Callable[..., Tensor],
) -> Layers:
    """Return ``{key(name): (name, reading)}``; ``reading`` takes (output, channels_first=)."""
    names = chosen_layers(model, layers)
    first = _channels_first(model) if names else {}
    return {key(name): (name, partial(reading, channels_first=first[name])) for name in names}


def pooled(output: Tensor, *, channels_first: bool) -> Tensor:
    """Return the mean over positions of (b, c, ...), or of (b, ..., c); shape (b, c)."""
    return by_position(output, channels_first=channels_first).mean(dim=2)


def by_position(output: Tensor, *, channels_first: bool) -> Tensor:
    """Return an output as (b, channels, positions)."""
    if output.ndim <= 2:
        return output.reshape(len(output), -1, 1)
    return output.flatten(2) if channels_first else output.flatten(1, -2).mT


def vectors(observation: Observation, names: Sequence[str], normalize: bool) -> list[Tensor]:
    """Return float64 vectors (n, d) of each pooled layer, or of the features if there is none."""
    if not names:
        found = [as_double(observation.features)]
    else:
        found = [as_double(observation.layers.get(pooled_key(name))) for name in names]
    return [unit_rows(part) for part in found] if normalize else found


def _shapes(model: Model) -> Shapes:
    """Return the shapes of layers that have a tensor row for each input, the whole left out."""
    shapes = model.layers
    return {name: shape for name, shape in shapes.items() if name and shape}


def _stages(model: Model) -> list[str]:
    shapes, head = _shapes(model), model.head_name
    if head is not None:
        order = list(model.layers)
        before = set(order[: order.index(head)])
        shapes = {name: shape for name, shape in shapes.items() if name in before}
    units: list[str] = []
    for opened in range(4):  # one block around everything is opened, level by level
        trunk = set(_trunk(model.module, "", shapes, opened))
        units = _units(model, {name: shapes[name] for name in shapes if name in trunk})
        if len(units) > 1:
            break
    if head is None:
        units = units[:-1]  # the last makes the outputs
    first = _channels_first(model)
    widths = [_width(shapes[name], first[name]) for name in units]
    ends = [
        name
        for i, name in enumerate(units)
        if i + 1 == len(units) or widths[i + 1] != widths[i]
    ]  # fmt: skip
    return _spread(ends if len(ends) > 1 else units)


def _spread(names: list[str]) -> list[str]:
    n = len(names)
    return [names[math.ceil((i + 1) * n / _MOST) - 1] for i in range(_MOST)] if n > _MOST else names


def _trunk(module: nn.Module, prefix: str, shapes: Shapes, opened: int) -> Iterator[str]:
    """Yield the layers on the way to the head, blocks as wholes."""
    for child_name, child in module.named_children():
        name = f"{prefix}{child_name}"
        if name in shapes and not (_is_container(child) or (opened and any(child.children()))):
            yield name
        else:
            # A level is spent on blocks alone: containers are opened for nothing.
            spent = name in shapes and not _is_container(child)
            yield from _trunk(child, f"{name}.", shapes, opened - spent)


def _is_container(module: nn.Module) -> bool:
    """Say whether a module runs its children one after the other, so that each is a stage."""
    if isinstance(module, nn.Sequential):
        return type(module).forward is nn.Sequential.forward
    return any(_holds_blocks(child) for child in module.children())


def _holds_blocks(module: nn.Module) -> bool:
    blocks = list(module.children())
    alike = len(blocks) > 1 and len({type(block) for block in blocks}) == 1
    return (
        isinstance(module, (nn.ModuleList, nn.Sequential)) and alike and any(blocks[0].children())
    )


def _units(model: Model, trunk: Shapes) -> list[str]:
    """Return the last layer of each stretch that starts with weights or a block."""
    units: list[str] = []
    before: tuple[int, ...] = ()
    for name, shape in trunk.items():
        part = model.module.get_submodule(name)
        weighs = any(p.ndim > 1 for p in part.parameters(recurse=False))
        if weighs or any(part.children()):
            units.append(name)
        elif units and not (math.prod(shape) == math.prod(before) and len(shape) != len(before)):
            units[-1] = name  # what only flattens is read before it does
        before = shape
    return units


def _channels_first(model: Model) -> dict[str, bool]:
    """Return of each layer whether the channels are the first axis of a row, or the last."""
    first: dict[str, bool] = {}
    signals, maps = False, True
    for name, shape in model.layers.items():
        part = model.module.get_submodule(name)
        if isinstance(part, (*_SIGNALS, *_MAPS, *_CHANNELS_LAST)):
            signals, maps = isinstance(part, _SIGNALS), not isinstance(part, _CHANNELS_LAST)
        first[name] = signals if shape is not None and len(shape) <= 2 else maps
        # Maps are mostly square, whatever axes a block has moved about inside.
        if shape is not None and len(shape) == 3 and shape[0] != shape[2]:
            if shape[1] == shape[2]:
                first[name] = True
            elif shape[0] == shape[1]:
                first[name] = False
    return first


def _width(shape: tuple[int, ...], channels_first: bool) -> int:
    return shape[0] if channels_first else shape[-1]
