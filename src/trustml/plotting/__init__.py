"""Figures from result objects and from plain arrays; the only importer of matplotlib.

`plot` draws any result that trustml returns; the named functions take arrays. Each returns the
``Axes`` it drew on. Without ``ax`` it makes a figure of its own, outside pyplot's global state (a
notebook shows it): ``ax.figure.savefig("out.png")`` saves it. Needs the extra ``trustml[report]``.
"""

from __future__ import annotations

from trustml.plotting._attributions import attribution_bars, attribution_images, image_grid
from trustml.plotting._calibration import reliability_diagram
from trustml.plotting._dispatch import plot
from trustml.plotting._fairness import frontier
from trustml.plotting._influence import correlations, inspection_curve, removal_curves
from trustml.plotting._intervals import coverage_by_group, group_metrics, intervals
from trustml.plotting._robustness import robustness_curve
from trustml.plotting._scores import score_histogram
from trustml.plotting._sets import prediction_intervals, set_sizes
from trustml.plotting._streams import coverage_over_time, martingale_path
from trustml.plotting._style import detached
from trustml.plotting._svg import svg

__all__ = [
    "attribution_bars",
    "attribution_images",
    "correlations",
    "coverage_by_group",
    "coverage_over_time",
    "detached",
    "frontier",
    "group_metrics",
    "image_grid",
    "inspection_curve",
    "intervals",
    "martingale_path",
    "plot",
    "prediction_intervals",
    "reliability_diagram",
    "removal_curves",
    "robustness_curve",
    "score_histogram",
    "set_sizes",
    "svg",
]
