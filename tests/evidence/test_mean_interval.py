"""Student's interval covers what it says, and refuses what has no mean."""

import math

import numpy as np
import pytest
from scipy.stats import binom, ttest_1samp

from trustml.evidence import mean_interval


def test_it_is_students_interval() -> None:
    values = np.random.default_rng(0).gamma(2, size=17)
    found = mean_interval(values, 0.9)
    theirs = ttest_1samp(values, 0).confidence_interval(0.9)
    assert tuple(found) == pytest.approx(tuple(theirs))
    assert found.estimate == pytest.approx(values.mean())


def test_it_covers_normal_means_at_any_n() -> None:
    rng = np.random.default_rng(1)
    for n in (2, 5, 30):
        hits = sum(mean_interval(rng.normal(3, 2, size=n)).contains(3.0) for _ in range(400))
        assert binom.ppf(1e-4, 400, 0.95) <= hits <= binom.ppf(1 - 1e-4, 400, 0.95)


def test_one_value_bounds_nothing() -> None:
    assert tuple(mean_interval([2.0])) == (-math.inf, math.inf)


@pytest.mark.parametrize(
    ("values", "level", "text"),
    [([], 0.9, "empty"), ([np.nan], 0.9, "NaN"), ([np.inf, 1], 0.9, "infin|finite"),
     ([[1.0]], 0.9, "1-d"), ([1.0, 2.0], 1.0, "level")],
)  # fmt: skip
def test_bad_input(values: list, level: float, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        mean_interval(values, level)
