"""p-values and bounds of means hold at the law that is worst for them, and invert each other."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from trustml.evidence import (
    MEAN_METHODS,
    clopper_pearson,
    hoeffding_bentkus_pvalue,
    mean_pvalue,
    mean_upper_bound,
)

methods = pytest.mark.parametrize("method", MEAN_METHODS)
LEVELS = (0.05, 0.1, 0.3)


def bernoulli(p: float, n: int, columns: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random((n, columns)) < p).astype(float)


@methods
@pytest.mark.parametrize(("p", "n"), [(0.1002, 200), (0.3002, 500), (0.5, 30), (0.02, 100)])
def test_too_small_no_more_often_than_the_rate_at_the_boundary(
    method: str, p: float, n: int
) -> None:
    # 4000 runs, one a column; P(Bin(4000, delta) > limit) < 1e-5 for each of the 48 checks.
    losses = bernoulli(p, n, 4000)
    for delta in LEVELS:
        found = mean_pvalue(losses, p, method, aim=delta)
        assert (found <= delta).sum() <= binom.ppf(1 - 1e-5, 4000, delta)


@methods
def test_the_p_value_holds_at_rates_that_it_was_not_aimed_at(method: str) -> None:
    found = mean_pvalue(bernoulli(0.2, 100, 4000), 0.2, method, aim=0.1)
    for delta in (0.01, 0.02, 0.05, 0.2, 0.5):
        assert (found <= delta).sum() <= binom.ppf(1 - 1e-5, 4000, delta)


@methods
@pytest.mark.parametrize("bound", [1.0, 4.0])
def test_the_bound_is_below_a_level_where_the_p_value_rejects_it(method: str, bound: float) -> None:
    losses = bernoulli(0.15, 80, 300) * bound
    upper = mean_upper_bound(losses, 0.1, method, bound)
    assert (upper >= losses.mean(axis=0)).all()
    assert (upper <= bound).all()
    for level in (0.1, 0.2, 0.35, 0.6):
        p = mean_pvalue(losses, level * bound, method, bound, aim=0.1)
        clear = np.abs(upper / bound - level) > 1e-9
        np.testing.assert_array_equal((upper < level * bound)[clear], (p < 0.1)[clear])


@pytest.mark.parametrize("method", sorted(set(MEAN_METHODS) - {"clopper-pearson"}))
def test_losses_between_the_ends(method: str) -> None:
    # Beta(2, 6): mean 0.25. The bound misses it at most as often as delta, and is worth having.
    losses = np.random.default_rng(3).beta(2, 6, size=(400, 1000))
    upper = mean_upper_bound(losses, 0.1, method)
    assert (upper < 0.25).sum() <= binom.ppf(1 - 1e-5, 1000, 0.1)
    assert upper.mean() < 0.30


def test_low_variance_is_worth_most_to_the_bettor() -> None:
    losses = np.random.default_rng(0).beta(20, 180, size=(500, 50))
    upper = {m: mean_upper_bound(losses, 0.1, m).mean() for m in ("wsr", "hoeffding-bentkus")}
    assert upper["wsr"] < 0.106 < 0.11 < upper["hoeffding-bentkus"]


def test_the_martingale_is_the_product_over_the_whole_sample() -> None:
    losses, level, aim = bernoulli(0.05, 61, 3, seed=5), 0.2, 0.1
    for column, p in zip(losses.T, mean_pvalue(losses, level, "wsr", aim=aim), strict=True):
        wealth, best, total, squares, variance = 1.0, 1.0, 0.5, 0.25, 0.25
        for i, loss in enumerate(column, start=1):
            bet = min(1.0, (2 * np.log(1 / aim) / (61 * variance)) ** 0.5)
            wealth *= 1 - bet * (loss - level)
            best = max(best, wealth)
            total += loss
            squares += (loss - total / (i + 1)) ** 2
            variance = squares / (i + 1)
        assert p == pytest.approx(1 / best, rel=1e-10)


def test_known_forms() -> None:
    losses = bernoulli(0.1, 137, 20)
    k = losses.sum(axis=0)
    np.testing.assert_allclose(
        mean_pvalue(losses, 0.2, "clopper-pearson"), binom.cdf(k, 137, 0.2), rtol=1e-12
    )
    np.testing.assert_allclose(
        mean_pvalue(losses, 0.2), hoeffding_bentkus_pvalue(k / 137, 137, 0.2), rtol=1e-12
    )
    for count, upper in zip(k, mean_upper_bound(losses, 0.1, "clopper-pearson"), strict=True):
        assert upper == pytest.approx(clopper_pearson(count, 137, 0.9, side="upper").high)
    # Maurer and Pontil, theorem 4.
    x = np.log(2 / 0.1)
    expected = k / 137 + np.sqrt(2 * losses.var(axis=0, ddof=1) * x / 137) + 7 * x / (3 * 136)
    np.testing.assert_allclose(mean_upper_bound(losses, 0.1, "empirical-bernstein"), expected)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(MEAN_METHODS), st.integers(1, 40), st.integers(0, 2**31))
def test_columns_know_nothing_of_each_other_and_levels_are_monotone(
    method: str, n: int, seed: int
) -> None:
    losses = bernoulli(0.3, n, 6, seed)
    p = np.array([mean_pvalue(losses, level, method) for level in (0.05, 0.2, 0.5, 0.95)])
    assert ((p >= 0) & (p <= 1)).all()
    assert (np.diff(p, axis=0) <= 1e-12).all()
    alone = [mean_pvalue(losses[:, j], 0.5, method) for j in range(6)]
    np.testing.assert_allclose(p[2], alone, rtol=1e-12)
    shuffled = losses[np.random.default_rng(seed).permutation(n)]
    if method != "wsr":
        np.testing.assert_allclose(mean_pvalue(shuffled, 0.5, method), p[2], rtol=1e-9)


def test_many_columns_are_worked_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = bernoulli(0.1, 50, 30)
    whole = mean_upper_bound(losses, 0.1, "wsr")
    monkeypatch.setattr("trustml.evidence._bounded_mean._CELLS", 120)
    np.testing.assert_array_equal(mean_upper_bound(losses, 0.1, "wsr"), whole)


@methods
def test_extremes_are_numbers(method: str) -> None:
    for end in (0.0, 1.0):
        upper = mean_upper_bound(np.full(5000, end), 0.1, method)
        assert upper == pytest.approx(end, abs=5e-3)
    assert mean_upper_bound([1.0], 0.1, method) == 1.0
    assert mean_pvalue([1.0, 1.0], 0.9, method) == 1.0
    assert mean_upper_bound([0.0], 0.1, method) <= 1.0


def test_kinds() -> None:
    table = torch.zeros(100, 3, dtype=torch.float64)
    assert isinstance(mean_pvalue(table, 0.1), torch.Tensor)
    assert mean_upper_bound(table, 0.1).shape == (3,)
    assert isinstance(mean_pvalue(table[:, 0], 0.1), float)


@pytest.mark.parametrize(
    ("change", "text"),
    [({"losses": [0.1, np.nan]}, r"lie in \[0, 1\], got nan at index \(1,\)"),
     ({"losses": [0.1, 1.2]}, "largest possible loss"), ({"losses": [-0.1]}, "lie in"),
     ({"losses": []}, "non-empty"), ({"losses": np.zeros((2, 2, 2))}, "shape"),
     ({"alpha": 0.0}, "alpha"), ({"alpha": 1.0}, "alpha"), ({"bound": 0}, "bound"),
     ({"bound": np.inf}, "bound"), ({"aim": 1.0}, "aim"), ({"method": "chernoff"}, "method"),
     ({"losses": [0.5], "method": "clopper-pearson"}, "0 or 1")],
)  # fmt: skip
def test_bad_input(change: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        mean_pvalue(**({"losses": [0.0, 1.0], "alpha": 0.1} | change))


def test_bad_delta() -> None:
    with pytest.raises(ValueError, match="delta"):
        mean_upper_bound([0.0], 1.0)
