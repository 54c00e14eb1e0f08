"""What an attack climbs: losses on logits that grow as the prediction goes wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

LOSSES = ("ce", "margin")


@dataclass(frozen=True, eq=False)
class Aim:
    r"""An attack's goal for each row, and the loss that leads there.

    With :math:`z` the logits and :math:`y` the label, the losses are

    * ``"margin"``: :math:`\max_{j \ne y} z_j - z_y`, positive when the label is beaten;
    * ``"ce"``: :math:`\log \sum_{j \ne y} e^{z_j} - z_y`. Cross-entropy is softplus of this, an
      increasing function, so both have the same ascent direction; but the gradient of
      cross-entropy underflows to zero on confident rows and this one's does not.

    With ``rivals``, the loss is :math:`z_{rival} - z_y`. When ``targeted``, :math:`y` is the class
    to reach and the losses change sign.
    """

    labels: Tensor
    targeted: bool = False
    loss: str = "ce"
    rivals: Tensor | None = None

    def select(self, rows: Tensor) -> Self:
        """Return the goal of some of the rows."""
        rivals = None if self.rivals is None else self.rivals[rows]
        return replace(self, labels=self.labels[rows], rivals=rivals)

    def reached(self, logits: Tensor) -> Tensor:
        """Return which rows are where the attacker wants them, (n,); never with NaN logits."""
        hit = logits.argmax(1) == self.labels
        return (hit if self.targeted else ~hit) & torch.isfinite(logits).all(1)

    def values(self, logits: Tensor) -> Tensor:
        """Return the loss of each row, (n,), float64."""
        wide = logits.double()
        column = self.labels[:, None]
        own = wide.gather(1, column).squeeze(1)
        if self.rivals is not None:
            others = wide.gather(1, self.rivals[:, None]).squeeze(1)
        else:
            rest = wide.scatter(1, column, -torch.inf)
            others = rest.logsumexp(1) if self.loss == "ce" else rest.amax(1)
        return own - others if self.targeted else others - own
