"""A change of level is found where it is; without one, p-values are super-uniform."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, mannwhitneyu

from trustml.evidence import change_test


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 8), min_size=2, max_size=25))
def test_statistic_and_effect_are_those_of_mann_and_whitney(scores: list[int]) -> None:
    found, x, n = change_test(scores, 9, 0), np.array(scores, float), len(scores)
    k = found.n[0]
    assert sum(found.n) == n
    wins = (
        mannwhitneyu(x[k:], x[:k], method="asymptotic").statistic if len(set(scores)) > 1 else None
    )
    if wins is None:
        assert found.statistic == found.effect_size == 0
        assert found.p_value == 1
        return
    assert found.effect_size == pytest.approx(wins / (k * (n - k)) - 0.5, abs=1e-12)
    ranks = np.array([(x < s).sum() + (x == s).sum() / 2 for s in x])
    spread = ranks.std(ddof=1)
    each = [
        abs(ranks[k:].mean() - ranks[:k].mean()) / spread * np.sqrt(k * (n - k) / n)
        for k in range(1, n)
    ]
    assert found.statistic == pytest.approx(max(each), rel=1e-9)
    assert each[found.n[0] - 1] == pytest.approx(max(each), rel=1e-9)


def test_p_values_are_super_uniform_without_a_change_and_small_with_one() -> None:
    rng, p, late = np.random.default_rng(0), [], []
    for run in range(300):
        p.append(change_test(rng.poisson(2, size=40), 99, run).p_value)
        moved = np.concatenate([rng.normal(size=40), rng.normal(1.5, 1, size=15)])
        late.append(change_test(moved, 99, run).p_value)
    for level in (0.05, 0.2, 0.5):
        assert np.sum(np.array(p) <= level) <= binom.ppf(1 - 1e-4, 300, level)
    assert np.mean(np.array(late) <= 0.05) > 0.8


def test_seeds_kinds_and_long_streams() -> None:
    scores = np.random.default_rng(1).normal(size=200_000)
    scores[150_000:] += 0.05
    found = change_test(torch.from_numpy(scores), 19, 0)
    assert found.p_value == 0.05
    assert abs(found.n[0] - 150_000) < 20_000
    assert change_test(scores[:500], 99, 5) == change_test(np.exp(scores[:500]), 99, 5)


@pytest.mark.parametrize(
    ("scores", "text"), [([], "empty"), ([1.0], "at least 2"), ([np.nan, 1.0], "NaN")]
)
def test_bad_input(scores: list, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        change_test(scores)
