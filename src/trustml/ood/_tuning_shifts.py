"""Synthetic shifts of in-distribution rows: what a fusion may be tuned on without foreign data."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

_GRIDS = (2, 4)


def shifts(rows: Tensor, rng: np.random.Generator) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and the rows of each shift, within the range of the values.

    Parameters
    ----------
    rows : Tensor of shape (m, ...)
        Floating point. Rows with three axes are images, channels first, and are also blurred,
        turned and cut up.
    rng : Generator
        What is random is drawn here.
    """
    image = rows.ndim == 4 and min(rows.shape[2:]) >= 4
    # Statistics of a channel, or of a column.
    over = (0, 2, 3) if image else (0,)
    low, high = rows.amin(over, keepdim=True), rows.amax(over, keepdim=True)
    mean, spread = rows.mean(over, keepdim=True), rows.std(over, correction=0, keepdim=True)
    other = rows.roll(1, dims=0)

    def normal() -> Tensor:
        return torch.as_tensor(rng.standard_normal(rows.shape)).to(rows)

    uniform = torch.as_tensor(rng.random(rows.shape)).to(rows)
    yield "noisy", rows + spread * normal()
    yield "normal noise", mean + spread * normal()
    yield "uniform noise", low + (high - low) * uniform
    yield "mixed", (rows + other) / 2
    yield "inverted", low + high - rows
    yield "shuffled", _shuffled(rows, rng, image)
    if not image:
        return
    height, width = rows.shape[2:]
    yield "blurred", _blurred(rows)
    yield "turned", rows.flip(2, 3)
    yield "rolled", rows.roll(width // 2, dims=3)
    upper = torch.arange(height, device=rows.device)[:, None] < height // 2
    yield "cut", torch.where(upper, rows, other)
    if height == width:
        yield "rotated", rows.rot90(dims=(2, 3))
    for g in _GRIDS:
        if height % g == width % g == 0:
            yield f"patches {g} x {g}", _patches(rows, g, rng)


def _shuffled(rows: Tensor, rng: np.random.Generator, image: bool) -> Tensor:
    """Permute the pixels of each image; of other rows, each column on its own among the rows."""
    flat = rows.flatten(2) if image else rows.flatten(1)
    keys = torch.as_tensor(rng.random((len(flat), flat.shape[-1])), device=rows.device)
    if image:
        order = keys.argsort(dim=1)[:, None].expand_as(flat)
        return flat.gather(2, order).reshape(rows.shape)
    return flat.gather(0, keys.argsort(dim=0)).reshape(rows.shape)


def _blurred(rows: Tensor) -> Tensor:
    size = max(3, min(rows.shape[2:]) // 6 | 1)
    for _ in range(2):
        rows = avg_pool2d(rows, size, stride=1, padding=size // 2, count_include_pad=False)
    return rows


def _patches(rows: Tensor, g: int, rng: np.random.Generator) -> Tensor:
    """Permute the g by g patches of each image."""
    m, c, h, w = rows.shape
    parts = rows.reshape(m, c, g, h // g, g, w // g).transpose(3, 4).flatten(2, 3)
    keys = torch.as_tensor(rng.random((m, g * g)), device=rows.device)
    order = keys.argsort(dim=1)[:, None, :, None, None].expand_as(parts)
    moved = parts.gather(2, order).reshape(m, c, g, g, h // g, w // g)
    return moved.transpose(3, 4).reshape(m, c, h, w)
