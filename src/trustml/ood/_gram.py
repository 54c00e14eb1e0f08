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

    def _score(self, observation: Observation) -> Tensor:
        classes = _predicted(observation)
        excess, inside = [], []
        for v, lows, highs in zip(self._sums(observation), self.low_, self.high_, strict=True):
            seen = lows[:, 0].isfinite()
            # A class that no row of fit was predicted as has the ranges of all.
            low = torch.where(seen[:, None], lows, lows.amin(dim=0))[classes]
            high = torch.where(seen[:, None], highs, highs.amax(dim=0))[classes]
            least = (_LEAST * highs[seen].abs().mean()).clamp_min(torch.finfo(v.dtype).tiny)
            over = (v - high).clamp_min(0) / high.abs().clamp_min(least)
            under = (low - v).clamp_min(0) / low.abs().clamp_min(least)
            excess.append((over + under).mean(dim=1))
            middle, half = (low + high) / 2, (high - low) / 2
            near = (v - middle).abs() / half.clamp_min(1e-12 * least)
            inside.append(near.where(half > 0, torch.zeros_like(near)).mean(dim=1))
        total = torch.stack(excess).sum(dim=0)
        nearness = torch.stack(inside).mean(dim=0).clamp_max(1)
        return torch.where(total > 0, total, nearness - 1)

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
    maps = by_position(output, channels_first=channels_first).double()
    # High orders of large activations would overflow: the largest is 1 meanwhile.
    size = maps.abs().amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
    base = maps / size
    power, reached, sums = base.clone(), 1, {}
    for p in sorted(set(orders)):
        # By products: torch's powers take ten times as long.
        for _ in range(p - reached):
            power *= base
        reached = p
        found = (power @ power.sum(dim=1)[:, :, None])[:, :, 0]
        sums[p] = found.sign() * found.abs() ** (1 / p) * size[:, :, 0] ** 2
    return torch.cat([sums[p] for p in orders], dim=1)


def _predicted(observation: Observation) -> Tensor:
    """Return the predicted classes; zeros without classes."""
    if observation.logits is None:
        return torch.zeros(len(observation), dtype=torch.long, device=observation.outputs.device)
    return observation.logits.argmax(dim=1)
