"""What a test of fairness concludes, and the sentence that says why."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from trustml.core.results import Result


@dataclass(frozen=True, eq=False, repr=False)
class FairnessVerdict(Result):
    """Whether groups differ by no more than was allowed, as far as the rows can tell.

    Attributes
    ----------
    verdict : str
        "pass", "fail" or "not enough data".
    criterion : str
        What was compared.
    gap : float
        Measured gap of the criterion, unsigned: the largest over groups and metrics.
    interval : tuple of float
        The true gap is below the first end with probability at most alpha, and above the second
        one with probability at most alpha.
    bound, alpha : float
        What was allowed, and the allowed chance of a false "pass" and of a false "fail".
    metric : str
        The metric that decided.
    pair : tuple
        The two groups that decided, the one with the larger value first; for "worst_group" the
        groups with the largest and the smallest error.
    groups : tuple
        The k groups.
    counts : numpy.ndarray of shape (k,)
        Rows of each group.
    rows_needed : float
        Rows that would decide with 80 % power if the true gap were the measured one, at these
        shares of the groups; infinite if it were the bound itself, or a group has no row that
        counts.
    minimum_detectable_gap : float
        The gap that these rows would tell from none; NaN where that is not defined.
    both : dict
        Measured gaps for "demographic_parity" and "equalized_odds", whatever was judged: they
        can pull apart. Empty where the decisions are not binary.
    gaps : dict of str to numpy.ndarray
        Columns "metric", "higher", "lower", "gap", "low", "high", a row for each metric and pair;
        for "worst_group" "metric", "group", "error", "low", "high", a row for each group.
    training_rows : numpy.ndarray of int, or None
        Positions of the training rows that widen the gap most; None without model, training data
        or gradients, and where the test passed.
    training_effects : numpy.ndarray or None
        Predicted change of the smoothed gap if each of them were left out, at most 0.
    """

    verdict: str
    criterion: str
    gap: float
    interval: tuple[float, float]
    bound: float
    alpha: float
    metric: str
    pair: tuple[Any, Any]
    groups: tuple[Any, ...]
    counts: np.ndarray
    rows_needed: float
    minimum_detectable_gap: float
    both: dict[str, float]
    gaps: dict[str, np.ndarray]
    training_rows: np.ndarray | None = None
    training_effects: np.ndarray | None = None

    @property
    def passed(self) -> bool:
        """Whether the rows show that the gap is within the bound."""
        return self.verdict == "pass"

    @property
    def message(self) -> str:
        """The verdict in words: who, how much, how sure, and what to do."""
        name, (low, high) = self.criterion.replace("_", " "), self.interval
        first, second = self.pair
        metric = self.metric.replace("_", " ")
        who = (
            f"{metric}, largest in {first}"
            if self.criterion == "worst_group"
            else f"{metric} of {first} above that of {second}"
        )
        what = "error" if self.criterion == "worst_group" else "gap"
        deciding = "left open" if self.verdict == "not enough data" else "decided"
        measured = (
            f"{name}: {what} {self.gap:.3g}, between {low:.3g} and {high:.3g} (each with error at "
            f"most {self.alpha:g}), allowed {self.bound:g}; {deciding} by {who}{self._own()}"
        )
        lines = [f"{self.verdict.upper()}: {measured}."]
        if self.verdict == "not enough data":
            small = {
                str(g): int(n)
                for g, n in zip(self.groups, self.counts, strict=True)
                if n == self.counts.min()
            }
            smallest = f"smallest group: {small}"
            unseen = np.flatnonzero(np.isnan(self._measured))
            if len(unseen):
                metrics = sorted({str(self.gaps["metric"][i]) for i in unseen})
                lines.append(f"Some group has no row that counts for {', '.join(metrics)}.")
            elif math.isfinite(self.rows_needed):
                lines.append(
                    f"About {self.rows_needed:,.0f} rows would decide, if the measured gap is the "
                    f"true one; there are {self.counts.sum():,} ({smallest})."
                )
            else:
                lines.append(f"The measured gap is the allowed one: more rows ({smallest}).")
        if self.training_rows is not None and len(self.training_rows):
            shown = ", ".join(map(str, self.training_rows[:20]))
            lines.append(f"Training rows that widen the gap most: {shown}.")
        return "\n".join(lines)

    @property
    def _measured(self) -> np.ndarray:
        return self.gaps["error" if self.criterion == "worst_group" else "gap"]

    def _own(self) -> str:
        """Say the numbers of what decided, where it is not what has the largest gap."""
        places = {"group": self.pair[0], "higher": self.pair[0], "lower": self.pair[1]}
        rows = self.gaps["metric"] == self.metric
        for name in places.keys() & self.gaps.keys():
            rows = rows & (self.gaps[name] == str(places[name]))
        row = int(np.flatnonzero(rows)[0])
        value, low, high = (c[row] for c in (self._measured, self.gaps["low"], self.gaps["high"]))
        if value == self.gap:
            return ""
        return f" ({value:.3g}, between {low:.3g} and {high:.3g})"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers, strings and lists, for JSON.

        Returns
        -------
        dict
            Numbers that are not finite are None; groups are strings.
        """
        plain: dict[str, Any] = {
            name: _plain(getattr(self, name))
            for name in self.__dataclass_fields__
            if name not in ("pair", "groups", "gaps")
        }
        plain["pair"] = [str(group) for group in self.pair]
        plain["groups"] = [str(group) for group in self.groups]
        plain["gaps"] = {name: _plain(column) for name, column in self.gaps.items()}
        return plain | {"message": self.message}

    def _columns(self) -> dict[str, Any]:
        return dict(self.gaps)

    def _title(self) -> str:
        return f"FairnessVerdict: {self.message}"


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
