"""In a notebook a figure is pyplot's, so that it is shown; elsewhere nothing global is touched."""

import types

import pytest

from trustml.plotting import detached, score_histogram

pyplot = pytest.importorskip("matplotlib.pyplot")


@pytest.mark.parametrize("in_notebook", [True, False])
def test_a_notebook_shows_the_figure(monkeypatch: pytest.MonkeyPatch, in_notebook: bool) -> None:
    shell = object() if in_notebook else None
    fake = types.SimpleNamespace(get_ipython=lambda: shell)
    seen = types.SimpleNamespace(modules={"IPython": fake})
    monkeypatch.setattr("trustml.plotting._style.sys", seen)
    before = pyplot.get_fignums()
    score_histogram({"inside": [0.1, 0.2, 0.4], "outside": [0.8, 0.9]})
    opened = set(pyplot.get_fignums()) - set(before)
    pyplot.close("all")
    assert bool(opened) == in_notebook


def test_a_report_drawn_in_a_notebook_shows_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.SimpleNamespace(get_ipython=lambda: object())
    seen = types.SimpleNamespace(modules={"IPython": fake})
    monkeypatch.setattr("trustml.plotting._style.sys", seen)
    before = pyplot.get_fignums()
    with detached():
        score_histogram({"inside": [0.1, 0.2, 0.4]})
    assert pyplot.get_fignums() == before
