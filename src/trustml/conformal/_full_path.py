r"""Full conformal regression for squared error: residuals as functions of the new row's value.

Training with the new row at the value f + d, where f is what the model gives it now, makes every
residual affine in d: with the kernel :math:`k_i = J_i H^{-1} J' / n` between training row i and
the new row, B that of the new row with itself and c = 2 / (1 + 2B), it is r_i - c k_i d, that of
the new row (1 - c B) d. Without row i itself they are divided by 1 - h_i, its leverage in the
enlarged data. So a training row is at least as strange as the new one on one or two intervals of
d, and the ends of the set are order statistics of their ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from torch import Tensor

from trustml.conformal._proximal import Kernel
from trustml.core.batches import Data
from trustml.core.validation import to_numpy
from trustml.evidence import conformal_rank

TIE = 1e-9  # of the new row's score: rounding must not tell a row from its twin


@dataclass(frozen=True, eq=False)
class Paths:
    """Scores |a + b d| of the n training rows, and slope |d| of each of m new rows.

    Attributes
    ----------
    a, b : ndarray of shape (m, n)
        Of the training rows.
    slope : ndarray of shape (m,)
        Of the new rows; positive.
    """

    a: np.ndarray
    b: np.ndarray
    slope: np.ndarray

    @classmethod
    def of(cls, kernel: Kernel, residuals: Tensor, rows: Data, deleted: bool) -> Paths:
        """Return the paths of new rows.

        Parameters
        ----------
        kernel : Kernel
            Of the training rows, one output a row.
        residuals : Tensor of shape (n,)
            Training values minus the model's.
        rows : Data
            New rows.
        deleted : bool
            Scores of rows by the model that has seen all the others.

        Returns
        -------
        Paths
        """
        spread, across = kernel.with_rows(rows)
        own, k = spread[:, 0], across[:, 0, :, 0].T
        c = 2 / (1 + 2 * own)
        slope = 1 - c * own
        a, b = residuals.expand_as(k), -c * k
        if deleted:
            # 1 - h of the present data, less what the new row takes of each row's leverage.
            stays = 1 / kernel.freed[:, 0, 0] + 2 * c * k.square()
            a, b, slope = a / stays, b / stays, slope * 0 + 1
        return cls(to_numpy(a), to_numpy(b), to_numpy(slope)[:, 0])

    def ranks(self, d: np.ndarray) -> np.ndarray:
        """Return 1 + #{training rows at least as strange} at values d (m,) from the centre."""
        theirs = np.abs(self.a + self.b * d[:, None])
        own = self.slope * np.abs(d) * (1 - TIE)
        ranks: np.ndarray = 1 + (theirs >= own[:, None]).sum(axis=1)
        return ranks

    def ends(self, alphas: list[Fraction]) -> np.ndarray:
        """Return the least and largest d (m, 2, a) of {p > alpha}."""
        mirrored = Paths(self.a, -self.b, self.slope)
        return np.stack([-mirrored._reach(alphas), self._reach(alphas)], axis=1)

    def _reach(self, alphas: list[Fraction]) -> np.ndarray:
        n, slope = self.a.shape[1], self.slope[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            one, other = self.a / (slope - self.b), -self.a / (slope + self.b)
        # The row is as strange between its two roots, which are on either side of 0.
        far = np.maximum(one, other)
        steep = np.abs(self.b) > slope
        # A steeper one is so everywhere else; if both roots are positive there is a hole.
        far[steep | np.isnan(far)] = math.inf
        holes = steep & (one > 0)
        reach = np.full((len(far), len(alphas)), math.inf)
        for j, alpha in enumerate(alphas):
            if (count := n + 1 - conformal_rank(n, alpha)) >= 1:
                reach[:, j] = np.partition(far, n - count, axis=1)[:, n - count]
                for i in np.flatnonzero(holes.any(axis=1) & np.isfinite(reach[:, j])):
                    low, high = np.sort([one[i, holes[i]], other[i, holes[i]]], axis=0)
                    reach[i, j] = _before_holes(far[i], low, high, count)
        return reach


def _before_holes(far: np.ndarray, low: np.ndarray, high: np.ndarray, count: int) -> float:
    """Return the largest d that ``count`` rows reach, some with a hole between low and high."""
    places = np.sort(np.concatenate([far[np.isfinite(far)], low]))[::-1]
    reached = (far >= places[:, None]).sum(axis=1)
    inside = ((low < places[:, None]) & (places[:, None] < high)).sum(axis=1)
    return float(places[reached - inside >= count][0])
