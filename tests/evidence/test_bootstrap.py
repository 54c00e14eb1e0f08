"""The bootstrap agrees with scipy's, covers, and keeps strata."""

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trustml.evidence import bootstrap


@pytest.mark.parametrize("method", ["bca", "percentile", "basic"])
@pytest.mark.parametrize("statistic", [np.mean, np.var])
def test_agrees_with_scipy(method: str, statistic: object) -> None:
    # The variance of 40 skewed numbers is biased and skewed: BCa moves its upper end by a third.
    x = np.random.default_rng(0).exponential(size=40)
    ours = bootstrap(statistic, x, n_resamples=4000, method=method, random_state=1, level=0.8)
    theirs = scipy.stats.bootstrap(
        (x,), statistic, n_resamples=4000, method=method, random_state=2, confidence_level=0.8
    ).confidence_interval
    width = theirs.high - theirs.low
    np.testing.assert_allclose([ours.low, ours.high], theirs, atol=0.05 * width)


def test_coverage_of_a_skewed_mean() -> None:
    rng = np.random.default_rng(4)
    hits = [
        bootstrap(np.mean, rng.exponential(size=60), n_resamples=200, random_state=rng,
                  level=0.9).contains(1.0)
        for _ in range(200)
    ]  # fmt: skip
    # Asymptotic, so the truth is near 0.88: both bounds are four standard errors away from it.
    assert 0.79 < np.mean(hits) < 0.97


def test_blocks_give_nearly_the_acceleration_of_single_rows() -> None:
    x = np.random.default_rng(0).exponential(size=2000)  # ten rows a block
    ours = bootstrap(np.var, x, n_resamples=3000, random_state=1)
    theirs = scipy.stats.bootstrap((x,), np.var, n_resamples=3000, random_state=2,
                                   method="bca").confidence_interval  # fmt: skip
    width = theirs.high - theirs.low
    np.testing.assert_allclose([ours.low, ours.high], theirs, atol=0.08 * width)


def test_vector_statistics_pair_rows() -> None:
    x = np.random.default_rng(0).normal(size=50)
    low, high = bootstrap(lambda a, b: [np.mean(a - b), np.mean(a)], x, x + 1, random_state=0)
    assert (low.estimate, low.low, low.high) == pytest.approx((-1, -1, -1))
    assert high.low < high.estimate < high.high
    assert bootstrap(np.mean, torch.from_numpy(x), random_state=0) == bootstrap(
        np.mean, x.tolist(), random_state=0
    )


def test_strata_keep_their_sizes_and_undefined_resamples_are_named() -> None:
    x, group = np.arange(12.0), np.array([0] * 10 + [1] * 2)

    def gap(x: np.ndarray, group: np.ndarray) -> float:
        if not (group == 1).any():
            return np.nan
        return x[group == 1].mean() - x[group == 0].mean()

    seen = []
    stratified = bootstrap(
        lambda x, g: seen.append((g == 1).sum()) or gap(x, g), x, group, strata=group,
        n_resamples=50, random_state=0, method="percentile",
    )  # fmt: skip
    assert set(seen) == {2}
    assert "undefined" not in stratified.method
    assert "undefined" in bootstrap(gap, x, group, n_resamples=200, random_state=0).method


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=20), st.integers(0, 2**32))
def test_interval_is_ordered_inside_the_data_and_repeats(x: list, seed: int) -> None:
    first = bootstrap(np.mean, x, n_resamples=50, random_state=seed)
    assert min(x) - 1e-9 <= first.low <= first.high <= max(x) + 1e-9
    assert first == bootstrap(np.mean, x, n_resamples=50, random_state=seed)


def test_a_constant_has_no_width() -> None:
    found = bootstrap(np.mean, np.ones(5), n_resamples=20, random_state=0)
    assert (found.low, found.high) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("arrays", "keywords", "text"),
    [((), {}, "at least one array"), (([],), {}, "at least one"),
     (([1.0], [1.0, 2.0]), {}, "same number of rows"),
     (([1.0, 2.0],), {"method": "studentised"}, "method"), (([1.0, 2.0],), {"level": 95}, "level"),
     (([1.0, 2.0],), {"n_resamples": 1}, "n_resamples"),
     (([1.0, 2.0],), {"strata": [0]}, "strata"), (([1.0, np.nan],), {}, "finite on the data")],
)  # fmt: skip
def test_bad_input(arrays: tuple, keywords: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        bootstrap(lambda *a: np.mean(a[0]), *arrays, **keywords)


def test_mostly_undefined_names_strata() -> None:
    rare = np.array([1.0] + [np.nan] * 20)

    def statistic(x: np.ndarray) -> float:
        return x[0] if len(set(np.isnan(x))) == 1 else 1.0 if np.isnan(x).sum() == 20 else np.nan

    with pytest.raises(ValueError, match="strata"):
        bootstrap(statistic, rare, n_resamples=100, random_state=0)
