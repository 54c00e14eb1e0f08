"""Figures: each returns its axes, stays outside pyplot, and shows data's words as they are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from trustml import plotting

RNG = np.random.default_rng(0)

CALLS = {
    "reliability_diagram": (
        [0.2, 0.5, 0.9],
        [0.3, 0.5, 0.8],
        [0.1, 0.4, 0.7],
        [0.5, 0.6, 0.9],
        [5, 50, 500],
    ),
    "coverage_by_group": (["all", "$a$ & <b>"], [0.9, 0.8], [0.85, 0.6], [0.95, 0.9]),
    "score_histogram": ({"in": RNG.normal(size=50), "out $": RNG.normal(5, 1, 50)},),
    "robustness_curve": ([0.0, 0.1], [0.9, 0.4], [0.8, 0.3], [0.95, 0.5]),
    "attribution_bars": ([0.2, -0.5, 0.1], ["a", "b$", "c"]),
    "attribution_images": (RNG.random((2, 4, 4)), RNG.normal(size=(2, 4, 4)), ["x", "y"]),
    "image_grid": (RNG.random((3, 4, 4, 3)), ["1", "2", "3"]),
    "intervals": (["a", "b"], [0.5, 0.6], [0.4, 0.5], [0.6, 0.8]),
    "removal_curves": (
        ["helpful $", "random"],
        [0.0, 0.1],
        [[1.0, 2.0], [1.0, 1.1]],
        [[0.9, 1.8], [0.9, 1.0]],
        [[1.1, 2.2], [1.1, 1.3]],
    ),
    "inspection_curve": ([1, 2, 2, 2, 3],),
    "correlations": ([0.2, 0.6, 0.7], 0.4, 0.6),
    "group_metrics": (["tpr", "fpr"], ["f", "m"], [[0.5, 0.1], [0.7, np.nan]]),
    "frontier": (["plain $", "fair", "failed"], [0.2, 0.1, np.nan], [0.8, 0.7, np.nan]),
    "coverage_over_time": ([True, False, True, True],),
    "martingale_path": ([0.0, -1.0, 5.0, np.inf],),
    "set_sizes": ({"a $": np.eye(3, dtype=bool), "b": np.ones((2, 3), dtype=bool)},),
    "prediction_intervals": ([0.0, 1.0], [[-1.0, 1.0], [0.5, np.inf]], [0.0, 0.0]),
}
NAMED = {"coverage_by_group": {"target": 0.9}, "correlations": {"ceiling": 0.9}}
NAMED |= {
    "coverage_over_time": {"target": 0.9, "window": 2},
    "frontier": {"gap_ends": [[0.1, 0.3], [0.0, 0.2], [np.nan] * 2], "best": [True, True, False]},
    "martingale_path": {"alpha": 0.01, "alarm": 2},
}


def draw(name, **more):
    return getattr(plotting, name)(*CALLS[name], **NAMED.get(name, {}), **more)


def test_every_figure_is_under_these_tests():
    assert set(CALLS) == set(plotting.__all__) - {"plot", "svg", "detached"}


@pytest.mark.parametrize("name", CALLS)
def test_a_figure_of_its_own_outside_pyplot(name):
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    ax = draw(name)
    assert type(ax.figure) is Figure
    assert plt.get_fignums() == before
    assert ax.has_data()


@pytest.mark.parametrize("name", CALLS)
def test_given_axes_are_drawn_into(name):
    figure = Figure()
    ax = figure.subplots()
    assert draw(name, ax=ax) is ax
    assert figure.axes == [ax]


@pytest.mark.parametrize("name", CALLS)
def test_inline_svg_is_escaped_and_has_no_links(name):
    text = plotting.svg(draw(name), f"test-{name}", alt='<b>"quoted"</b>')
    assert text.startswith("<svg")
    assert text.rstrip().endswith("</svg>")
    assert "http" not in text
    assert "<b>" not in text
    assert 'aria-label="&lt;b&gt;&quot;quoted&quot;&lt;/b&gt;"' in text
    assert "currentColor" in text or "image" in text


def test_svg_is_the_same_every_time_and_its_ids_are_its_own():
    first, second = (plotting.svg(draw("robustness_curve"), "a") for _ in range(2))
    other = plotting.svg(draw("robustness_curve"), "b")
    assert first == second
    assert first.replace('"a-', '"b-').replace("#a-", "#b-").count("b-") == other.count("b-")
    assert 'id="a-' in first
    assert 'id="a-' not in other


def test_svg_refuses_what_it_cannot_name():
    ax = draw("robustness_curve")
    with pytest.raises(ValueError, match="letters"):
        plotting.svg(ax, '"><script>')


@settings(max_examples=25, deadline=None)
@given(st.text(min_size=1, max_size=12).filter(str.isprintable))
def test_any_name_is_drawn_literally(name):
    ax = plotting.attribution_bars([1.0], [name])
    plotting.svg(ax, "x")  # would raise on broken mathematics such as "$\\foo$"
    assert ax.get_yticklabels()[0].get_text().replace(r"\$", "$") == name


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: plotting.reliability_diagram([0.1], [0.1, 0.2], [0], [1], [1]), "same length"),
        (lambda: plotting.reliability_diagram([], [], [], [], []), "non-empty"),
        (lambda: plotting.coverage_by_group(["a"], [1, 1], [1, 1], [1, 1], target=1), "length"),
        (lambda: plotting.score_histogram({}), "at least one set"),
        (lambda: plotting.score_histogram({"a": [np.nan]}), "infinite or NaN"),
        (lambda: plotting.robustness_curve([0, 1], [1]), "same length"),
        (lambda: plotting.attribution_bars([1.0], ["a", "b"]), "one entry a value"),
        (lambda: plotting.attribution_images(np.ones((2, 3, 3)), np.ones((1, 3, 3))), "one shape"),
        (lambda: plotting.image_grid(np.ones((2, 3, 3)), ["a"]), "n titles"),
        (lambda: plotting.coverage_over_time([True], window=0), "at least 1"),
        (lambda: plotting.set_sizes({}), "at least one"),
        (lambda: plotting.set_sizes({"a": [[0.1, 0.9]]}), "bool"),
        (lambda: plotting.prediction_intervals([0.0], [[0.0, np.nan]]), "without NaN"),
        (lambda: plotting.prediction_intervals([0.0], [[0.0, 1.0]], [1, 2]), "one value a row"),
        (lambda: plotting.group_metrics(["a"], ["f", "m"], [[1.0]]), r"shape \(2, 1\)"),
    ],
)
def test_bad_shapes_are_named(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_a_histogram_bends_its_axis_where_the_first_set_would_be_a_sliver():
    near = plotting.score_histogram({"in": np.arange(100.0), "out": np.arange(100.0) + 50})
    far = plotting.score_histogram({"in": np.arange(100.0), "out": np.arange(100.0) * 1e4})
    assert near.get_xscale() == "linear"
    assert far.get_xscale() == "asinh"
    for ax in (near, far):  # every row is in some bin
        filled = [patch for patch in ax.patches if hasattr(patch, "get_height")]
        assert sum(patch.get_height() for patch in filled) == pytest.approx(1.0)


def test_the_running_coverage_is_that_of_its_window():
    hits = np.random.default_rng(0).random(50) < 0.8
    ax = plotting.coverage_over_time(hits, window=10)
    latest, far = (line.get_ydata() for line in ax.lines[:2])
    np.testing.assert_allclose(latest, [hits[i : i + 10].mean() for i in range(41)])
    assert far[-1] == pytest.approx(hits.mean())


def test_set_sizes_share_an_axis_and_sum_to_one():
    one, three = np.eye(4, dtype=bool), np.tri(4, dtype=bool)
    ax = plotting.set_sizes({"one": one, "rising": three})
    assert sum(bar.get_height() for bar in ax.patches) == pytest.approx(2)
    assert ax.patches[0].get_height() == 1


def test_an_interval_without_end_reaches_the_frame_and_an_empty_one_is_not_drawn():
    ends = [[-np.inf, np.inf], [1.0, 0.0], [0.0, 1.0]]
    ax = plotting.prediction_intervals([0.0, 1.0, 2.0], ends, [5.0, 0.5, 0.5])
    drawn = ax.collections[0].get_segments()
    assert len(drawn) == 2
    assert drawn[0][:, 1].tolist() == list(ax.get_ylim())
    assert [len(points.get_offsets()) for points in ax.collections[1:]] == [2, 1]


def test_a_constant_score_is_drawn():
    ax = plotting.score_histogram({"in": np.ones(5), "out": np.ones(3)}, threshold=np.inf)
    assert not ax.lines


def test_matplotlib_missing_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"trustml\[report\]"):
        plotting.robustness_curve([0, 1], [1, 0])


def test_many_groups_show_both_ends_and_no_colour_twice():
    rng = np.random.default_rng(0)
    names, values = [str(i) for i in range(100)], rng.random((100, 2))
    ax = plotting.group_metrics(["tpr", "fpr"], names, values, values - 0.1, values + 0.1)
    shown = [text.get_text() for text in ax.get_yticklabels()]
    for j, metric in enumerate(["tpr", "fpr"]):
        order = np.argsort(values[:, j])
        expected = [f"{metric}: {g}" for g in [*order[:4], *order[-4:]]]
        assert [name for name in shown if name.startswith(metric)] == expected
    assert shown.count("92 groups between") == 2
    assert ax.get_legend() is None
    assert ax.figure.get_size_inches()[1] < 10
    few = plotting.group_metrics(["tpr"], names[:9], np.r_[values[:8, :1], [[np.nan]]])
    assert len(few.get_yticklabels()) == 8  # none between, and NaN left out
