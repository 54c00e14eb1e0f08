"""A test that fails where groups are treated differently, and says so where it cannot tell."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

import numpy as np

from trustml.core.alignment import check_aligned
from trustml.core.random import RandomState
from trustml.core.validation import check_alpha, check_choice, check_same_length, to_numpy
from trustml.errors import FairnessError, NotEnoughDataError
from trustml.fairness._criteria import CRITERIA
from trustml.fairness._fair_influence import FairInfluence
from trustml.fairness._gap_bounds import Gap, critical, gaps, levels
from trustml.fairness._group_metrics import GroupMetrics, group_metrics
from trustml.fairness._of_rows import OfRows
from trustml.fairness._permutation import minimum_detectable_gap
from trustml.fairness._rates import as_decisions
from trustml.fairness._row_metrics import mean_score
from trustml.fairness._simultaneous import critical_value
from trustml.fairness._verdict import FairnessVerdict
from trustml.influence import InfluenceFunctions
from trustml.model import Model, as_model
from trustml.warnings import SmallGroupWarning

# criterion -> the rates of which groups must not differ
RATES_OF: dict[str, tuple[str, ...]] = {
    "demographic_parity": ("selection_rate",),
    "equal_opportunity": ("true_positive_rate",),
    "predictive_equality": ("false_positive_rate",),
    "equalized_odds": ("true_positive_rate", "false_positive_rate"),
    "predictive_parity": ("precision",),
    "error_parity": ("zero_one_loss",),
    "loss_parity": ("loss",),
    "worst_group": ("zero_one_loss",),
}
_SHOWN = ("selection_rate", "true_positive_rate", "false_positive_rate")
_POWER = 0.8
_DIRECT = 1e11  # operations of a direct solve; beyond, influence asks the last layer


def assert_fair(
    *data: Any,
    sensitive_features: Any,
    criterion: str = "equalized_odds",
    bound: float = 0.1,
    alpha: float = 0.05,
    on_undecided: Literal["raise", "warn"] = "raise",
    y_score: Any = None,
    pos_label: Any = None,
    influence: InfluenceFunctions | None = None,
    training_rows: int = 20,
    random_state: RandomState = None,
) -> FairnessVerdict:
    """Require that groups differ by no more than ``bound``; for tests and pipelines.

    Passes only if the rows show that the gap is small: an equivalence test, that few rows do not
    pass. ``fairness_verdict`` gives the same answer without raising.

    Parameters
    ----------
    *data : ``y_true, y_pred``, or ``model, X, y``
        Labels and decisions, or a model (anything that ``trustml.wrap`` takes), rows that it was
        not trained on, and their labels. A model names the training rows that widen the gap.
    sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
        Group membership; several columns give their intersections.
    criterion : str
        "demographic_parity" (selection rates), "equal_opportunity" (true positive rates),
        "predictive_equality" (false positive rates), "equalized_odds" (both), "predictive_parity"
        (precision), "error_parity" (error rates), "loss_parity" (mean losses: those of the model,
        or the log loss of ``y_score``), or "worst_group" (error rate of the worst group).
    bound : float
        Largest gap that is acceptable, in the unit of the criterion, above 0.
    alpha : float in (0, 1)
        Chance of passing a model whose gap is larger, and of failing one whose gap is not.
    on_undecided : {"raise", "warn"}
        What to do when there are too few rows for either.
    y_score : array of shape (n,) or (n, 2), optional
        Probability of the favourable class, or of both labels, sorted; for "loss_parity" of
        decisions.
    pos_label : object or None
        The favourable label; None accepts {0, 1} and {-1, 1}, where it is 1.
    influence : InfluenceFunctions or None
        For the model, to choose parameters and curvature, or share work; None: all parameters, of
        large models those of the last layer.
    training_rows : int
        How many training rows to name, where the test does not pass; 0 for none.
    random_state : int, Generator or None
        Seed of the bootstrap behind "loss_parity".

    Returns
    -------
    FairnessVerdict

    Raises
    ------
    FairnessError
        If the rows show that the gap is above the bound.
    NotEnoughDataError
        If they show neither, unless ``on_undecided="warn"``. Both are ``AssertionError``, and
        have the verdict as ``verdict``.

    Warns
    -----
    SmallGroupWarning
        With ``on_undecided="warn"``, in place of that error.

    References
    ----------
    Berger and Hsu (1996), Bioequivalence trials, intersection-union tests and equivalence
    confidence sets.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> sex, y = rng.choice(["f", "m"], 4000), rng.integers(0, 2, 4000)
    >>> decided = np.where(rng.random(4000) < 0.9, y, 1 - y)
    >>> assert_fair(y, decided, sensitive_features=sex, bound=0.1).verdict
    'pass'
    >>> unequal = np.where(sex == "m", y, decided)
    >>> fairness_verdict(y, unequal, sensitive_features=sex, bound=0.05).verdict
    'fail'
    """
    check_choice(on_undecided, "on_undecided", ("raise", "warn"))
    found = fairness_verdict(
        *data,
        sensitive_features=sensitive_features,
        criterion=criterion,
        bound=bound,
        alpha=alpha,
        y_score=y_score,
        pos_label=pos_label,
        influence=influence,
        training_rows=training_rows,
        random_state=random_state,
    )
    if found.verdict == "fail":
        raise FairnessError(found.message, found)
    if not found.passed and on_undecided == "raise":
        raise NotEnoughDataError(found.message, found)
    if not found.passed:
        warnings.warn(found.message, SmallGroupWarning, stacklevel=2)
    return found


def fairness_verdict(
    *data: Any,
    sensitive_features: Any,
    criterion: str = "equalized_odds",
    bound: float = 0.1,
    alpha: float = 0.05,
    y_score: Any = None,
    pos_label: Any = None,
    influence: InfluenceFunctions | None = None,
    training_rows: int = 20,
    random_state: RandomState = None,
) -> FairnessVerdict:
    """Judge whether groups differ by no more than ``bound``: pass, fail or not enough data.

    The true gap is below ``interval[0]`` with probability at most ``alpha``, for all groups and
    metrics of the criterion together, and above ``interval[1]`` with at most ``alpha``. "pass" is
    ``interval[1] <= bound``, "fail" is ``interval[0] > bound``. A group without rows that count is
    never left out: then the rows do not suffice.

    Rates have exact limits in each group, combined as in Newcombe's interval: by enumeration over
    groups of 10 to 2000 rows an end errs in at most 5.4 % at ``alpha=0.05``, and in at most 2 % at
    0.01 (where one group is many times the other).

    Losses have Gaffke's limits, which reckon with one more row of the largest loss: that which the
    surest of the scores would cost with the other label (for a model, the largest over rows and
    labels). With 30 rows in a group, none of which showed a loss that 4 % of its people have, a
    true gap of 0.18 passed a bound of 0.1 in none of 2000 draws; a bootstrap passed 24 %. Only a
    loss beyond any that the scores foretell is out of its reach: look at the worst rows too.

    Parameters
    ----------
    *data, sensitive_features, criterion, bound, alpha, y_score, pos_label, influence, \
training_rows, random_state
        As of ``assert_fair``.

    Returns
    -------
    FairnessVerdict

    Raises
    ------
    ValueError
        If the bound is not a positive number, or the criterion is unknown.

    Examples
    --------
    >>> y, sex = [0, 1] * 30, ["f"] * 30 + ["m"] * 30
    >>> found = fairness_verdict(y, y, sensitive_features=sex, bound=0.1)
    >>> found.verdict, found.gap, round(found.interval[1], 2)
    ('not enough data', 0.0, 0.18)
    """
    check_choice(criterion, "criterion", tuple(RATES_OF))
    alpha = check_alpha(alpha)
    if not (isinstance(bound, (int, float, np.number)) and 0 < bound < math.inf):
        raise ValueError(f"bound must be a positive number, got {bound!r}: no rows show a gap of 0")
    named = ("y_true", "y_pred") if len(data) == 2 else ("model", "X", "y")
    given = dict(zip(named, data, strict=False))
    check_aligned(**given, sensitive_features=sensitive_features, y_score=y_score)
    model, X, y_true, y_pred = _read(data)
    names = RATES_OF[criterion]
    with warnings.catch_warnings():  # the verdict itself says what groups are too small for
        warnings.simplefilter("ignore", SmallGroupWarning)
        common = {"sensitive_features": sensitive_features, "random_state": random_state}
        if criterion == "loss_parity" and model is not None:
            losses = np.asarray(to_numpy(model.loss(X, y_true)), dtype=np.float64)
            metric = {"loss": "mean_prediction"}
            g = group_metrics(np.zeros(len(losses)), losses, metrics=metric, **common)
            ends = _loss_ends(model, X, y_true, losses)
            g._sample.others["loss"] = OfRows("loss", mean_score, (losses, losses), ends)
        else:
            if criterion == "loss_parity" and y_score is None:
                raise ValueError("criterion='loss_parity' needs y_score=, or (model, X, y)")
            wanted = {"loss": "log_loss"} if criterion == "loss_parity" else list(names)
            chosen = {"metrics": wanted, "y_score": y_score, "pos_label": pos_label}
            g = group_metrics(y_true, y_pred, **chosen, **common)
        if g.metrics != names:
            raise ValueError(
                f"criterion={criterion!r} compares one label with the rest, and there are more "
                f"than two (it would be {', '.join(g.metrics[:5])}); pass pos_label= to say which "
                "is the favourable one"
                + (" and its column of y_score, or (model, X, y)" if y_score is not None else "")
            )
        smallest = minimum_detectable_gap(g, level=1 - alpha, random_state=random_state)
        both = _both(y_true, y_pred, sensitive_features, pos_label)
    if criterion == "worst_group":
        found = levels(g._sample, names[0], alpha)
    else:
        found = [
            gap
            for name in names
            for gap in gaps(g._sample, name, alpha, family=len(names), random_state=random_state)
        ]
    low, high = max(gap.low for gap in found), max(gap.high for gap in found)
    verdict = "pass" if high <= bound else ("fail" if low > bound else "not enough data")
    decisive = max(found, key=lambda gap: gap.low if verdict == "fail" else gap.high)
    rows, effects = None, None
    measured = [gap.gap for gap in found if math.isfinite(gap.gap)]
    traced = model is not None and verdict != "pass" and len(measured) == len(found)
    if model is not None and traced and training_rows:
        rows, effects = _responsible(
            model, X, y_true, sensitive_features, criterion, pos_label, influence, training_rows
        )
    return FairnessVerdict(
        verdict=verdict,
        criterion=criterion,
        gap=max(measured, default=math.nan),
        interval=(low, high),
        bound=float(bound),
        alpha=alpha,
        metric=decisive.metric,
        pair=_pair(decisive, g, criterion),
        groups=g.groups,
        counts=g.counts,
        rows_needed=_rows_needed(found, float(bound), alpha, len(names), g),
        minimum_detectable_gap=math.nan
        if criterion == "worst_group"
        else float(np.max(np.asarray(smallest))),
        both=both,
        gaps=_table(found, g.groups, criterion),
        training_rows=rows,
        training_effects=effects,
    )


def _read(data: tuple[Any, ...]) -> tuple[Model | None, Any, Any, Any]:
    """Return the model, its rows, true labels and decisions."""
    if len(data) == 2:
        return None, None, *data
    if len(data) != 3:
        raise TypeError(
            f"give (y_true, y_pred) or (model, X, y), and the rest by name; got {len(data)} "
            "arguments by position"
        )
    model, X, y = as_model(data[0]), data[1], data[2]
    if model.task != "classification":
        raise ValueError(f"fairness of decisions needs a classifier, got task {model.task!r}")
    check_same_length(X=X, y=y)
    return model, X, y, to_numpy(model.predict(X))


def _loss_ends(model: Model, X: Any, y: Any, losses: np.ndarray) -> tuple[float, float]:
    """Return the range of losses: as large as any row's would be with the label of another."""
    labels = to_numpy(y)
    worst = [
        float(np.max(to_numpy(model.loss(X, np.full_like(labels, label)))))
        for label in np.unique(labels)
    ]
    return float(min(0.0, losses.min())), max(float(losses.max()), *worst)


def _both(y_true: Any, y_pred: Any, sensitive_features: Any, pos_label: Any) -> dict[str, float]:
    """Return measured gaps of decisions by the two criteria that are always shown together."""
    if as_decisions(y_true, y_pred, pos_label).true is None:
        return {}
    g = group_metrics(
        y_true,
        y_pred,
        sensitive_features=sensitive_features,
        metrics=list(_SHOWN),
        pos_label=pos_label,
    )
    selection, positive, negative = (float(d) for d in g.difference())
    return {"demographic_parity": selection, "equalized_odds": float(np.max([positive, negative]))}


def _pair(decisive: Gap, g: GroupMetrics, criterion: str) -> tuple[Any, Any]:
    if criterion != "worst_group":
        return g.groups[decisive.higher], g.groups[decisive.lower]
    return g.groups[decisive.higher], g.groups[int(np.nanargmin(np.asarray(g.by_group)[:, 0]))]


def _table(found: list[Gap], groups: tuple[Any, ...], criterion: str) -> dict[str, np.ndarray]:
    def of(name: str) -> np.ndarray:
        values = [getattr(gap, name) for gap in found]
        if name in ("higher", "lower"):
            values = [str(groups[i]) for i in values]
        return np.array(values)

    if criterion == "worst_group":  # levels of single groups
        named = {
            "metric": "metric",
            "group": "higher",
            "error": "gap",
            "low": "low",
            "high": "high",
        }
        return {name: of(field) for name, field in named.items()}
    return {name: of(name) for name in ("metric", "higher", "lower", "gap", "low", "high")}


def _rows_needed(
    found: list[Gap], bound: float, alpha: float, family: int, g: GroupMetrics
) -> float:
    """Return how many rows would decide, by the normal approximation."""
    if any(math.isnan(gap.gap) for gap in found):
        return math.inf
    power, joint = critical(1 - _POWER), critical_value(1 - alpha / family, len(g.groups))
    above = [gap for gap in found if gap.gap > bound]
    if above:
        factor = min(((joint + power) * gap.error / (gap.gap - bound)) ** 2 for gap in above)
    elif any(gap.gap == bound for gap in found):
        return math.inf
    else:
        # A gap near 0 may come out on either side.
        power = critical((1 - _POWER) / 2)
        factor = max(
            ((critical(alpha) + power) * gap.error / (bound - gap.gap)) ** 2 for gap in found
        )
    return float(math.ceil(factor * int(g.counts.sum())))


def _responsible(
    model: Model,
    X: Any,
    y: Any,
    sensitive_features: Any,
    criterion: str,
    pos_label: Any,
    influence: InfluenceFunctions | None,
    count: int,
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return training rows whose absence would shrink the gap most, and by how much."""
    if criterion not in CRITERIA or not model.differentiable or model.train is None:
        return None, None
    if influence is None:
        try:
            objective = model.objective
        except TypeError:  # its training minimised what has no curvature of this kind
            return None, None
        costly = model.n_outputs * len(objective.data) * objective.space.size**2 > _DIRECT
        last = costly and model.head_name is not None
        influence = InfluenceFunctions(model, parameters="last_layer" if last else None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmallGroupWarning)
        fair = FairInfluence(model, criterion=criterion, pos_label=pos_label, influence=influence)
        fair.fit(X, y, sensitive_features=sensitive_features)
    effects = np.asarray(fair.row_effects_)
    order = np.argsort(effects, kind="stable")[:count]
    order = order[effects[order] < 0]
    return order, effects[order]
