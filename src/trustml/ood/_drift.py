"""Has the data moved? Two-sample tests on what the model sees and on what it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trustml.core.random import RandomState
from trustml.core.results import Result
from trustml.core.validation import check_choice, frame_columns, to_numpy
from trustml.evidence import (
    TestResult,
    classifier_test,
    energy_test,
    fourier_mmd_test,
    hotelling_test,
    linear_mmd_test,
    mmd_test,
)
from trustml.model import Model, Observation, as_model
from trustml.ood._drift_columns import (
    Column,
    DriftByFeature,
    as_columns,
    by_feature,
    check_columns,
    check_order,
    column_names,
    column_test,
)
from trustml.ood._drift_score import score_coordinates

Method = str | Callable[[NDArray[np.float64], NDArray[np.float64]], TestResult]
_OF_ROWS = ("mmd", "mmd-fourier", "mmd-linear", "energy", "classifier")
_METHODS = (*_OF_ROWS, "ks", "chi2", "score")
_CORRECTIONS = ("holm", "bonferroni", "bh", "by", "storey")
_MOST_COLUMNS = 4096


@dataclass(frozen=True, eq=False)
class DriftResult(Result):
    """Whether two samples come from one distribution, and where they differ.

    Attributes
    ----------
    statistic : float
        Of the test that ``method`` names.
    p_value : float
        Probability of a statistic at least as large if nothing has moved.
    effect_size : float
        How much has moved, on a scale that does not grow with n: the square root of the
        unbiased MMD² in [0, sqrt(2)], the energy distance as a share of its largest value, the
        largest gap of distribution functions, Cramér's V, 2 AUROC - 1 of the classifier, or the
        distance of the mean gradients in standard deviations.
    method : str
        The test.
    on : {"features", "outputs", "inputs", "gradients"}
        What was compared.
    n : tuple of int
        Rows compared.
    by_feature : DriftByFeature
        A test of each column of the inputs, or of ``on`` where the inputs are no table.
    """

    statistic: float
    p_value: float
    effect_size: float
    method: str
    on: str
    n: tuple[int, ...]
    by_feature: DriftByFeature

    def _columns(self) -> dict[str, Any]:
        return {
            "on": [self.on],
            "method": [self.method],
            "statistic": [self.statistic],
            "p_value": [self.p_value],
            "effect_size": [self.effect_size],
        }


def drift_test(
    model: Any,
    X_ref: Any,
    X_new: Any,
    *,
    on: str | None = None,
    method: Method = "mmd",
    y_ref: Any = None,
    y_new: Any = None,
    categorical: Sequence[str] | None = None,
    correction: str = "holm",
    n_permutations: int = 499,
    max_rows: int = 1000,
    random_state: RandomState = 0,
) -> DriftResult:
    """Test whether new rows come from the distribution of reference rows.

    The test compares what the model sees - by default its features, each scaled by its pooled
    standard deviation - so a shift that the model is blind to does not alarm. ``by_feature``
    tests each input column beside it, whatever the model makes of it. With many rows any
    difference is significant: read the effect size beside the p-value.

    Parameters
    ----------
    model : Model or estimator
        What the rows are for.
    X_ref, X_new : array, tensor, frame, Dataset or DataLoader of n and m rows
        Reference rows, which the model was not trained on, and new ones.
    on : {"features", "outputs", "inputs"} or None
        What is compared. "outputs" are logits, probabilities or predicted values. None takes
        the features, or the outputs of a model without.
    method : str, or callable (rows, rows) -> TestResult
        - "mmd", "energy": maximum mean discrepancy, energy distance; shuffles of the pooled
          rows, of which at most ``max_rows`` of each sample are drawn;
        - "mmd-fourier", "mmd-linear": in linear time, for many rows, and none are left out:
          random Fourier features with shuffles, or disjoint pairs with the normal law;
        - "classifier": gradient-boosted trees trained to tell half of the rows apart, judged on
          the other half;
        - "ks", "chi2": each column by itself (for "chi2" in bins), with Bonferroni's correction;
        - "score": the mean gradient of the loss, of all rows and models with gradients: moves
          that would move the model's last layer, labels included if they are given.

        A callable is given the scaled rows, such as
        ``functools.partial(trustml.evidence.classifier_test, classifier=...)``.
    y_ref, y_new : array of shape (n,), (m,), or None
        Labels, for "score": a change of the labels given the inputs is seen, too.
    categorical : sequence of str or None
        Input columns that are tested as categories ("x0", "x1", ... of an array); None: those
        that are no numbers or have at most 10 values.
    correction : {"holm", "bonferroni", "bh", "by", "storey"}
        Of ``by_feature`` for the number of columns.
    n_permutations : int
        Shuffles; the smallest p-value is 1 / (n_permutations + 1). 0, for "score": Hotelling's F
        law, which tends to chi-squared with as many degrees of freedom as directions.
    max_rows : int
        "mmd" and "energy" thin larger samples at random (memory is quadratic).
    random_state : int, Generator or None
        Seed of thinning, shuffles, splits and features.

    Returns
    -------
    DriftResult

    Raises
    ------
    ValueError
        If ``on`` or ``method`` is unknown, the model has no features, or the columns of one frame
        are in another order than those of the other.

    References
    ----------
    Gretton, Borgwardt, Rasch, Schölkopf and Smola (2012), A kernel two-sample test.
    Rabanser, Günnemann and Lipton (2019), Failing loudly, arXiv:1810.11953.
    Rao (1948), Large sample tests of statistical hypotheses, for "score".

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(max_iter=1000).fit(X, y)
    >>> drift_test(model, X[::2], X[1::2] + [2.0, 0.0, 0.0, 0.0]).by_feature.top(1)
    ['x0']
    """
    if not callable(method):
        check_choice(method, "method", _METHODS)
    check_choice(on, "on", ("features", "outputs", "inputs", None))
    check_choice(correction, "correction", _CORRECTIONS)
    check_order(frame_columns(X_ref), frame_columns(X_new))
    model = as_model(model)
    table = as_columns(X_ref), as_columns(X_new)
    if method == "score":
        if on is not None:
            raise ValueError("method='score' compares gradients; leave on=None")
        on = "gradients"
        labels = y_ref, y_new
        first, second = score_coordinates(model, X_ref, X_new, *labels, random_state=random_state)
        test = hotelling_test(first, second, n_permutations, random_state)
        compared: tuple[list[Column], list[Column]] = list(first.T), list(second.T)
    else:
        if y_ref is not None or y_new is not None:
            raise ValueError("labels are used by method='score' alone; leave y_ref and y_new out")
        seen = model.observe(X_ref), model.observe(X_new)
        if on is None:
            on = "outputs" if seen[0].features is None else "features"
        if on == "inputs":
            compared = _inputs(table)
        else:
            reference, new = (_part(observation, on, model) for observation in seen)
            compared = list(reference.T), list(new.T)
        test = _test(*compared, method, n_permutations, max_rows, random_state)
    given, of = table, "inputs"
    # Beyond some thousand pixels a test of each says nothing after the correction.
    if given[0] is None or given[1] is None or len(given[0]) > _MOST_COLUMNS:
        given, of, categorical = compared, on, ()
    names = frame_columns(X_ref) or model.feature_names if of == "inputs" else None
    columns = given[0] or [], given[1] or []
    names = column_names(columns[0], names, "x" if of == "inputs" else f"{on} ")
    return DriftResult(
        statistic=test.statistic,
        p_value=test.p_value,
        effect_size=float(test.effect_size or 0.0),
        method=test.method,
        on=on,
        n=test.n,
        by_feature=by_feature(names, of, *columns, categorical, correction),
    )


def _part(observation: Observation, on: str, model: Model) -> NDArray[np.float64]:
    part: Tensor | None = observation.features if on == "features" else observation.outputs
    if part is None:
        raise ValueError(f"on='features' needs features, and {model!r} has none; use on='outputs'")
    return np.asarray(to_numpy(part), dtype=np.float64).reshape(len(part), -1)


def _inputs(
    table: tuple[list[Column] | None, list[Column] | None],
) -> tuple[list[Column], list[Column]]:
    if table[0] is None or table[1] is None:
        raise ValueError("on='inputs' needs arrays, tensors or frames; use on='features'")
    return table[0], table[1]


def _test(
    reference: list[Column],
    new: list[Column],
    method: Method,
    n_permutations: int,
    max_rows: int,
    random_state: RandomState,
) -> TestResult:
    check_columns(reference, new)
    if method in ("ks", "chi2"):
        return _worst_column(reference, new, str(method))
    if not all(column.dtype.kind == "f" for column in (*reference, *new)):
        raise ValueError(
            "some input columns are no numbers: use method='chi2', or on='features' or 'outputs'"
        )
    rows = np.stack(reference, axis=1), np.stack(new, axis=1)
    # Pooled, so that shuffled rows see the same scale and the permutation test stays exact.
    pooled = np.concatenate(rows)
    scale = pooled.std(axis=0)
    scale[scale == 0] = 1.0
    centre = pooled.mean(axis=0)
    scaled = [(part - centre) / scale for part in rows]
    if callable(method):
        return method(*scaled)
    shuffled: dict[str, Any] = {"n_permutations": n_permutations, "random_state": random_state}
    tests: dict[str, Callable[..., TestResult]] = {
        "mmd": partial(mmd_test, max_rows=max_rows, **shuffled),
        "energy": partial(energy_test, max_rows=max_rows, **shuffled),
        "mmd-fourier": partial(fourier_mmd_test, **shuffled),
        "mmd-linear": partial(linear_mmd_test, random_state=random_state),
        "classifier": partial(classifier_test, random_state=random_state),
    }
    return tests[method](*scaled)


def _worst_column(reference: list[Column], new: list[Column], kind: str) -> TestResult:
    """Return the column with the smallest p-value, corrected for their number."""
    tests = [column_test(kind)(x, y) for x, y in zip(reference, new, strict=True)]
    worst = min(tests, key=lambda test: (test.p_value, -test.statistic))
    d = len(tests)
    name = "kolmogorov-smirnov" if kind == "ks" else "chi-squared"
    return TestResult(
        worst.statistic,
        min(1.0, worst.p_value * d),
        worst.effect_size,
        f"{name}, Bonferroni over {d} columns",
        worst.n,
    )
