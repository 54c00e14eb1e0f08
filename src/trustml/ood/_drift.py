"""Has the data moved? Two-sample tests on what the model sees and on what it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trustml.core.random import RandomState
from trustml.core.results import Result
from trustml.core.validation import check_choice, frame_columns, to_numpy
from trustml.evidence import TestResult, adjust, energy_test, ks_test, mmd_test
from trustml.model import Model, Observation, as_model

_METHODS = ("mmd", "energy", "ks")
_MOST_COLUMNS = 4096


@dataclass(frozen=True, eq=False)
class DriftByFeature(Result):
    """A Kolmogorov-Smirnov test of each column.

    Attributes
    ----------
    names : tuple of str
        The columns.
    of : {"inputs", "features", "outputs"}
        Whose columns they are.
    statistic : array of shape (d,)
        Largest gap of the two distribution functions, in [0, 1]: the effect size.
    p_value : array of shape (d,)
        Of each column by itself.
    adjusted_p_value : array of shape (d,)
        Holm's: the columns below alpha have moved, with probability of any false one <= alpha.
    """

    names: tuple[str, ...]
    of: str
    statistic: NDArray[np.float64]
    p_value: NDArray[np.float64]
    adjusted_p_value: NDArray[np.float64]

    def __len__(self) -> int:
        """Return d, the number of columns."""
        return len(self.names)

    def __repr__(self) -> str:
        """Name the columns that moved most."""
        return f"DriftByFeature({len(self)} {self.of}, most moved: {', '.join(self.top(3))})"

    def top(self, k: int = 5) -> list[str]:
        """Return the names of the k columns that moved most, by p-value and then statistic."""
        order = np.lexsort((-self.statistic, self.p_value))[:k]
        return [self.names[j] for j in order]

    def _columns(self) -> dict[str, Any]:
        return {
            "feature": np.array(self.names),
            "statistic": self.statistic,
            "p_value": self.p_value,
            "adjusted_p_value": self.adjusted_p_value,
        }


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
        unbiased MMD² in [0, sqrt(2)], the energy distance as a share of its largest value, or the
        largest gap of distribution functions.
    method : str
        The test.
    on : {"features", "outputs", "inputs"}
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
    method: str = "mmd",
    n_permutations: int = 499,
    max_rows: int = 1000,
    random_state: RandomState = 0,
) -> DriftResult:
    """Test whether new rows come from the distribution of reference rows.

    The test compares what the model sees - by default its features, each scaled by its pooled
    standard deviation - so a shift that the model is blind to does not alarm. ``by_feature``
    tests each input column beside it, whatever the model makes of it.

    Parameters
    ----------
    model : Model or estimator
        What the rows are for.
    X_ref, X_new : array, tensor, frame, Dataset or DataLoader of n and m rows
        Reference rows, which the model was not trained on, and new ones.
    on : {"features", "outputs", "inputs"} or None
        What is compared. "outputs" are logits, probabilities or predicted values. None takes
        the features, or the outputs of a model without.
    method : {"mmd", "energy", "ks"}
        Maximum mean discrepancy or energy distance with a permutation p-value, or the
        Kolmogorov-Smirnov test of each column with Bonferroni's correction.
    n_permutations : int
        Shuffles of "mmd" and "energy"; the smallest p-value is 1 / (n_permutations + 1).
    max_rows : int
        "mmd" and "energy" thin larger samples at random (memory is quadratic).
    random_state : int, Generator or None
        Seed of thinning and shuffles.

    Returns
    -------
    DriftResult

    Raises
    ------
    ValueError
        If ``on`` or ``method`` is unknown, or the model has no features.

    References
    ----------
    Gretton, Borgwardt, Rasch, Schölkopf and Smola (2012), A kernel two-sample test.
    Rabanser, Günnemann and Lipton (2019), Failing loudly, arXiv:1810.11953.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(max_iter=1000).fit(X, y)
    >>> drift_test(model, X[::2], X[1::2] + [2.0, 0.0, 0.0, 0.0]).by_feature.top(1)
    ['x0']
    """
    check_choice(method, "method", _METHODS)
    check_choice(on, "on", ("features", "outputs", "inputs", None))
    model = as_model(model)
    seen = model.observe(X_ref), model.observe(X_new)
    table = _as_table(X_ref), _as_table(X_new)
    if on is None:
        on = "outputs" if seen[0].features is None else "features"
    if on == "inputs":
        if table[0] is None or table[1] is None:
            raise ValueError("on='inputs' needs arrays, tensors or frames; use on='features'")
        reference, new = table[0], table[1]
    else:
        reference, new = (_part(observation, on, model) for observation in seen)
    test = _test(reference, new, method, n_permutations, max_rows, random_state)
    return DriftResult(
        statistic=test.statistic,
        p_value=test.p_value,
        effect_size=float(test.effect_size or 0.0),
        method=test.method,
        on=on,
        n=test.n,
        by_feature=_by_feature(model, X_ref, table, (reference, new), on),
    )


def _part(observation: Observation, on: str, model: Model) -> NDArray[np.float64]:
    part: Tensor | None = observation.features if on == "features" else observation.outputs
    if part is None:
        raise ValueError(f"on='features' needs features, and {model!r} has none; use on='outputs'")
    return np.asarray(to_numpy(part), dtype=np.float64).reshape(len(part), -1)


def _as_table(X: Any) -> NDArray[np.float64] | None:
    """Return rows of numbers, flattened; None for anything else, such as a Dataset or text."""
    if isinstance(X, (np.ndarray, Tensor, list)) or frame_columns(X) is not None:
        array = to_numpy(X)
        if array.ndim > 1 and array.dtype.kind in "biuf":
            return np.asarray(array, dtype=np.float64).reshape(len(array), -1)
    return None


def _test(
    reference: NDArray[np.float64],
    new: NDArray[np.float64],
    method: str,
    n_permutations: int,
    max_rows: int,
    random_state: RandomState,
) -> TestResult:
    if method == "ks":
        statistic, p_value = _per_column(reference, new)
        lowest = min(1.0, float(p_value.min()) * len(p_value))
        gap = float(statistic.max())
        name = f"kolmogorov-smirnov, Bonferroni over {len(p_value)} columns"
        return TestResult(gap, lowest, gap, name, (len(reference), len(new)))
    # Pooled, so that shuffled rows see the same scale and the permutation test stays exact.
    pooled = np.concatenate([reference, new])
    scale = pooled.std(axis=0)
    scale[scale == 0] = 1.0
    centre = pooled.mean(axis=0)
    test = mmd_test if method == "mmd" else energy_test
    return test(
        (reference - centre) / scale,
        (new - centre) / scale,
        n_permutations=n_permutations,
        max_rows=max_rows,
        random_state=random_state,
    )


def _per_column(
    reference: NDArray[np.float64], new: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the Kolmogorov-Smirnov statistic and p-value of each column."""
    tests = [ks_test(x, y) for x, y in zip(reference.T, new.T, strict=True)]
    return np.array([t.statistic for t in tests]), np.array([t.p_value for t in tests])


def _by_feature(
    model: Model,
    X_ref: Any,
    table: tuple[NDArray[np.float64] | None, NDArray[np.float64] | None],
    compared: tuple[NDArray[np.float64], NDArray[np.float64]],
    on: str,
) -> DriftByFeature:
    reference, new = table
    # Beyond some thousand pixels a test of each says nothing after the correction.
    if reference is not None and new is not None and reference.shape[1] <= _MOST_COLUMNS:
        names = frame_columns(X_ref) or model.feature_names
        if names is None or len(names) != reference.shape[1]:
            names = [f"x{j}" for j in range(reference.shape[1])]
        of = "inputs"
    else:
        reference, new = compared
        names, of = [f"{on} {j}" for j in range(reference.shape[1])], on
    statistic, p_value = _per_column(reference, new)
    return DriftByFeature(tuple(names), of, statistic, p_value, np.asarray(adjust(p_value, "holm")))
