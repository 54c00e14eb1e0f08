"""The result of an attribution: scores of training rows for queries, with their certificate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trustml.core.results import Result
from trustml.core.validation import check_positive_int, restore, to_numpy
from trustml.ihvp import Damping, Solution

SIGN = "positive: leaving the training row out raises the measurement (the row helps a loss)"


@dataclass(frozen=True, eq=False)
class Certificate:
    """How far the solves behind the scores can be trusted.

    Attributes
    ----------
    relative_residual : numpy.ndarray of shape (q,)
        ‖(H + λI)x − b‖ / ‖b‖ of each query, by the exact operator.
    converged : bool
        Whether all are within the tolerance.
    chosen : Damping
        The damping, where it comes from, and what it rests on.
    summary : str
        The solver's own words.
    """

    relative_residual: np.ndarray
    converged: bool
    chosen: Damping
    summary: str

    @property
    def damping(self) -> float:
        """λ in units of the curvature's eigenvalues."""
        return self.chosen.value

    @property
    def damping_reason(self) -> str:
        """Where λ comes from."""
        return self.chosen.reason

    @property
    def gradient_norm(self) -> float:
        """‖∇J‖ at the model's parameters: 0 at a minimum; NaN where it is not known."""
        return self.chosen.gradient_norm

    @property
    def stationary(self) -> bool:
        """Whether the model counts as trained to a minimum.

        If not, the scores are those of a step towards one, and refits may differ.
        """
        return self.chosen.stationary

    @property
    def effective_dof(self) -> float:
        """Effective number of parameters."""
        return self.chosen.effective_dof

    def __repr__(self) -> str:
        """Say it in words; the fields hold the numbers."""
        return f"Certificate({self})"

    def __str__(self) -> str:
        if np.isnan(self.gradient_norm):
            return self.summary
        state = "a minimum" if self.stationary else "not a minimum"
        said = f"Gradient of the training objective {self.gradient_norm:.2g} ({state})"
        if self.chosen.facts.at_hand:  # else it would take many products to know
            said += f", {self.effective_dof:.4g} effective parameters"
        return f"{self.summary} {said}."

    @classmethod
    def of(cls, solutions: list[Solution], damping: Damping) -> Certificate:
        """Join the certificates of several blocks of queries."""
        residual = torch.cat([s.relative_residual for s in solutions])
        worst = max(solutions, key=lambda s: float(s.relative_residual.max()))
        return cls(
            relative_residual=to_numpy(residual),
            converged=all(bool(s.converged.all()) for s in solutions),
            chosen=damping,
            summary=worst.summary(),
        )


@dataclass(frozen=True, eq=False)
class InfluenceScores(Result):
    """Effects of training rows on queries.

    Attributes
    ----------
    values : array or Tensor of shape (q, n_train)
        Predicted change of each query's measurement if the training row were left out.
    unit : str
        What a score is measured in.
    scale : str
        "effect": a change in that unit. "raw": the method's bare formula, for influence functions
        g_q' (H + λI)⁻¹ g_i; without 1/n and correction.
    method : str
        How the curvature was inverted; the name of the method where there is another one.
    curvature : str or None
        Which matrix was inverted; None if the method has none.
    correction : str or None
        "leverage" (one Newton step without the row), "none" (first order in its weight), or None
        where the method knows no such choice.
    certificate : Certificate or None
        Residuals, damping and stationarity; None where no system of the full curvature is solved.
    sign : str
        What a positive score means.
    note : str
        What else one must know to read the numbers; "" if nothing.
    """

    values: Any
    unit: str
    scale: str
    method: str
    curvature: str | None = None
    correction: str | None = None
    certificate: Certificate | None = None
    sign: str = field(default=SIGN)
    note: str = ""

    @property
    def units(self) -> str:
        """What a score is measured in, in words."""
        return f"change of {self.unit}" if self.scale == "effect" else f"{self.unit}, unscaled"

    def top(self, k: int = 10) -> Any:
        """Return the k rows of largest absolute score of each query, largest first.

        Parameters
        ----------
        k : int
            At most n_train are returned.

        Returns
        -------
        integer array or Tensor of shape (q, k)
            Training rows.
        """
        return self._order(lambda v: v.abs(), k)

    def helpful(self, k: int = 10) -> Any:
        """Return the k rows whose absence would raise each query's measurement most.

        Parameters
        ----------
        k : int
            At most n_train are returned.

        Returns
        -------
        integer array or Tensor of shape (q, k)
            Training rows, the most helpful first.
        """
        return self._order(lambda v: v, k)

    def harmful(self, k: int = 10) -> Any:
        """Return the k rows whose absence would lower each query's measurement most.

        Parameters
        ----------
        k : int
            At most n_train are returned.

        Returns
        -------
        integer array or Tensor of shape (q, k)
            Training rows, the most harmful first.
        """
        return self._order(lambda v: -v, k)

    def _order(self, key: Any, k: int) -> Any:
        k = check_positive_int(k, "k")
        values = torch.as_tensor(self.values)
        order = torch.argsort(key(values), dim=1, descending=True, stable=True)[:, :k]
        return restore(order, self.values)

    def _columns(self) -> dict[str, Any]:
        values = to_numpy(self.values)
        q, n = values.shape
        return {
            "query": np.repeat(np.arange(q), n),
            "train_row": np.tile(np.arange(n), q),
            "score": values.ravel(),
        }

    def __repr__(self) -> str:
        shape = tuple(self.values.shape)
        told = "".join(
            f", {name}={value!r}"
            for name, value in (("curvature", self.curvature), ("correction", self.correction))
            if value is not None
        )
        return (
            f"InfluenceScores({shape[0]} queries x {shape[1]} training rows, {self.units}; "
            f"method={self.method!r}{told})" + (f"\n{self.note}" if self.note else "")
        )


def as_rows(indices: Any, n: int, name: str = "indices") -> Tensor:
    """Return row numbers as a non-empty long tensor without repeats, from numbers or a mask."""
    array = np.atleast_1d(to_numpy(indices))
    if array.dtype == bool:
        if array.shape != (n,):
            raise ValueError(f"{name} is a mask of shape {array.shape}, expected ({n},)")
        array = np.flatnonzero(array)
    if array.size == 0:
        raise ValueError(f"{name} is empty; give at least one training row")
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise TypeError(
            f"{name} must be row numbers of shape (m,) or a mask, got {array.dtype} of shape "
            f"{array.shape}"
        )
    if array.min() < 0 or array.max() >= n:
        raise ValueError(
            f"{name} must lie in 0..{n - 1} (the training rows), got {array.min()}..{array.max()}"
        )
    if len(np.unique(array)) < len(array):
        raise ValueError(f"{name} names a row twice; each row can leave once")
    return torch.as_tensor(array.astype(np.int64))
