"""``plot``: one figure for each kind of result."""

from __future__ import annotations

from functools import singledispatch
from typing import TYPE_CHECKING, Any

import numpy as np

from trustml.conformal import AdaptiveTrace, MartingalePath, RiskPath
from trustml.conformal.metrics import GroupCoverage, Reliability
from trustml.core.validation import to_numpy
from trustml.evidence import clopper_pearson
from trustml.explain import Explanation, TrainingRows
from trustml.fairness import FairnessMeasure, GapTest, GroupMetrics, GroupReplicates, Mitigation
from trustml.influence import (
    DatamodelingScore,
    FlippingSubset,
    InfluenceScores,
    MislabelDetection,
    MislabelRanking,
    RemovalCurve,
    Retrained,
    SubclassDetection,
)
from trustml.ood import DetectorTable, DriftByFeature, DriftResult, OodExplanation
from trustml.plotting._attributions import attribution_bars, attribution_images
from trustml.plotting._calibration import reliability_diagram
from trustml.plotting._influence import correlations, inspection_curve, removal_curves
from trustml.plotting._intervals import coverage_by_group, group_metrics, intervals
from trustml.plotting._robustness import robustness_curve
from trustml.plotting._scores import score_histogram
from trustml.plotting._streams import coverage_over_time, martingale_path
from trustml.plotting._style import INK, axes, label
from trustml.robustness import (
    AttackResult,
    CurvatureResult,
    MaskingReport,
    RobustAccuracy,
    RobustnessCurve,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PICTURES = 8


@singledispatch
def plot(result: Any, ax: Axes | None = None, **settings: Any) -> Axes:
    """Draw a result of trustml and return the axes.

    Parameters
    ----------
    result : a result object
        What a method of any room returned.
    ax : Axes or None
        Where to draw; None makes a figure, outside pyplot.
    **settings : object
        By kind of result: ``row=`` (Explanation, TrainingRows: one row instead of the mean, the
        first row), ``output=`` (Explanation of several outputs), ``query=`` (InfluenceScores:
        one query instead of the mean), ``target=`` (GroupCoverage), ``window=`` (AdaptiveTrace:
        steps of the running coverage), ``top=`` (bars: how many).

    Raises
    ------
    TypeError
        If the object is no result that can be drawn.

    Examples
    --------
    >>> import numpy as np
    >>> from trustml.conformal import metrics
    >>> bins = metrics.reliability([0, 1, 1, 0], np.array([[0.7, 0.3], [0.4, 0.6]] * 2), n_bins=2)
    >>> plot(bins).get_xlabel()
    'confidence in the predicted class'
    """
    kinds = sorted(kind.__name__ for kind in plot.registry if kind is not object)
    raise TypeError(f"cannot draw {type(result).__name__}; what can be drawn: {', '.join(kinds)}")


@plot.register(Reliability)
def _(result: Reliability, ax: Axes | None = None) -> Axes:
    return reliability_diagram(
        result.confidence,
        result.accuracy,
        result.accuracy_low,
        result.accuracy_high,
        result.n,
        predicted="confidence in the predicted class",
        observed="share that was right",
        ax=ax,
    )


@plot.register(GroupCoverage)
def _(result: GroupCoverage, ax: Axes | None = None, *, target: float | None = None) -> Axes:
    names = [str(group) for group in result.groups]
    ends = (result.coverage, result.low, result.high)
    return coverage_by_group(names, *ends, target=target, ax=ax)


@plot.register(AdaptiveTrace)
def _(result: AdaptiveTrace, ax: Axes | None = None, *, window: int = 100) -> Axes:
    return coverage_over_time(~result.missed, target=1 - result.alpha, window=window, ax=ax)


@plot.register(MartingalePath)
@plot.register(RiskPath)
def _(result: MartingalePath | RiskPath, ax: Axes | None = None) -> Axes:
    return martingale_path(result.log_wealth, alpha=result.alpha, alarm=result.alarm, ax=ax)


@plot.register(DetectorTable)
def _(result: DetectorTable, ax: Axes | None = None) -> Axes:
    columns = {name: to_numpy(result[name]).astype(np.float64) for name in result.columns}
    if result.quantity in {"alarm", "discovery"}:
        exact = [clopper_pearson(int(c.sum()), len(c)) for c in columns.values()]
        ends = zip(*((i.estimate, i.low, i.high) for i in exact), strict=True)
        return intervals(list(columns), *ends, x=f"share of rows with {result.quantity}", ax=ax)
    if result.quantity == "score":
        columns = {name: _standardised(c) for name, c in columns.items()}
        return score_histogram(columns, x="score, standardised by median and quartiles", ax=ax)
    return score_histogram(columns, x=result.quantity, ax=ax)


@plot.register(GapTest)
def _(result: GapTest, ax: Axes | None = None, *, top: int = 12) -> Axes:
    names = [
        f"{name}, p = {p:.2g}" for name, p in zip(result.metrics, result.p_values, strict=True)
    ]
    x = "largest minus smallest group"
    return attribution_bars(np.asarray(result.gap), names, top=top, x=x, ax=ax)


@plot.register(FairnessMeasure)
def _(result: FairnessMeasure, ax: Axes | None = None, *, top: int = 12) -> Axes:
    (_, names), (x, values) = list(result.table.items())[:2]
    # A ratio of equal rows that are treated differently is infinite: drawn as long as the longest.
    longest = np.max(values, where=np.isfinite(values), initial=0.0) or 1.0
    finite = np.where(np.isfinite(values), values, longest)
    return attribution_bars(finite, [str(name) for name in names], top=top, x=x, ax=ax)


@plot.register(GroupReplicates)
def _(result: GroupReplicates, ax: Axes | None = None, *, top: int = 12) -> Axes:
    cells = np.asarray(result.by_group).reshape(len(result.by_group), -1)[:, :top]
    names = [f"{name}, {group}" for group in result.groups for name in result.metrics][:top]
    low, middle, high = np.nanquantile(cells, [0.025, 0.5, 0.975], axis=0)
    x = "median and middle 95 % of the replicates"
    return intervals(names, middle, low, high, x=x, ax=ax)


@plot.register(DriftByFeature)
def _(result: DriftByFeature, ax: Axes | None = None, *, top: int = 12) -> Axes:
    names = [
        f"{name}, p = {p:.2g}"
        for name, p in zip(result.names, result.adjusted_p_value, strict=True)
    ]
    x = f"effect size of the {result.of} (Kolmogorov-Smirnov gap or Cramér's V)"
    return attribution_bars(result.effect_size, names, top=top, x=x, ax=ax)


@plot.register(DriftResult)
def _(result: DriftResult, ax: Axes | None = None, *, top: int = 12) -> Axes:
    drawn: Axes = plot(result.by_feature, ax=ax, top=top)
    label(drawn, drawn.get_xlabel(), title=f"{result.on}: p = {result.p_value:.3g}")
    return drawn


@plot.register(OodExplanation)
def _(result: OodExplanation, ax: Axes | None = None, *, row: int = 0, top: int = 12) -> Axes:
    x = f"slope of the score, row {row}"
    if result.attribution is None:
        drawn = axes(ax)
        label(drawn, x, title=result.left_out["attribution"])
        return drawn
    slopes = result.attribution[row].ravel()
    return attribution_bars(slopes, [f"x{j}" for j in range(len(slopes))], top=top, x=x, ax=ax)


@plot.register(RobustnessCurve)
def _(result: RobustnessCurve, ax: Axes | None = None) -> Axes:
    ends = (result.eps, result.estimate, result.low, result.high)
    return robustness_curve(*ends, unit=f"{result.norm}, input units", ax=ax)


@plot.register(RobustAccuracy)
def _(result: RobustAccuracy, ax: Axes | None = None) -> Axes:
    n = len(result.per_example)
    clean = clopper_pearson(round(result.clean_accuracy * n), n, result.interval.level)
    both = (clean, result.interval)
    names = ["without attack", f"{result.method}, {result.norm} {result.eps:g}"]
    ends = zip(*((i.estimate, i.low, i.high) for i in both), strict=True)
    return intervals(names, *ends, x="accuracy", ax=ax)


@plot.register(MaskingReport)
def _(result: MaskingReport, ax: Axes | None = None) -> Axes:
    kinds = ("clean", "random", "fgsm", "pgd", "unbounded")
    values = [getattr(result, f"{kind}_accuracy") for kind in kinds]
    return intervals(kinds, values, values, values, x="accuracy", ax=ax)


@plot.register(AttackResult)
def _(result: AttackResult, ax: Axes | None = None) -> Axes:
    fooled = to_numpy(result.success).astype(bool)
    if not fooled.any():
        ax = axes(ax)
        ax.text(0.5, 0.5, "no row was fooled", ha="center", color=INK, transform=ax.transAxes)
        return ax
    distances = {"fooled rows": to_numpy(result.distance)[fooled]}
    return score_histogram(distances, x=f"{result.norm} distance, input units", ax=ax)


@plot.register(CurvatureResult)
def _(result: CurvatureResult, ax: Axes | None = None) -> Axes:
    radii = {
        "linear": to_numpy(result.linear_radius),
        "quadratic": to_numpy(result.quadratic_radius),
    }
    return score_histogram(radii, x=f"{result.norm} radius, input units", ax=ax)


@plot.register(Explanation)
def _(
    result: Explanation,
    ax: Axes | None = None,
    *,
    row: int | None = None,
    output: int | None = None,
    top: int = 12,
) -> Axes:
    data, values = to_numpy(result.data), to_numpy(result.values).astype(np.float64)
    several = values.ndim > data.ndim
    if several:
        values = values[..., 0 if output is None else output]
    unit = f"{result.method}: {result.output}"
    if several and result.output_names is not None:
        unit += f" of {result.output_names[0 if output is None else output]}"
    images = data[:, 0] if data.ndim == 4 and data.shape[1] == 1 else data
    if images.ndim == 3 and min(images.shape[1:]) >= 4:
        chosen = range(min(len(images), _PICTURES)) if row is None else [row]
        shown = images[list(chosen)], values.reshape(images.shape)[list(chosen)]
        return attribution_images(*shown, [f"row {i}" for i in chosen], ax=ax)
    flat, error = values.reshape(len(values), -1), None
    if row is None:
        bars, x = np.abs(flat).mean(0), f"mean |attribution| ({unit})"
    else:
        bars, x = flat[row], f"attribution ({unit}), row {row}"
        if result.uncertainty is not None and not several:
            error = to_numpy(result.uncertainty).reshape(len(values), -1)[row]
    return attribution_bars(bars, result.feature_names, error=error, top=top, x=x, ax=ax)


@plot.register(TrainingRows)
def _(result: TrainingRows, ax: Axes | None = None, *, row: int = 0, top: int = 12) -> Axes:
    effects = np.asarray(result.effects)[row]
    names = [f"training row {i}" for i in range(len(effects))]
    x = f"{result.unit} of row {row}, if left out"
    return attribution_bars(effects, names, top=top, x=x, ax=ax)


@plot.register(InfluenceScores)
def _(
    result: InfluenceScores, ax: Axes | None = None, *, query: int | None = None, top: int = 12
) -> Axes:
    values = to_numpy(result.values).astype(np.float64)
    bars = values.mean(0) if query is None else values[query]
    of = "mean over queries" if query is None else f"query {query}"
    names = [f"training row {i}" for i in range(len(bars))]
    return attribution_bars(bars, names, top=top, x=f"{result.units}, {of}, if left out", ax=ax)


@plot.register(FlippingSubset)
def _(result: FlippingSubset, ax: Axes | None = None) -> Axes:
    margins = {
        "with all rows": result.margin,
        "without, first order": result.margin_first_order,
        "without, Newton step": result.margin_newton,
        "without, refit": result.margin_refit,
    }
    known = {name: value for name, value in margins.items() if np.isfinite(value)}
    values = list(known.values())
    x = f"margin of the predicted class, {len(result)} rows left out"
    return intervals(list(known), values, values, values, x=x, ax=ax)


@plot.register(MislabelRanking)
def _(result: MislabelRanking, ax: Axes | None = None) -> Axes:
    x = f"suspicion ({result.method.replace('_', ' ')})"
    return score_histogram({"training rows": result.scores}, x=x, ax=ax)


@plot.register(MislabelDetection)
def _(result: MislabelDetection, ax: Axes | None = None) -> Axes:
    return inspection_curve(result.found, title=f"AUC {result.auc}", ax=ax)


@plot.register(DatamodelingScore)
def _(result: DatamodelingScore, ax: Axes | None = None) -> Axes:
    return correlations(result.per_query, *result.interval, ceiling=result.ceiling, ax=ax)


@plot.register(Retrained)
def _(result: Retrained, ax: Axes | None = None) -> Axes:
    x = f"mean {result.unit} of the queries"
    return score_histogram({"subsets": result.mean.mean(1)}, x=x, ax=ax)


@plot.register(RemovalCurve)
def _(result: RemovalCurve, ax: Axes | None = None) -> Axes:
    means, low, high = (
        [[getattr(interval, end) for interval in row] for row in result.intervals]
        for end in ("estimate", "low", "high")
    )
    share = result.removed / result.n_train
    return removal_curves(result.orders, share, means, low, high, y=f"mean {result.unit}", ax=ax)


@plot.register(SubclassDetection)
def _(result: SubclassDetection, ax: Axes | None = None) -> Axes:
    names = ["all", *np.unique(result.labels).tolist()]
    groups = [np.ones(len(result.labels), dtype=bool)]
    groups += [result.labels == name for name in names[1:]]
    exact = [
        clopper_pearson(int(result.hits[g].sum()), int(g.sum()), result.rate.level) for g in groups
    ]
    ends = zip(*((i.estimate, i.low, i.high) for i in exact), strict=True)
    x = f"most helpful row has the query's label (chance {result.chance:.2g})"
    return intervals([str(name) for name in names], *ends, x=x, ax=ax)


@plot.register(GroupMetrics)
def _(result: GroupMetrics, ax: Axes | None = None, *, level: float = 0.95) -> Axes:
    ends = result.ci(level, of="by_group")
    return group_metrics(
        [name.replace("_", " ") for name in result.metrics],
        [_group_name(group) for group in result.groups],
        np.asarray(result.by_group),
        ends[..., 0],
        ends[..., 1],
        ax=ax,
    )


@plot.register(Mitigation)
def _(result: Mitigation, ax: Axes | None = None) -> Axes:
    ax = axes(ax)
    gap, accuracy = result.candidates[:, 2], result.candidates[:, 4]
    ax.scatter(accuracy, gap, s=22, alpha=0.5, label="tried")
    ends = np.array([result.accuracy_before, result.accuracy_after])
    gaps = np.array([result.gap_before, result.gap_after])
    ax.plot(ends, gaps, marker="o", color=INK, label="before, after")
    label(ax, "validation accuracy", "gap between groups")
    ax.legend(frameon=False, labelcolor=INK)
    return ax


def _group_name(group: Any) -> str:
    return ", ".join(map(str, group)) if isinstance(group, tuple) else str(group)


def _standardised(scores: np.ndarray) -> np.ndarray:
    low, middle, high = np.quantile(scores, [0.25, 0.5, 0.75])
    found: np.ndarray = (scores - middle) / ((high - low) or 1.0)
    return found
