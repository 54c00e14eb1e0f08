"""Correlations between channels that no row of the data had."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from trustml.model import Model, Observation
from trustml.model.passes import Layers
from trustml.ood._detector import Detector
from trustml.ood._layers import LayerChoice, by_position, chosen_layers, layer_readings
from trustml.ood._seen import as_double

_LEAST = 1e-3  # of a layer's mean bound: what a channel that never fired is divided by
_SINGLE = 5  # orders up to which float32 will do for float32 activations
_NUMBERS = 2**16  # activations, or sums, at once: what a core's cache holds three times


class Gram(Detector):
    r"""How far the correlations between channels leave their ranges on the data.

    Of a layer's activations F (channels by positions) and each order p, the Gram matrix
    :math:`(F^p F^{p\top})^{1/p}` is summed by rows. Each of these numbers has a range on the
    rows of ``fit`` of one predicted class. The score is the mean relative excess,
    :math:`(v - \max) / |\max|` or :math:`(\min - v) / |\min|`, over the numbers of a layer,
    summed over layers. Rows inside all ranges get a score in [-1, 0], how near the bounds are
    on average, so that they do not tie. No unit; does not depend on that of the activations.

    The paper divides a layer's sum by its mean on held-out rows; here it is the number of
    entries, so no rows need be held out, and ranges can be added to.

    Parameters
    ----------
    model : Model or estimator
        A model with features.
    orders : sequence of int
        The orders p, at least 1.
    layers : "auto", sequence of str or None
        "auto" reads the end of each stage, of models without inner layers the features; None
        reads the features.

    Attributes
    ----------
    layers_ : list of str
        The inner layers that are read; empty where it is the features.

    References
    ----------
    Sastry and Oore (2020), Detecting out-of-distribution examples with Gram matrices,
    arXiv:1912.12510.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = Gram(LogisticRegression(max_iter=1000).fit(X, y)).fit(X)
    >>> bool(det.score(X).max() <= 0 < det.score(X + 5.0).min())
    True
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    def __init__(
        self,
        model: Any,
        orders: Sequence[int] = (1, 2, 3, 4, 5),
        layers: LayerChoice = "auto",
    ) -> None:
        self.model = model
        self.orders = orders
        self.layers = layers

    def _layers(self, model: Model) -> Layers:
        orders = self._checked_orders()
        reading = partial(gram_sums, orders=orders)
        return layer_readings(model, self.layers, self._key, reading)

    def _update(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        self.layers_ = chosen_layers(model, self.layers)
        parts, classes = self._sums(observation), _predicted(observation)
        k = 1 if observation.logits is None else observation.logits.shape[1]
        if not hasattr(self, "low_"):
            self.low_ = [part.new_full((k, part.shape[1]), torch.inf) for part in parts]
            self.high_ = [-low for low in self.low_]
        for part, low, high in zip(parts, self.low_, self.high_, strict=True):
            which = classes[:, None].expand_as(part)
            low.scatter_reduce_(0, which, part, "amin")
            high.scatter_reduce_(0, which, part, "amax")

    def _finish(self, model: Model) -> None:
        self.least_ = [_least(highs) for highs in self.high_]

    def _score(self, observation: Observation) -> Tensor:
        classes, sums = _predicted(observation), self._sums(observation)
        found = sums[0].new_empty(len(classes))
        for k in torch.unique(classes).tolist():
            which = (classes == k).nonzero().flatten()
            found[which] = self._within([part[which] for part in sums], k)
        return found

    def _within(self, parts: list[Tensor], k: int) -> Tensor:
        """Return the scores of rows that are all predicted as one class."""
        total = parts[0].new_zeros(len(parts[0]))
        ranges = []
        for v, lows, highs, least in zip(parts, self.low_, self.high_, self.least_, strict=True):
            # A class that no row of fit was predicted as has the ranges of all.
            seen = bool(lows[k, 0].isfinite())
            low = lows[k] if seen else lows.amin(dim=0)
            high = highs[k] if seen else highs.amax(dim=0)
            over = (v - high).clamp_min_(0) @ high.abs().clamp_min(least).reciprocal()
            under = (low - v).clamp_min_(0) @ low.abs().clamp_min(least).reciprocal()
            total += (over + under) / v.shape[1]
            ranges.append((low, high, least))
        inside = (total == 0).nonzero().flatten()
        if len(inside):
            near = [_nearness(v[inside], *own) for v, own in zip(parts, ranges, strict=True)]
            total[inside] = torch.stack(near).mean(dim=0).clamp_max(1) - 1
        return total

    def _sums(self, observation: Observation) -> list[Tensor]:
        if self.layers_:
            return [as_double(observation.layers.get(self._key(name))) for name in self.layers_]
        features = as_double(observation.features)
        return [gram_sums(features, channels_first=True, orders=self._checked_orders())]

    def _key(self, name: str) -> str:
        return f"{name} (Gram sums of orders {list(self.orders)})"

    def _checked_orders(self) -> tuple[int, ...]:
        orders = tuple(self.orders)
        if not orders or any(isinstance(p, bool) or int(p) != p or p < 1 for p in orders):
            raise ValueError(f"orders must be integers of at least 1, got {self.orders!r}")
        return orders


def gram_sums(output: Tensor, *, channels_first: bool, orders: Sequence[int]) -> Tensor:
    """Return the row sums of the Gram matrices, (b, channels * orders), in float64."""
    maps = by_position(output, channels_first=channels_first)
    # Beyond the paper's orders the powers of small activations would underflow.
    least = torch.float32 if max(orders) <= _SINGLE else torch.float64
    maps = maps.to(torch.promote_types(maps.dtype, least))
    b, c, m = maps.shape
    rows = b
    if maps.device.type == "cpu":
        rows = max(1, min(b, _NUMBERS // (c * max(m, len(orders)))))
    # Multiples of 4096 bytes between them, and stores would hold up loads.
    room = maps.new_empty(3, -(-c * rows * m // 1024) * 1024 + 352)
    return torch.cat([_gram_sums(some, orders, room) for some in torch.split(maps, rows)])


def _gram_sums(maps: Tensor, orders: Sequence[int], room: Tensor) -> Tensor:
    b, c, m = maps.shape
    into: Sequence[Tensor | None] = (None, None, None)
    if not maps.requires_grad:
        into = room[:, : c * b * m].view(3, c, b, m).unbind()
    flat, tiny = maps.flatten(1), torch.finfo(maps.dtype).tiny
    # High orders of large activations would overflow: the largest is 1 meanwhile.
    size = torch.maximum(flat.amax(dim=1), -flat.amin(dim=1)).clamp_min(tiny)
    # Channels first: sums over them, and products with these, run through long vectors.
    base = torch.div(maps.transpose(0, 1), size[:, None], out=into[0]).reshape(c, b * m)
    power, work = (None if part is None else part.view(c, b * m) for part in into[1:])
    reached, at, sums = 1, base, {}
    for p in sorted(set(orders)):
        # By products: torch's powers take ten times as long.
        for _ in range(p - reached):
            at = torch.mul(at, base, out=power)
        reached = p
        found = torch.mul(at, at.sum(dim=0), out=work).view(c, b, m).sum(dim=2).double()
        least = torch.finfo(found.dtype).tiny  # of zero the root has no slope
        sums[p] = (found.abs().clamp_min(least).log() / p).exp().copysign(found)
    each = torch.stack([sums[p] for p in orders]) * size.double().square()
    return each.flatten(0, 1).T.contiguous()


def _least(highs: Tensor) -> float:
    """Return what to divide by at least."""
    seen = highs[highs[:, 0].isfinite()]
    return max(_LEAST * float(seen.abs().mean()), torch.finfo(highs.dtype).tiny)


def _nearness(v: Tensor, low: Tensor, high: Tensor, least: float) -> Tensor:
    """Return how near to the bounds numbers in their ranges are on average: 0 in the middle."""
    middle, half = (low + high) / 2, (high - low) / 2
    near = (v - middle).abs() / half.clamp_min(1e-12 * least)
    return near.where(half > 0, torch.zeros_like(near)).mean(dim=1)


def _predicted(observation: Observation) -> Tensor:
    """Return the predicted classes; zeros without classes."""
    if observation.logits is None:
        return torch.zeros(len(observation), dtype=torch.long, device=observation.outputs.device)
    return observation.logits.argmax(dim=1)
