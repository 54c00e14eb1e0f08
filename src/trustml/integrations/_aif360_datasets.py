"""AIF360's data sets from arrays and back, and its metrics by name."""

from __future__ import annotations

from typing import Any

import numpy as np

from trustml.core.optional import require
from trustml.core.validation import check_finite, frame_columns, to_numpy
from trustml.fairness._groups import Groups, as_groups
from trustml.fairness._rates import as_decisions

GROUP, LABEL = "sensitive_group", "label"
SIDES = {"unprivileged_groups": [{GROUP: 0.0}], "privileged_groups": [{GROUP: 1.0}]}


def to_dataset(
    X: Any,
    y: Any,
    *,
    sensitive_features: Any,
    privileged: Any = None,
    pos_label: Any = None,
    y_score: Any = None,
    sample_weight: Any = None,
) -> Any:
    """Return rows as AIF360's ``BinaryLabelDataset``.

    Parameters
    ----------
    X : array or frame of shape (n, d)
        Numbers.
    y : array-like of shape (n,)
        Two labels of any kind.
    sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
        Group membership. AIF360 compares two sides: ``privileged``, and all others together.
    privileged : object or None
        A group; None: of two, the first of the sorted groups.
    pos_label : object or None
        The favourable label; None: 1 of {0, 1} and {-1, 1}.
    y_score : array of shape (n,) or None
        Probability of the favourable label.
    sample_weight : array-like of shape (n,) or None
        How often each row counts.

    Returns
    -------
    aif360.datasets.BinaryLabelDataset
        Columns of X, then "sensitive_group", 1 for the privileged; "label", 1 for the favourable.

    Raises
    ------
    ValueError
        If labels are not binary, a column holds no finite numbers, or more than two groups have
        none that is privileged.
    """
    labels = as_decisions(y, y, pos_label).true
    if labels is None:
        raise ValueError("AIF360 compares two labels; pass pos_label= to tell one from the rest")
    groups = as_groups(sensitive_features, len(labels))
    side = groups.codes == side_of(groups, privileged)
    return rows_to_dataset(X, labels, side, y_score, sample_weight)


def from_dataset(dataset: Any) -> dict[str, Any]:
    """Return what an AIF360 data set holds, as arrays.

    Parameters
    ----------
    dataset : aif360.datasets.BinaryLabelDataset
        Any, of one label.

    Returns
    -------
    dict
        "X" (n, d), the columns that are not protected; "feature_names"; "y" (n,), 1 for the
        favourable label; "y_score" (n,); "sample_weight" (n,); "sensitive_features", a dict of
        (n,) columns.
    """
    protected = dataset.protected_attribute_names
    kept = [j for j, name in enumerate(dataset.feature_names) if name not in protected]
    return {
        "X": dataset.features[:, kept].copy(),
        "feature_names": [dataset.feature_names[j] for j in kept],
        "y": (dataset.labels.ravel() == dataset.favorable_label).astype(np.int64),
        "y_score": dataset.scores.ravel().astype(np.float64),
        "sample_weight": dataset.instance_weights.copy(),
        "sensitive_features": dict(zip(protected, dataset.protected_attributes.T, strict=True)),
    }


def metric(
    name: str,
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    privileged: Any = None,
    pos_label: Any = None,
    y_score: Any = None,
    X: Any = None,
    **options: Any,
) -> Any:
    """Return a metric of AIF360 by its name.

    Parameters
    ----------
    name : str
        A method of ``aif360.metrics.ClassificationMetric``, such as
        "average_abs_odds_difference", "theil_index" or "consistency".
    y_true, y_pred : array-like of shape (n,)
        True and predicted labels.
    sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
        Group membership.
    privileged, pos_label : object or None
        As in ``to_dataset``.
    y_score : array of shape (n,) or None
        Probability of the favourable label, for what AIF360 calls generalized.
    X : array or frame of shape (n, d) or None
        Rows, for "consistency".
    **options : object
        Further arguments of the method.

    Returns
    -------
    float, or what the method gives
        AIF360's figure: differences are unprivileged minus privileged.

    Raises
    ------
    ValueError
        If AIF360 has no such metric.
    """
    kind = require("aif360.metrics", "fairness").ClassificationMetric
    if name.startswith("_") or not callable(getattr(kind, name, None)):
        known = sorted(n for n in dir(kind) if not n.startswith("_") and callable(getattr(kind, n)))
        raise ValueError(f"AIF360 has no metric {name!r}; it has {', '.join(known)}")
    labels = as_decisions(y_true, y_pred, pos_label)
    if labels.true is None or labels.decided is None:
        raise ValueError("AIF360 compares two labels; pass pos_label= to tell one from the rest")
    rows = np.zeros((len(labels.true), 0)) if X is None else X
    groups = as_groups(sensitive_features, len(labels.true))
    side = groups.codes == side_of(groups, privileged)
    pair = (
        rows_to_dataset(rows, labels.true, side),
        rows_to_dataset(rows, labels.decided, side, y_score),
    )
    return getattr(kind(*pair, **SIDES), name)(**options)


def side_of(groups: Groups, privileged: Any) -> int:
    """Return the position of the privileged group."""
    if privileged is not None:
        return groups.index(privileged)
    if len(groups.labels) > 2:
        raise ValueError(
            "AIF360 compares one group with all others together: pass privileged=, one of "
            f"{list(groups.labels)}"
        )
    return 0


def rows_to_dataset(
    X: Any, labels: np.ndarray, side: np.ndarray, y_score: Any = None, sample_weight: Any = None
) -> Any:
    """Return a BinaryLabelDataset of rows, favourable labels and privileged rows."""
    kind = require("aif360.datasets", "fairness").BinaryLabelDataset
    pandas = require("pandas", "frames")
    rows = to_numpy(X)
    try:
        frame = pandas.DataFrame(rows.astype(np.float64))
    except (ValueError, TypeError) as error:
        raise ValueError(f"AIF360 needs columns of numbers: encode the others ({error})") from error
    check_finite(frame.to_numpy(), "X")
    names = frame_columns(X) or [f"x{j}" for j in range(rows.shape[1])]
    frame.columns = pandas.Index(names, dtype=object)
    taken = sorted({GROUP, LABEL, "weight", "score"} & set(names))
    if taken:
        raise ValueError(f"rename the columns {taken} of X: the data set has its own")
    frame = frame.assign(**{GROUP: side.astype(np.float64), LABEL: labels.astype(np.float64)})
    more: dict[str, Any] = {}
    if sample_weight is not None:
        frame["weight"], more["instance_weights_name"] = to_numpy(sample_weight), "weight"
    if y_score is not None:
        frame["score"], more["scores_names"] = to_numpy(y_score), ["score"]
    return kind(
        favorable_label=1.0,
        unfavorable_label=0.0,
        df=frame,
        label_names=[LABEL],
        protected_attribute_names=[GROUP],
        unprivileged_protected_attributes=[np.array([0.0])],
        privileged_protected_attributes=[np.array([1.0])],
        **more,
    )
