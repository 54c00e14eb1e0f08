"""Path integrals to a tolerance that completeness certifies."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from trustml.explain._gradients import across, grouped
from trustml.explain._paths import Nodes, PathIntegral, Paths

_RULES = (16, 40)  # Gauss-Legendre nodes of the whole path: enough for smooth networks
_PANELS = 8  # panels that a path is cut into when they are not
_PAIR = 3**-0.5  # nodes of a panel, on [-1, 1]
_EDGE = (1 - _PAIR) / (2 * _PAIR)  # from a node to the panel's edge, in distances of the nodes
_NARROW = 1e-9
_NOISE = 32  # rounding errors of a difference of outputs, in units of the dtype


@dataclass(frozen=True, eq=False)
class _Panels:
    """Pieces of paths: (m,) ends, and the field (m, c) there."""

    path: Tensor
    low: Tensor
    high: Tensor
    at_low: Tensor
    at_high: Tensor

    def select(self, rows: Tensor | slice) -> _Panels:
        return _Panels(*(getattr(self, f.name)[rows] for f in fields(self)))

    def join(self, other: _Panels) -> _Panels:
        return _Panels(
            *(torch.cat([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self))
        )

    @property
    def width(self) -> Tensor:
        return self.high - self.low

    @property
    def t(self) -> Tensor:
        """Positions of the two nodes, (m, 2)."""
        middle, half = (self.low + self.high) / 2, self.width / 2
        return torch.stack([middle - _PAIR * half, middle + _PAIR * half], dim=1)


@dataclass(frozen=True, eq=False)
class _Done:
    """A finished panel and the slopes (m, 2, c) at its nodes."""

    panels: _Panels
    slopes: Tensor


def integrate(paths: Paths, tol: float, max_passes: int) -> PathIntegral:
    """Integrate every path until completeness holds to ``tol``, or passes run out.

    Gauss-Legendre rules of 16 and 40 nodes come first. Where their sums miss the difference of
    the ends, the path is cut into panels of two nodes, and a panel with a gap is cut again where
    the tangents at its nodes cross. On a piecewise linear network that is the kink, so that the
    integral is exact once no panel has more than one.

    Parameters
    ----------
    paths : Paths
    tol : float
        Largest gap relative to the size of the field and its variation along the path; not
        below the rounding errors of the dtype.
    max_passes : int
        Gradient evaluations of one path, about.

    Returns
    -------
    PathIntegral
    """
    device = paths.start.device
    every = torch.arange(len(paths), device=device)
    ends = [paths.values(every, torch.full_like(every, t, dtype=torch.float64)) for t in (0, 1)]
    size = torch.stack([end.abs() for end in ends]).amax(0).clamp_min(1e-300)
    values = torch.zeros(0, dtype=torch.float64, device=device)
    passes = torch.zeros_like(every)
    allowed = max(tol, _NOISE * torch.finfo(paths.start.dtype).eps)
    rough, smooth = every, []
    for count in _RULES:
        t, weight = (torch.from_numpy(v).to(device) for v in _gauss(count))
        found, variation = _rule(paths, rough, t, weight)
        values = found if len(rough) == len(every) else values.index_copy(0, rough, found)
        size[rough] = torch.maximum(size[rough], variation)
        passes[rough] += count
        rise = (ends[1] - ends[0])[rough]
        good = ((rise - paths.slopes(found)).abs() / size[rough]).amax(1) <= allowed
        fine = rough[good]
        smooth.append(
            (fine.repeat_interleave(count), t.repeat(len(fine)), weight.repeat(len(fine)))
        )
        rough = rough[~good]
        if not len(rough):
            break
    path, position, share = (torch.cat(part) for part in zip(*smooth, strict=True))
    kinks, sides = position[:0], [path[:0], path[:0]]
    if len(rough):
        values[rough] = 0.0
        done = _refine(paths, rough, ends, size, values, passes, tol, max_passes)
        kinks, sides = _kinks(done, size, paths.start.dtype)
        sides = [side + len(path) for side in sides]
        path = torch.cat([path, done.panels.path.repeat_interleave(2)])
        position = torch.cat([position, done.panels.t.reshape(-1)])
        share = torch.cat([share, (done.panels.width / 2).repeat_interleave(2)])
    nodes = Nodes(path, position, share, kinks, *sides)
    return PathIntegral(values, ends[0], ends[1], size, passes, nodes)


def _gauss(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights of the Gauss-Legendre rule on [0, 1]."""
    knots, weights = np.polynomial.legendre.leggauss(count)
    return (knots + 1) / 2, weights / 2


def _rule(paths: Paths, rows: Tensor, t: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the integral of some paths by one rule, and the field's variation along them."""
    k, parts = len(t), []
    for part in torch.split(rows, max(1, paths.batch // k)):
        _, shares = paths.look(part.repeat_interleave(k), t.repeat(len(part)))
        shares = shares.double()
        slopes = grouped(paths.slopes(shares), k)
        values = grouped(across(weight.repeat(len(part)), shares) * shares, k).sum(1)
        parts.append((values, (weight[:, None] * slopes.abs()).sum(1)))
    values, variation = (torch.cat(column) for column in zip(*parts, strict=True))
    return values, variation


def _refine(
    paths: Paths,
    rough: Tensor,
    ends: list[Tensor],
    size: Tensor,
    values: Tensor,
    passes: Tensor,
    tol: float,
    max_passes: int,
) -> _Done:
    """Integrate some paths panel by panel into ``values``; return the panels in order."""
    pending = _start(paths, rough, ends)
    noise = _NOISE * torch.finfo(paths.start.dtype).eps
    finished: list[_Done] = []
    while len(pending.path):
        most = paths.batch // 2
        now, pending = pending.select(slice(most)), pending.select(slice(most, None))
        seen, shares = paths.look(now.path.repeat_interleave(2), now.t.reshape(-1))
        shares = grouped(shares.double(), 2)
        slopes = grouped(paths.slopes(shares.flatten(0, 1)), 2)
        passes.index_add_(0, now.path, torch.full_like(now.path, 2))
        missed = now.at_high - now.at_low - now.width[:, None] * slopes.mean(1)
        gap = missed.abs() / size[now.path]
        fine = (gap <= torch.clamp(tol * now.width[:, None], min=noise)).all(1)
        fine |= (now.width < _NARROW) | (passes[now.path] >= max_passes)
        mean = shares.mean(1)
        values.index_add_(0, now.path[fine], (across(now.width, mean) * mean)[fine])
        finished.append(_Done(now.select(fine), slopes[fine]))
        worst = gap.argmax(1)[:, None, None].expand(-1, 2, 1)
        height = grouped(seen.double(), 2).gather(2, worst).squeeze(2)
        slope = slopes.gather(2, worst).squeeze(2)
        cut = _crossing(now, height, slope, size[now.path].gather(1, worst[:, 0]))
        pending = pending.join(_halves(paths, now.select(~fine), cut[~fine]))
    panels, slopes = finished[0].panels, torch.cat([part.slopes for part in finished])
    for part in finished[1:]:
        panels = panels.join(part.panels)
    order = torch.from_numpy(np.lexsort((panels.low.cpu().numpy(), panels.path.cpu().numpy())))
    order = order.to(panels.path.device)
    return _Done(panels.select(order), slopes[order])


def _start(paths: Paths, rough: Tensor, ends: list[Tensor]) -> _Panels:
    """Return equal panels of the rough paths."""
    edges = torch.linspace(0, 1, _PANELS + 1, dtype=torch.float64, device=rough.device)
    inner = paths.values(rough.repeat_interleave(_PANELS - 1), edges[1:-1].repeat(len(rough)))
    inner = grouped(inner, _PANELS - 1)
    knots = torch.cat([ends[0][rough][:, None], inner, ends[1][rough][:, None]], dim=1)
    return _Panels(
        rough.repeat_interleave(_PANELS),
        edges[:-1].repeat(len(rough)),
        edges[1:].repeat(len(rough)),
        knots[:, :-1].flatten(0, 1),
        knots[:, 1:].flatten(0, 1),
    )


def _crossing(panels: _Panels, seen: Tensor, slopes: Tensor, size: Tensor) -> Tensor:
    """Return where the tangents at the two nodes cross; the middle if not well inside."""
    t, width = panels.t, panels.width
    bend = slopes[:, 0] - slopes[:, 1]
    lines = seen - slopes * t
    cut = (lines[:, 1] - lines[:, 0]) / torch.where(bend == 0, 1.0, bend)
    inside = (cut > panels.low + 1e-4 * width) & (cut < panels.high - 1e-4 * width)
    clear = bend.abs() > 1e-12 * size.squeeze(1)
    return torch.where(inside & clear, cut, (panels.low + panels.high) / 2)


def _halves(paths: Paths, panels: _Panels, cut: Tensor) -> _Panels:
    """Return both parts of each panel."""
    if not len(cut):
        return panels
    middle = paths.values(panels.path, cut)
    first = _Panels(panels.path, panels.low, cut, panels.at_low, middle)
    return first.join(_Panels(panels.path, cut, panels.high, middle, panels.at_high))


def _kinks(done: _Done, size: Tensor, dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    """Return the panel edges where the slope jumps, and the nodes on both sides."""
    panels, slopes = done.panels, done.slopes
    inner = slopes[:, 1] - slopes[:, 0]
    leaving, arriving = slopes[:, 1] + _EDGE * inner, slopes[:, 0] - _EDGE * inner
    jump = (arriving[1:] - leaving[:-1]).abs()
    smooth = 4 * (inner[1:].abs() + inner[:-1].abs())
    floor = max(1e-6, 64 * torch.finfo(dtype).eps) * size[panels.path[1:]]
    joined = (panels.path[1:] == panels.path[:-1]) & (panels.low[1:] == panels.high[:-1])
    at = (((jump > smooth) & (jump > floor)).any(1) & joined).nonzero().squeeze(1)
    return panels.high[at], [2 * at + 1, 2 * at + 2]
