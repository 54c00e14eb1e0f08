"""What each mitigation gains in fairness and pays in accuracy, in one call."""

from __future__ import annotations

import inspect
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sklearn import get_config
from sklearn.base import clone
from sklearn.model_selection import train_test_split
from sklearn.utils.metadata_routing import get_routing_for_object
from sklearn.utils.parallel import Parallel, delayed

from trustml.core.alignment import check_aligned
from trustml.core.results import Result
from trustml.core.validation import check_choice, take_rows, to_numpy
from trustml.evidence._checks import check_count, check_probability
from trustml.fairness._assert_fair import RATES_OF
from trustml.fairness._groups import Groups, as_groups
from trustml.fairness._rates import as_decisions, label_vector
from trustml.fairness.metrics import largest_difference, rates_by_group
from trustml.warnings import TrustmlWarning

_ALWAYS = ("demographic_parity", "equalized_odds")
_CRITERIA = tuple(name for name in RATES_OF if name != "loss_parity")


@dataclass(frozen=True, eq=False, repr=False)
class Frontier(Result):
    """Accuracy and gaps of several mitigations over the same splits.

    Attributes
    ----------
    names : tuple of str
        The k mitigations.
    criterion : str
        What ``gap`` measures.
    accuracy, gap, demographic_parity, equalized_odds : numpy.ndarray of shape (k, m)
        On the test rows of each of m splits; NaN where a mitigation failed. Both gaps are always
        there: making one small can widen the other.
    pareto : numpy.ndarray of shape (k,), bool
        No other has at least its mean accuracy and at most its mean gap, and one of them better.
    pareto_share : numpy.ndarray of shape (k,)
        Share of the splits in which that is so: how sure it is.
    errors : dict of str to str
        Why a mitigation failed.
    test_share : float
        Share of the rows that was tested on.
    level : float
        Confidence level of the intervals.
    """

    names: tuple[str, ...]
    criterion: str
    accuracy: np.ndarray
    gap: np.ndarray
    demographic_parity: np.ndarray
    equalized_odds: np.ndarray
    pareto: np.ndarray
    pareto_share: np.ndarray
    errors: dict[str, str]
    test_share: float
    level: float

    def ci(self, of: str = "gap") -> np.ndarray:
        """Return intervals of means over the splits, which overlap: widened for that.

        Parameters
        ----------
        of : {"accuracy", "gap", "demographic_parity", "equalized_odds"}
            Of what.

        Returns
        -------
        numpy.ndarray of shape (k, 2)
            Within [0, 1]; NaN with a single split.

        References
        ----------
        Nadeau and Bengio (2003), Inference for the generalization error.
        """
        from scipy.special import stdtrit

        check_choice(of, "of", ("accuracy", "gap", *_ALWAYS))
        values: np.ndarray = getattr(self, of)
        m = values.shape[1]
        if m < 2:
            return np.full((len(values), 2), math.nan)
        share = self.test_share / (1 - self.test_share)
        spread = values.std(1, ddof=1) * math.sqrt(1 / m + share)
        half = float(stdtrit(m - 1, (1 + self.level) / 2)) * spread
        centre = values.mean(1)
        ends: np.ndarray = np.clip(np.stack([centre - half, centre + half], axis=1), 0, 1)
        return ends

    def _columns(self) -> dict[str, Any]:
        columns: dict[str, Any] = {"mitigation": np.array(self.names, dtype=object)}
        shown = ("accuracy", "gap", *_ALWAYS)
        for name in dict.fromkeys(n for n in shown if n != self.criterion):
            title = self.criterion if name == "gap" else name
            ends = self.ci(name)
            columns |= {
                title: getattr(self, name).mean(1),
                f"{title} low": ends[:, 0],
                f"{title} high": ends[:, 1],
            }
        return columns | {"on frontier": self.pareto, "share on frontier": self.pareto_share}

    def _title(self) -> str:
        return f"Frontier of accuracy and {self.criterion}, {self.gap.shape[1]} splits"


def frontier(
    mitigations: Mapping[str, Any],
    X: Any,
    y: Any,
    *,
    sensitive_features: Any,
    criterion: str = "equalized_odds",
    seeds: int | Sequence[int] = 5,
    test_size: float = 0.3,
    level: float = 0.95,
    pos_label: Any = None,
    n_jobs: int | None = None,
    on_error: Literal["raise", "warn"] = "raise",
) -> Frontier:
    """Fit many mitigations on the same splits and compare accuracy and gap on held-out rows.

    Parameters
    ----------
    mitigations : dict of str to estimator
        With ``fit`` and ``predict``; cloned. ``sensitive_features`` is given to those whose
        methods take it, by signature or by scikit-learn's metadata routing. A plain classifier
        beside them shows what the mitigation costs.
    X : array or frame of shape (n, d)
        Rows.
    y : array-like of shape (n,)
        Two labels of any kind.
    sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
        Group membership.
    criterion : str
        As of ``assert_fair``, "loss_parity" excepted; demographic parity and equalized odds are
        measured whatever it is.
    seeds : int or sequence of int
        Splits, or the seed of each; it is also given to estimators whose ``random_state`` is None.
    test_size : float in (0, 1)
        Share of the rows to test on; splits keep the shares of group and label.
    level : float in (0, 1)
        Confidence level of the intervals.
    pos_label : object or None
        The favourable label; None: 1 of {0, 1} and {-1, 1}, else the second of the sorted labels.
    n_jobs : int or None
        Processes, as in scikit-learn.
    on_error : {"raise", "warn"}
        What to do, after all have run, if a mitigation failed.

    Returns
    -------
    Frontier
        Gaps are those measured on the test rows: noise adds to them, the more so the smaller the
        groups.

    Raises
    ------
    ValueError
        If there are no mitigations, or y has not two labels.
    RuntimeError
        If mitigations failed, all of them or with ``on_error="raise"``; names each and says why.

    Warns
    -----
    TrustmlWarning
        With ``on_error="warn"``, in place of that error.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.dummy import DummyClassifier
    >>> from sklearn.linear_model import LogisticRegression
    >>> rng = np.random.default_rng(0)
    >>> s = rng.integers(0, 2, 500)
    >>> X = rng.normal(size=(500, 2)) + s[:, None]
    >>> y = (X[:, 0] + rng.normal(size=500) > 0.5).astype(int)
    >>> found = frontier(
    ...     {"plain": LogisticRegression(), "constant": DummyClassifier()},
    ...     X, y, sensitive_features=s, seeds=3,
    ... )
    >>> found.pareto
    array([ True,  True])
    """
    check_choice(criterion, "criterion", _CRITERIA)
    check_choice(on_error, "on_error", ("raise", "warn"))
    share, level = check_probability(test_size, "test_size"), check_probability(level, "level")
    if not isinstance(mitigations, Mapping) or not mitigations:
        raise ValueError(f"mitigations must be a dict of name -> estimator, got {mitigations!r}")
    splits = list(range(check_count(seeds, "seeds"))) if np.ndim(seeds) == 0 else list(seeds)  # type: ignore[arg-type]
    check_aligned(X=X, y=y, sensitive_features=sensitive_features)
    labels = label_vector(y, "y")
    classes = np.unique(labels)
    if len(classes) != 2:
        raise ValueError(f"y must have two labels, got {classes[:10].tolist()}")
    if pos_label is None and set(classes.tolist()) not in ({0, 1}, {-1, 1}):
        pos_label = classes[1]
    groups = as_groups(sensitive_features, len(labels))
    measure = _Measure(criterion, pos_label, groups, labels)
    parts = [_split(groups, labels == classes[1], share, seed) for seed in splits]
    jobs = [(name, j) for name in mitigations for j in range(len(splits))]
    outcomes = Parallel(n_jobs=n_jobs)(
        delayed(_run)(mitigations[name], X, y, sensitive_features, parts[j], splits[j], measure)
        for name, j in jobs
    )
    values = np.full((len(mitigations), len(splits), 4), math.nan)
    errors: dict[str, str] = {}
    said: dict[tuple[str, str], tuple[str, type[Warning]]] = {}
    for (name, j), (numbers, error, notes) in zip(jobs, outcomes, strict=True):
        values[list(mitigations).index(name), j] = numbers
        if error is not None:
            errors.setdefault(name, error)
        for text, category in notes:
            # One that differs in its numbers alone, between splits, is one warning.
            said.setdefault((name, re.sub(r"[\d.]+", "#", text)), (f"{name}: {text}", category))
    for text, category in said.values():
        warnings.warn(text, category, stacklevel=2)
    if errors:
        message = "; ".join(f"{name} failed: {error}" for name, error in errors.items())
        if on_error == "raise" or len(errors) == len(mitigations):
            raise RuntimeError(message)
        warnings.warn(message, TrustmlWarning, stacklevel=2)
    each = [_undominated(values[:, j, 0], values[:, j, 1]) for j in range(len(splits))]
    return Frontier(
        names=tuple(mitigations),
        criterion=criterion,
        accuracy=values[..., 0],
        gap=values[..., 1],
        demographic_parity=values[..., 2],
        equalized_odds=values[..., 3],
        pareto=_undominated(values[..., 0].mean(1), values[..., 1].mean(1)),
        pareto_share=np.mean(each, axis=0),
        errors=errors,
        test_share=share,
        level=level,
    )


@dataclass(frozen=True, eq=False)
class _Measure:
    """Accuracy and gaps of decisions about some of the rows."""

    criterion: str
    pos_label: Any
    groups: Groups
    labels: np.ndarray

    def __call__(self, predicted: Any, rows: np.ndarray) -> list[float]:
        decisions = as_decisions(self.labels[rows], to_numpy(predicted), self.pos_label)
        codes, k = self.groups.codes[rows], len(self.groups.labels)

        def of(criterion: str) -> float:
            each = [rates_by_group(r, decisions, codes, k, None) for r in RATES_OF[criterion]]
            if criterion == "worst_group":
                return float(np.max(each))
            return float(np.max([largest_difference(values) for values in each]))

        accuracy = float(np.mean(decisions.y_true == decisions.y_pred))
        return [accuracy, *map(of, (self.criterion, *_ALWAYS))]


Outcome = tuple[list[float], str | None, list[tuple[str, type[Warning]]]]


def _run(
    estimator: Any,
    X: Any,
    y: Any,
    sensitive_features: Any,
    part: tuple[np.ndarray, np.ndarray],
    seed: int,
    measure: _Measure,
) -> Outcome:
    """Fit on one part and measure on the other: the numbers, or why there are none."""
    train, test = part
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TrustmlWarning)
        try:
            made = _seeded(clone(estimator), seed)
            _call(made, "fit", take_rows(X, train), take_rows(y, train),
                  sensitive_features=_taken(sensitive_features, train))  # fmt: skip
            predicted = _call(
                made, "predict", take_rows(X, test),
                sensitive_features=_taken(sensitive_features, test),
            )  # fmt: skip
            numbers = measure(predicted, test)
        except Exception as error:
            return [math.nan] * 4, f"{type(error).__name__}: {error}", []
    return numbers, None, [(str(w.message), w.category) for w in caught]


def _call(estimator: Any, method: str, *args: Any, sensitive_features: Any) -> Any:
    """Call a method, with the groups if it takes them."""
    function: Callable[..., Any] = getattr(estimator, method)
    parameters = inspect.signature(function).parameters
    wanted = "sensitive_features" in parameters
    if not wanted and get_config()["enable_metadata_routing"]:
        routing = get_routing_for_object(estimator)
        wanted = bool(routing.consumes(method, ["sensitive_features"]))
    return function(*args, **({"sensitive_features": sensitive_features} if wanted else {}))


def _seeded(estimator: Any, seed: int) -> Any:
    free = {
        key: int(seed)
        for key, value in estimator.get_params().items()
        if key.rpartition("__")[2] == "random_state" and value is None
    }
    return estimator.set_params(**free) if free else estimator


def _taken(sensitive_features: Any, rows: np.ndarray) -> Any:
    if isinstance(sensitive_features, dict):
        return {name: take_rows(column, rows) for name, column in sensitive_features.items()}
    return take_rows(sensitive_features, rows)


def _split(
    groups: Groups, positive: np.ndarray, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Training and test rows, with the shares of group and label as far as counts allow."""
    cell = 2 * groups.codes + positive
    for strata in (cell, groups.codes):
        if np.unique(strata, return_counts=True)[1].min() >= 2:
            break
    else:
        strata = None
    train, test = train_test_split(
        np.arange(len(cell)), test_size=share, random_state=int(seed), stratify=strata
    )
    return np.sort(train), np.sort(test)


def _undominated(accuracy: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """Points that none other reaches in both and beats in one; NaN never is."""
    at_least = (accuracy >= accuracy[:, None]) & (gap <= gap[:, None])
    better = (accuracy > accuracy[:, None]) | (gap < gap[:, None])
    free: np.ndarray = ~(at_least & better).any(1) & np.isfinite(accuracy + gap)
    return free
