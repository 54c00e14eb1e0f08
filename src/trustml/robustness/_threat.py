"""What an attacker may do: a ball around each row, inside the box of valid inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from trustml.core.random import row_uniforms
from trustml.core.validation import as_tensor, check_choice

NORMS = ("linf", "l2")
BOX_TOLERANCE = 1e-6  # rows this far outside the bounds, as a share of their range, are let in


def lengths(delta: Tensor, norm: str) -> Tensor:
    """Return the norm of every row of ``delta`` (n, ...), shape (n,)."""
    flat = delta.flatten(1)
    return flat.abs().amax(1) if norm == "linf" else torch.linalg.vector_norm(flat, dim=1)


def dual_lengths(gradient: Tensor, norm: str) -> Tensor:
    """Return the dual norm of every row: how fast a unit step can climb."""
    flat = gradient.flatten(1)
    return flat.abs().sum(1) if norm == "linf" else torch.linalg.vector_norm(flat, dim=1)


@dataclass(frozen=True, eq=False)
class Threat:
    """The points that the attacker may return for each row.

    Attributes
    ----------
    clean : Tensor of shape (n, *features)
        The user's rows, in the dtype of the result.
    low, high : Tensor
        The box, float64, of a shape that broadcasts against ``clean``.
    norm : {"linf", "l2"}
    eps : float
        Radius of the ball, in input units.
    """

    clean: Tensor
    low: Tensor
    high: Tensor
    norm: str
    eps: float

    def select(self, rows: Tensor) -> Self:
        """Return the threat for some of the rows."""
        low = self.low if len(self.low) == 1 else self.low[rows]
        high = self.high if len(self.high) == 1 else self.high[rows]
        return replace(self, clean=self.clean[rows], low=low, high=high)

    def distance(self, points: Tensor) -> Tensor:
        """Return how far each point is from its clean row, measured in float64."""
        return lengths(points.double() - self.clean.double(), self.norm)

    def place(self, delta: Tensor) -> Tensor:
        """Return clean + delta, moved into ball and box; in the clean rows' dtype.

        Every coordinate is rounded towards the clean row, so that the result obeys both
        constraints as the numbers stand and not only up to rounding.

        Returns
        -------
        Tensor of shape (n, *features)
        """
        clean = self.clean.double()
        delta = self._into_ball(delta.double())
        wide = torch.minimum(torch.maximum(clean + delta, self.low), self.high)
        points = wide.to(self.clean.dtype)
        moved = points.double()
        outside = (moved - clean).abs() > delta.abs()
        outside |= (moved < self.low) | (moved > self.high)
        return torch.where(outside, torch.nextafter(points, self.clean), points)

    def _into_ball(self, delta: Tensor) -> Tensor:
        unit = torch.finfo(self.clean.dtype).eps
        if self.norm == "linf":
            reach = torch.tensor(self.eps, dtype=self.clean.dtype)
            if float(reach) > self.eps:  # the dtype rounds eps up
                reach = torch.nextafter(reach, torch.zeros_like(reach))
            return delta.clamp(-float(reach), float(reach))
        radius = self.eps * (1 - 8 * unit)  # whoever sums the squares in this dtype agrees
        norm = _per_row(lengths(delta, "l2"), delta)
        return torch.where(norm > radius, delta * (radius / norm.clamp_min(1e-300)), delta)

    def ascent(self, points: Tensor, gradient: Tensor) -> Tensor:
        """Return the steepest direction of unit norm, float64; zero where the gradient is.

        A coordinate at the edge of the box that would leave it is held for l2, so that the
        others get the whole step.

        Returns
        -------
        Tensor of shape (n, *features)
        """
        gradient = torch.nan_to_num(gradient.double(), nan=0.0, posinf=0.0, neginf=0.0)
        if self.norm == "linf":
            return gradient.sign()
        wide = points.double()
        stuck = (wide <= self.low) & (gradient < 0) | (wide >= self.high) & (gradient > 0)
        free = gradient.masked_fill(stuck, 0.0)
        peak = _per_row(lengths(free, "linf"), free)
        free = free / peak.clamp_min(1e-300)  # squares of tiny gradients would underflow
        norm = _per_row(lengths(free, "l2"), free)
        return free / norm.clamp_min(1e-300)

    def random_points(self, seed: int) -> Tensor:
        """Return a uniform point of each row's ball, drawn from a hash of the row and the seed."""
        shape = self.clean.shape
        size = self.clean[0].numel()
        uniforms = _row_streams(self.clean, seed, 2 * size + 1)
        if self.norm == "linf":
            delta = self.eps * (2 * uniforms[:, :size] - 1)
        else:
            radial = np.sqrt(-2 * np.log(uniforms[:, :size]))
            normal = radial * np.cos(2 * np.pi * uniforms[:, size : 2 * size])
            normal /= np.linalg.norm(normal, axis=1, keepdims=True)
            delta = self.eps * uniforms[:, -1:] ** (1 / size) * normal
        return self.place(torch.from_numpy(delta).to(self.clean.device).reshape(shape))


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _row_streams(rows: Tensor, seed: int, length: int) -> np.ndarray:
    """Return (n, length) uniforms in (0, 1): splitmix64 streams seeded by the row itself."""
    seeds = (row_uniforms(rows, seed) * 2.0**52).astype(np.uint64)
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        state = _mix(seeds)[:, None] + golden * np.arange(1, length + 1, dtype=np.uint64)
        bits = _mix(state) >> np.uint64(11)
    uniforms: np.ndarray = (bits.astype(np.float64) + 0.5) / 2.0**53
    return uniforms


def _mix(state: np.ndarray) -> np.ndarray:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return state


def make_threat(clean: Tensor, bounds: Any, norm: str, eps: float) -> Threat:
    """Return the threat for ``clean``; refuse missing bounds and rows outside them.

    Returns
    -------
    Threat

    Raises
    ------
    ValueError
        If there are no bounds, they do not fit the rows, or a row lies outside them.
    """
    check_choice(norm, "norm", NORMS)
    if bounds is None:
        raise ValueError(
            "attacks must know which inputs are valid: wrap the model with bounds=(low, high), "
            "scalars or one number a feature, e.g. wrap(model, bounds=(0.0, 1.0))"
        )
    low, high = (_bound(b, clean, name) for b, name in zip(bounds, ("low", "high"), strict=True))
    wide = clean.double()
    span = torch.where(torch.isfinite(high - low), high - low, 1.0)
    outside = ((wide < low - BOX_TOLERANCE * span) | (wide > high + BOX_TOLERANCE * span)).flatten(
        1
    )
    if outside.any():
        row = int(outside.any(1).nonzero()[0])
        raise ValueError(
            f"{int(outside.any(1).sum())} of {len(clean)} rows of X lie outside the model's bounds "
            f"(the first is row {row}); clip X or wrap the model with wider bounds=(low, high)"
        )
    if bool((wide < low).any() | (wide > high).any()):
        low, high = torch.minimum(low, wide), torch.maximum(high, wide)  # the clean row stays valid
    return Threat(clean, low, high, norm, eps)


def _bound(value: Any, clean: Tensor, name: str) -> Tensor:
    bound = as_tensor(value, dtype=torch.float64, device=clean.device, name=f"bounds ({name})")
    try:
        return torch.broadcast_to(bound, clean.shape[1:])[None]
    except RuntimeError as error:
        raise ValueError(
            f"the {name} bound has shape {tuple(bound.shape)}, which does not fit rows of shape "
            f"{tuple(clean.shape[1:])}; give a scalar or one number a feature"
        ) from error
