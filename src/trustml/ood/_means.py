"""Means of groups of rows, learnt batch by batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class GroupMeans:
    """Sums and counts of the rows of each group, in float64.

    Attributes
    ----------
    sums : Tensor of shape (k, d)
    counts : Tensor of shape (k,)
    """

    sums: Tensor
    counts: Tensor

    @classmethod
    def of(cls, n_groups: int, like: Tensor) -> GroupMeans:
        """Return those of no rows; rows will have the width of ``like``, (n, d)."""
        sums = like.new_zeros(n_groups, like.shape[1], dtype=torch.float64)
        return cls(sums, sums.new_zeros(n_groups))

    def plus(self, rows: Tensor, groups: Tensor | None = None) -> GroupMeans:
        """Return those of float64 rows (n, d) too; without ``groups`` (n,) all are of the first."""
        if groups is None:
            groups = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
        ones = torch.ones_like(groups, dtype=torch.float64)
        return GroupMeans(
            self.sums.index_add(0, groups, rows), self.counts.index_add(0, groups, ones)
        )

    def means(self) -> Tensor:
        """Return the mean of each group (k, d); zeros where there are no rows."""
        return self.sums / self.counts.clamp_min(1)[:, None]

    def present(self) -> Tensor:
        """Return which groups have rows, indices of shape (m,)."""
        return self.counts.nonzero().flatten()


def off_centre(rows: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows (n, d) minus the centre, and their lengths (n,), positive even at the centre."""
    offsets = rows - centre
    rounding = torch.finfo(rows.dtype).eps * (rows.norm(dim=1) + centre.norm())
    return offsets, offsets.norm(dim=1).maximum(rounding).clamp_min(1e-150)
