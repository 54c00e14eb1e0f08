"""Straight paths from baselines to rows, and their quadratures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trustml.explain._gradients import Field, across, input_gradients, weigh

_POINTS = 4096  # points of one forward pass, at most
_NUMBERS = 2**22  # gradients of one forward pass and output, at most


class Paths:
    """Straight lines from ``start`` to ``end``, and the field along them.

    Whatever the field returns, there is a column axis here: numbers are (m, c), and what each
    feature contributes to the slope along the path, (m, *features, c).

    Parameters
    ----------
    field : callable
        What is explained.
    start, end : Tensor of shape (p, *features)
        Ends.
    owner : Tensor of shape (p,)
        Row of each path.
    """

    def __init__(self, field: Field, start: Tensor, end: Tensor, owner: Tensor) -> None:
        self.field, self.start, self.owner = field, start, owner
        self.delta = end - start
        self.batch = min(_POINTS, max(32, _NUMBERS // max(1, start[0].numel())))

    def __len__(self) -> int:
        return len(self.start)

    @property
    def features(self) -> int:
        """Number of feature axes."""
        return self.start.ndim - 1

    def points(self, path: Tensor, t: Tensor) -> Tensor:
        """Return the points at positions ``t`` (m,) of the paths ``path`` (m,)."""
        delta = self.delta[path]
        return self.start[path] + across(t.to(delta), delta) * delta

    def values(self, path: Tensor, t: Tensor) -> Tensor:
        """Return the field there, (m, c), float64, without a graph."""
        with torch.no_grad():
            parts = [
                self.field(self.points(p, s), self.owner[p])
                for p, s in zip(
                    torch.split(path, self.batch), torch.split(t, self.batch), strict=True
                )
            ]
        found = torch.cat(parts).double()
        return found[:, None] if found.ndim == 1 else found

    def look(self, path: Tensor, t: Tensor, *, graph: bool = False) -> tuple[Tensor, Tensor]:
        """Return the field (m, c) and the slope's shares (m, *features, c)."""
        points = self.points(path, t)
        values, gradients = input_gradients(self.field, points, self.owner[path], graph=graph)
        shares = weigh(gradients, self.delta[path])
        if values.ndim == 1:
            return values[:, None], shares[..., None]
        return values, shares

    def slopes(self, shares: Tensor) -> Tensor:
        """Return d field / d t, (m, c): the shares of all features together."""
        return shares.flatten(1, self.features).sum(1)


@dataclass(frozen=True, eq=False)
class Nodes:
    """A quadrature of each path, and the kinks that it found.

    Attributes
    ----------
    path : Tensor of shape (m,)
    t, weight : Tensor of shape (m,)
        Positions in (0, 1) and weights, float64; the weights of one path add up to 1.
    kinks : Tensor of shape (k,)
        Positions where the slope jumps, between the nodes ``left`` and ``right``.
    left, right : Tensor of shape (k,)
        Indices of nodes.
    """

    path: Tensor
    t: Tensor
    weight: Tensor
    kinks: Tensor
    left: Tensor
    right: Tensor


@dataclass(frozen=True, eq=False)
class PathIntegral:
    """What each path's features contributed, and how well that adds up.

    Attributes
    ----------
    values : Tensor of shape (p, *features, c)
        Float64.
    start, end : Tensor of shape (p, c)
        The field at both ends, float64.
    size : Tensor of shape (p, c)
        Size of the field and of its variation along the path; positive.
    passes : Tensor of shape (p,)
        Gradient evaluations.
    nodes : Nodes
        With which the same integral can be taken again, with a graph.
    """

    values: Tensor
    start: Tensor
    end: Tensor
    size: Tensor
    passes: Tensor
    nodes: Nodes


def with_graph(paths: Paths, nodes: Nodes) -> Tensor:
    """Return the integral (p, *features, c) on given nodes, differentiable in the parameters.

    On a piecewise linear network the parameters also move the kinks along the path, which
    gradients at fixed nodes do not see. The position of a kink is where the tangents at the
    nodes beside it cross; its motion enters here with value zero and the right derivative.

    Returns
    -------
    Tensor of shape (p, *features, c)
    """
    values, shares = paths.look(nodes.path, nodes.t, graph=True)
    weight = nodes.weight.to(shares)
    zero = torch.zeros(len(paths), *shares.shape[1:], dtype=shares.dtype, device=shares.device)
    found = zero.index_add(0, nodes.path, across(weight, shares) * shares)
    if not len(nodes.kinks):
        return found
    left, right, at = nodes.left, nodes.right, nodes.kinks[:, None]
    slopes = paths.slopes(shares)
    reach_left, reach_right = (at - nodes.t[k][:, None] for k in (left, right))
    lead = values[left] + slopes[left] * reach_left.to(values)
    lead = lead - values[right] - slopes[right] * reach_right.to(values)
    jump = (slopes[right] - slopes[left]).detach()
    strongest = jump.abs().argmax(1, keepdim=True)
    # All outputs share the kink; the one with the largest jump locates it best.
    motion = lead.gather(1, strongest) / jump.gather(1, strongest)
    step = (shares[left] - shares[right]).detach()
    motion = motion.squeeze(1) - motion.squeeze(1).detach()
    return found.index_add(0, nodes.path[left], across(motion, step) * step)
