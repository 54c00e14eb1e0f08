"""The score interval of the AUROC."""

import numpy as np
import pytest
from scipy.stats import norm

from trustml.evidence import auroc_interval


@pytest.mark.parametrize("shift", [0.0, 0.7, 2.0])
def test_it_covers_the_truth_about_as_often_as_it_says(shift):
    rng = np.random.default_rng(0)
    truth = norm.cdf(shift / np.sqrt(2))
    hits = sum(
        auroc_interval(rng.normal(size=40), rng.normal(shift, 1, 60), 0.9).contains(truth)
        for _ in range(400)
    )
    assert 0.86 <= hits / 400 <= 0.97


def test_perfect_separation_keeps_a_width_that_shrinks_with_n():
    few, many = (auroc_interval(np.arange(n), np.arange(n) + n) for n in (10, 1000))
    assert few.estimate == many.estimate == 1.0
    assert few.low < many.low < 1.0
    assert few.high == pytest.approx(1.0)


def test_swapping_the_samples_mirrors_it():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=30), rng.normal(0.5, 1, 20)
    there, back = auroc_interval(a, b), auroc_interval(b, a)
    assert there.low == pytest.approx(1 - back.high)
    assert there.estimate == pytest.approx(1 - back.estimate)


def test_ties_count_half():
    assert auroc_interval([1.0, 2.0], [2.0, 3.0]).estimate == 0.875


@pytest.mark.parametrize(
    ("scores_in", "level", "text"),
    [([], 0.95, "empty"), ([np.nan], 0.95, "NaN"), ([[1.0]], 0.95, "1-d"), ([1.0], 1.5, "level")],
)
def test_bad_input_names_the_fix(scores_in, level, text):
    with pytest.raises(ValueError, match=text):
        auroc_interval(scores_in, [1.0, 2.0], level)
