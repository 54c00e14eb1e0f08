"""The rank is exact, and a calibration set that is too small says so."""

import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trustml.evidence import conformal_rank, exact_alpha, quantile
from trustml.warnings import CoverageWarning


def test_rank_equals_integer_arithmetic_for_every_small_n() -> None:
    scores = np.random.default_rng(0).permutation(np.arange(1.0, 201.0))
    for n in range(1, 201):
        sample = np.sort(scores)[:n][::-1]
        for thousandths in (*range(10, 1000, 10), 1, 5, 25, 125, 333, 875, 975, 999):
            rank = -((n + 1) * (thousandths - 1000) // 1000)
            assert conformal_rank(n, thousandths / 1000) == rank
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", CoverageWarning)
                found = quantile(sample, thousandths / 1000)
            assert found == (rank if rank <= n else math.inf)


def test_every_rank_is_exact_where_peers_miss() -> None:
    # B6, B9: MAPIE 1.6.0, TorchCP and puncc compute (n + 1)(1 - alpha) in floats and miss 140 of
    # 3881 feasible (n, alpha) pairs, crepes 224, MAPIE 1.5.0 1425. With scores 1..n the threshold
    # is the rank, and alphas are written as people do: the truth is integer arithmetic.
    hundredths = [1, 2, *range(5, 100, 5)]
    sizes = [*range(1, 301), 333, 399, 400, 499, 500, 599, 600, 799, 800, 999, 1000, 1999, 2000]
    feasible = exact = in_floats = 0
    for n in sizes:
        ranks = np.array([-((n + 1) * (h - 100) // 100) for h in hundredths])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CoverageWarning)
            found = quantile(np.arange(1.0, n + 1), [h / 100 for h in hundredths])
        possible = ranks <= n
        assert np.isinf(found[~possible]).all()
        feasible += possible.sum()
        exact += (found == ranks)[possible].sum()
        floats = np.array([math.ceil((n + 1) * (1 - h / 100)) for h in hundredths])
        in_floats += (floats == ranks)[possible].sum()
    assert exact == feasible
    assert feasible > 3881
    assert in_floats < exact - 50  # these pairs tell the two ways apart


def test_every_rank_of_two_thousand_rows_and_every_hundredth_is_exact() -> None:
    # All pairs from which a grid can be drawn that people meet, 3881 of 3881 of any choice.
    thousandths = [*range(10, 1000, 10), 1, 5, 25, 75, 125, 333, 975]
    alphas = [exact_alpha(t / 1000) for t in thousandths]
    found = [[conformal_rank(n, alpha) for alpha in alphas] for n in range(1, 2001)]
    places = np.arange(2, 2002)[:, None]
    expected = -((places * (np.array(thousandths) - 1000)) // 1000)
    np.testing.assert_array_equal(found, expected)


def test_infeasible_is_infinite_where_peers_clip_or_refuse() -> None:
    # B8, B9: n=9 at 90 % has rank 9, the largest score (crepes: the whole line, MAPIE: an
    # error); n=8 has none (MAPIE 1.5.0 clips to the largest score, which does not cover).
    assert quantile(np.arange(1, 10), 0.1) == 9
    with pytest.warns(CoverageWarning, match="at least 9"):
        assert quantile(np.arange(1, 9), 0.1) == math.inf


def brute(scores: list, weights: list, test: float, alpha: Fraction) -> float:
    """The definition, in rational arithmetic throughout."""
    w = [Fraction(v) for v in weights]
    need = (1 - alpha) * (sum(w) + Fraction(test))
    enough = [s for s in scores if sum(v for t, v in zip(scores, w, strict=True) if t <= s) >= need]
    return min(enough, default=math.inf)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9).map(float),
                       st.sampled_from([0.0, 0.1, 0.3, 1.0, 1e-9, 7.5, 1e12])),
             min_size=1, max_size=25),
    st.lists(st.sampled_from([0.0, 0.1, 0.3, 1.0, 1e5]), min_size=1, max_size=4),
    st.lists(st.integers(1, 99), min_size=1, max_size=3),
)  # fmt: skip
def test_weighted_quantile_is_the_definition(rows: list, tests: list, percents: list) -> None:
    scores, weights = map(list, zip(*rows, strict=True))
    if not any(weights):
        weights[0] = 0.1
    alphas = [p / 100 for p in percents]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CoverageWarning)
        found = quantile(scores, alphas, weights, tests)
        one = quantile(scores, alphas[0], weights, tests[0])
    assert found.shape == (len(tests), len(alphas))
    assert one == found[0, 0]
    expected = [[brute(scores, weights, t, exact_alpha(a)) for a in alphas] for t in tests]
    assert found.tolist() == expected


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 400), st.sampled_from([0.1, 1.0, 0.7, 1e-200, 3e100]), st.integers(1, 99))
def test_equal_weights_are_no_weights_and_whole_ones_are_repeats(
    n: int, weight: float, percent: int
) -> None:
    # Sums of 0.1 in floats fall to either side of (1 - alpha) of the whole.
    rng = np.random.default_rng(n)
    scores, counts = rng.integers(0, 50, size=n), rng.integers(0, 4, size=n)
    counts[0] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CoverageWarning)
        plain = quantile(scores, percent / 100)
        assert quantile(scores, percent / 100, np.full(n, weight), weight) == plain
        repeated = quantile(np.repeat(scores, counts), percent / 100)
        assert quantile(scores, percent / 100, counts * 2.0**-9, 2.0**-9) == repeated


def test_weighted_quantile_keeps_its_promise_under_a_known_shift() -> None:
    # Scores are |N(0, 1)|; the new ones are drawn from N(0, 2^2), the ratio known in closed form.
    rng = np.random.default_rng(4)
    ratio = lambda x: 0.5 * np.exp(0.375 * x**2)  # noqa: E731
    misses = []
    for _ in range(400):
        cal, new = rng.normal(size=200), rng.normal(scale=2, size=20)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CoverageWarning)
            limit = quantile(np.abs(cal), 0.2, ratio(cal), ratio(new))
        misses.append((np.abs(new) > limit).mean())
    # The mean of 400 independent means: 3.9 standard errors are a one-sided 5e-5.
    assert np.mean(misses) <= 0.2 + 3.9 * np.std(misses) / 20
    assert np.mean(misses) > 0.1


def test_shapes_kinds_and_dtypes() -> None:
    scores = np.random.default_rng(1).normal(size=40)
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for device in devices:
        for dtype in (torch.float64, torch.float32, torch.float16):
            tensor = torch.tensor(scores, device=device, dtype=dtype, requires_grad=True)
            found = quantile(tensor, [0.1, 0.5], torch.ones(40, device=device), 1.0)
            assert (found.dtype, found.device.type, found.shape) == (dtype, device, (2,))
            plain = quantile(tensor.detach().cpu().double().numpy(), [0.1, 0.5])
            assert found.tolist() == plain.tolist()
            assert quantile(tensor, 0.1).shape == ()
            assert not found.requires_grad
    assert quantile(torch.arange(9), 0.1).dtype == torch.float64
    assert isinstance(quantile(scores, 0.1), float)
    assert quantile(scores, np.array([0.1, 0.2])).shape == (2,)
    assert quantile(scores, torch.tensor([0.1])).shape == (1,)
    assert quantile(scores, 0.1, np.ones(40), np.ones(3)).shape == (3,)


def test_a_heavy_new_row_gets_everything_and_one_warning() -> None:
    with pytest.warns(CoverageWarning, match=r"50 calibration scores.*1 of 3 new rows") as caught:
        found = quantile(np.arange(50), [0.1, 0.2], np.ones(50), [1.0, 5.0, 20.0])
    assert len(caught) == 1
    assert np.isinf(found).tolist() == [[False, False], [False, False], [True, True]]


@pytest.mark.parametrize(
    ("weights", "test", "text"),
    [
        ([1.0, 1.0], None, "go together"),
        (None, 1.0, "go together"),
        ([1.0], 1.0, r"shape \(2,\)"),
        ([1.0, 1.0], [[1.0]], r"\(m,\)"),
        ([1.0, -1.0], 1.0, "weights must be finite and at least 0"),
        ([1.0, math.inf], 1.0, "weights must be finite"),
        ([1.0, math.nan], 1.0, "weights has NaN"),
        ([1.0, 1.0], -1.0, "test_weight must be finite"),
        ([0.0, 0.0], 0.0, "all zero"),
    ],
)
def test_bad_weights(weights: object, test: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        quantile([0.1, 0.2], 0.5, weights, test)


@pytest.mark.parametrize(
    "alpha",
    [0.3, np.float64(0.3), np.float32(0.3), np.float16(0.3), float(np.float32(0.3)),
     torch.tensor(0.3), torch.tensor(0.3, dtype=torch.float64), Fraction(3, 10), 1 - 0.7],
)  # fmt: skip
def test_alpha_is_the_decimal_that_was_written(alpha: object) -> None:
    assert exact_alpha(alpha) == Fraction(3, 10)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 10**9 - 1))
def test_nine_decimals_survive(billionths: int) -> None:
    assert exact_alpha(billionths / 10**9) == Fraction(billionths, 10**9)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6) | st.just(math.inf), min_size=1, max_size=60),
    st.integers(1, 99),
)
def test_quantile_is_the_smallest_score_with_enough_below(scores: list, percent: int) -> None:
    need = Fraction(100 - percent, 100) * (len(scores) + 1)
    enough = [s for s in scores if sum(t <= s for t in scores) >= need]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CoverageWarning)
        assert quantile(scores, percent / 100) == min(enough, default=math.inf)


def test_too_small_warns_with_the_number_that_is_needed() -> None:
    with pytest.warns(CoverageWarning, match=r"8 calibration scores.*coverage 0\.9.*at least 9"):
        assert quantile(np.arange(8), 0.1) == math.inf
    assert quantile(np.arange(9), 0.1) == 8


def test_scores_are_not_touched() -> None:
    scores = np.array([3.0, 1.0, 2.0])
    quantile(scores, 0.5)
    assert scores.tolist() == [3.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("scores", "alpha", "error", "text"),
    [
        ([], 0.1, ValueError, "empty"),
        ([0.1, np.nan], 0.1, ValueError, "NaN.*index 1"),
        ([[0.1, 0.2]], 0.1, ValueError, "1-d"),
        (["a"], 0.1, TypeError, "numbers"),
        ([0.1], 0.0, ValueError, "alpha"),
        ([0.1], 1.0, ValueError, "alpha"),
        ([0.1], 1e-12, ValueError, "alpha"),
        ([0.1], math.nan, ValueError, "alpha"),
        ([0.1], "0.1", TypeError, "alpha"),
        ([0.1], ["0.1"], TypeError, "alpha"),
        ([0.1], [], ValueError, "alpha"),
        ([0.1], [[0.1]], ValueError, "alpha"),
        (torch.tensor([0.1, math.nan]), 0.1, ValueError, "NaN.*index 1"),
        (torch.tensor([]), 0.1, ValueError, "empty"),
    ],
)
def test_bad_input(scores: object, alpha: object, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        quantile(scores, alpha)
