"""What the metrics that users ask for by name, or bring themselves, are computed from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np

from trustml.fairness._class_rates import CLASS_METRICS, MAX_CLASSES, class_metric, classes_of
from trustml.fairness._confidence import OfRows, RowMetric
from trustml.fairness._rates import (
    BINARY_RATES,
    RATES,
    Decisions,
    _has_fractions,
    against_rest,
    rate_masks,
)
from trustml.fairness._row_metrics import (
    NUMBER_METRICS,
    PROBABILITY_METRICS,
    SCORE_METRICS,
    check_probabilities,
)

METRIC_NAMES = (*RATES, *CLASS_METRICS, *SCORE_METRICS, *NUMBER_METRICS)

Masks = tuple[np.ndarray, np.ndarray]  # rows that are successes, rows that count


@dataclass(frozen=True)
class Chosen:
    """The metrics to compute: ``names`` in order, each among ``rates`` or ``others``."""

    names: tuple[str, ...]
    rates: dict[str, Masks]
    others: dict[str, RowMetric]


def choose(metrics: Any, decisions: Decisions, score: np.ndarray | None) -> Chosen:
    """Return what to compute for names, callables, a dict of them, or None for the usual ones.

    Parameters
    ----------
    metrics : list of names and callables, dict name -> callable or name, or None
        As ``group_metrics`` takes them.
    decisions : Decisions
        The labels.
    score : numpy.ndarray of shape (n,) or None
        Scores of the favourable class.

    Returns
    -------
    Chosen
        A rate of more than two classes becomes one metric for each class.

    Raises
    ------
    ValueError
        If there is no metric, or one is given twice.
    """
    if metrics is None:
        metrics = _defaults(decisions, score)
    elif isinstance(metrics, str) or callable(metrics):
        metrics = [metrics]
    items: Iterable[tuple[str | None, Any]] = (
        metrics.items() if isinstance(metrics, Mapping) else ((None, m) for m in metrics)
    )
    rates: dict[str, Masks] = {}
    others: dict[str, RowMetric] = {}
    names: list[str] = []
    for given_name, metric in items:
        name = given_name or (metric if isinstance(metric, str) else _name_of(metric, len(names)))
        found = _found(metric, name, decisions, score)
        if set(found) & set(names):
            raise ValueError(f"metric {name!r} is given twice; pass a dict to name them apart")
        names.extend(found)
        for key, made in found.items():
            if isinstance(made, tuple):
                rates[key] = made
            else:
                others[key] = made
    if not names:
        raise ValueError("metrics is empty; pass names or callables, or None for the default")
    return Chosen(tuple(names), rates, others)


def _found(
    metric: Any, name: str, decisions: Decisions, score: np.ndarray | None
) -> dict[str, Masks | RowMetric]:
    if callable(metric):
        return {name: OfRows(name, metric, (decisions.y_true, decisions.y_pred))}
    if not isinstance(metric, str):
        raise TypeError(f"a metric is a name or a callable (y_true, y_pred), got {metric!r}")
    if metric in RATES:
        labels = metric in BINARY_RATES and decisions.true is None and not decisions.are_numbers
        classes = classes_of(decisions) if labels else []
        if not 2 < len(classes) <= MAX_CLASSES:
            return {name: rate_masks(metric, decisions)}
        return {f"{name}[{c}]": rate_masks(metric, against_rest(decisions, c)) for c in classes}
    if metric in CLASS_METRICS:
        return {name: class_metric(metric, name, decisions)}
    if metric in SCORE_METRICS:
        return _of_scores(metric, name, decisions, score)
    if metric in NUMBER_METRICS:
        columns = decisions.y_true, decisions.y_pred
        if any(column.dtype.kind not in "biuf" for column in columns):
            raise ValueError(f"metric {metric!r} needs numbers as y_true and y_pred")
        numbers = tuple(c.astype(np.float64) for c in columns)
        return {name: OfRows(name, NUMBER_METRICS[metric], numbers)}
    near = get_close_matches(metric, METRIC_NAMES, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    raise ValueError(f"metric {metric!r} is unknown{hint} the names are {list(METRIC_NAMES)}")


def _of_scores(
    metric: str, name: str, decisions: Decisions, score: np.ndarray | None
) -> dict[str, Masks | RowMetric]:
    if score is None:
        raise ValueError(f"metric {metric!r} needs y_score=")
    if metric in PROBABILITY_METRICS:
        check_probabilities(score, metric)
    if score.ndim == 1:
        if decisions.true is None:
            raise ValueError(
                f"metric {metric!r} needs binary labels; pass pos_label=, or one column of y_score "
                "for each of several classes"
            )
        return {name: OfRows(name, SCORE_METRICS[metric], (decisions.true, score))}
    classes = classes_of(decisions)
    if decisions.true is not None or len(classes) != score.shape[1]:
        raise ValueError(
            f"y_score has {score.shape[1]} columns, one for each class, but "
            + ("the labels are binary" if decisions.true is not None else f"{classes[:10]} occur")
            + "; pass the column of the favourable class and pos_label="
        )
    found: dict[str, Masks | RowMetric] = {}
    for j, label in enumerate(classes):
        true = against_rest(decisions, label).true
        if true is not None:
            key = f"{name}[{label}]"
            found[key] = OfRows(key, SCORE_METRICS[metric], (true, score[:, j]))
    return found


def _defaults(decisions: Decisions, score: np.ndarray | None) -> tuple[str, ...]:
    if decisions.true is not None:
        rates = ("selection_rate", "true_positive_rate", "false_positive_rate", "accuracy")
        return rates if score is None else (*rates, "mean_score", "roc_auc")
    if set(decisions.y_true.tolist()) == {0, 1} and _are_shares(decisions.y_pred):
        raise ValueError(
            "y_true has the labels 0 and 1, and y_pred fractions between them: decide, as with "
            "y_pred >= 0.5, and pass the probabilities as y_score=; for errors of predicted "
            "numbers name them in metrics="
        )
    if decisions.are_numbers:
        return ("mean_prediction", "mean_error", "mean_absolute_error")
    return ("accuracy",)


def _are_shares(values: np.ndarray) -> bool:
    return _has_fractions(values) and 0 <= values.min() <= values.max() <= 1


def _name_of(metric: Callable[..., Any], position: int) -> str:
    name = getattr(metric, "__name__", "<lambda>")
    return f"metric_{position}" if name == "<lambda>" else name
