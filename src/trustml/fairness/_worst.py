"""Which group fares worst by each metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from trustml.fairness._class_rates import HIGHER_IS_BETTER

# Beside the rates' table: metrics of scores, numbers and prediction sets.
_HIGHER_IS_BETTER: dict[str, bool | None] = HIGHER_IS_BETTER | {
    "mean_score": True,
    "balance_positive_class": True,
    "balance_negative_class": False,
    "brier_score": False,
    "log_loss": False,
    "calibration_error": False,
    "debiased_calibration_error": False,
    "roc_auc": True,
    "mean_absolute_error": False,
    "mean_squared_error": False,
    "coverage": True,
    "set_size": False,
    "empty": False,
    "singleton": True,
    "unbounded": False,
    "interval_width": False,
}
_BEST_AT_ZERO = ("mean_error", "calibration_in_the_large")

# Whose harm a reading takes, where it is not that a group is predicted worse.
_BURDEN = "more are wrongly decided positive: their harm if that is a burden, not if it is a favour"
_DENIED = "more are wrongly decided negative: their harm if a positive decision is a favour"
_LESS = "fewer are decided positive: their harm if that is a favour"
_HARM = {
    "selection_rate": _LESS,
    "mean_score": _LESS,
    "true_positive_rate": _DENIED,
    "false_negative_rate": _DENIED,
    "negative_predictive_value": _DENIED,
    "false_omission_rate": _DENIED,
    "balance_positive_class": _DENIED,
    "true_negative_rate": _BURDEN,
    "false_positive_rate": _BURDEN,
    "precision": _BURDEN,
    "false_discovery_rate": _BURDEN,
    "balance_negative_class": _BURDEN,
}


class Worst(NamedTuple):
    """The group that fares worst by a metric.

    Attributes
    ----------
    group : object
        None where no group has the metric, or all have the same value.
    value : float
        The metric in that group.
    overall : float
        The metric over all rows.
    reading : str
        What made it the worst: "lowest", "highest", "farthest from 0" or "farthest from overall".
    harm : str
        Whose harm this reading takes; with ``higher_is_better`` yours, and "" here.
    """

    group: Any
    value: float
    overall: float
    reading: str
    harm: str = ""


def worst_groups(
    metrics: tuple[str, ...],
    groups: tuple[Any, ...],
    by_group: np.ndarray,
    overall: np.ndarray,
    higher_is_better: Mapping[str, bool] | None,
) -> dict[str, Worst]:
    """Find the worst group by each metric; see ``GroupMetrics.worst``."""
    given = dict(higher_is_better or {})
    if unknown := set(given) - set(metrics):
        raise ValueError(
            f"higher_is_better names {sorted(unknown)}, which are not among {list(metrics)}"
        )
    found = {}
    for j, name in enumerate(metrics):
        column = by_group[:, j]
        plain = name.partition("[")[0].removeprefix("macro_").removeprefix("worst_class_")
        better = given.get(name, _HIGHER_IS_BETTER.get(plain))
        if better is not None:
            badness, word = (-column, "lowest") if better else (column, "highest")
        elif plain in _BEST_AT_ZERO:
            badness, word = np.abs(column), "farthest from 0"
        else:
            badness, word = np.abs(column - overall[j]), "farthest from overall"
        known = word != "farthest from overall"
        harm = "" if name in given else _HARM.get(plain, "is predicted worse" if known else "")
        total, defined = float(overall[j]), np.flatnonzero(np.isfinite(badness))
        if len(defined) and (len(defined) < 2 or np.ptp(column[defined]) > 0):
            place = int(np.nanargmax(badness))
            found[name] = Worst(groups[place], float(column[place]), total, word, harm)
        else:
            value = float(column[defined[0]]) if len(defined) else float("nan")
            found[name] = Worst(None, value, total, word, harm)
    return found
