"""Rejections equal the definitions in rational arithmetic; error rates hold by simulation."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, false_discovery_control, norm

from trustml.evidence import (
    adjust,
    benjamini_hochberg,
    benjamini_yekutieli,
    bonferroni,
    holm,
    pvalues,
    storey,
)

# p-values as conformal ranks over 40, levels as percents: ties of p m / k and q are common.
ranks = st.lists(st.integers(1, 40), min_size=1, max_size=25)
percents = st.integers(1, 50)


def reference_bh(ranks: list[int], level: Fraction) -> list[bool]:
    p = [Fraction(r, 40) for r in ranks]
    ordered = sorted(p)
    passing = [x for k, x in enumerate(ordered, 1) if x <= level * k / len(p)]
    return [x <= max(passing, default=Fraction(0)) for x in p]


@settings(max_examples=100, deadline=None)
@given(ranks, percents)
def test_step_up_and_step_down_equal_their_definitions(ranks: list[int], percent: int) -> None:
    p, q = np.array(ranks) / 40, percent / 100
    level, m = Fraction(percent, 100), len(ranks)
    assert benjamini_hochberg(p, q).tolist() == reference_bh(ranks, level)
    harmonic = sum(Fraction(1, k) for k in range(1, m + 1))
    assert benjamini_yekutieli(p, q).tolist() == reference_bh(ranks, level / harmonic)
    kept = []
    for k, rank in enumerate(sorted(ranks)):
        if Fraction(rank, 40) * (m - k) > level:
            break
        kept.append(rank)
    assert holm(p, q).tolist() == [r in kept for r in ranks]
    assert bonferroni(p, q).tolist() == [Fraction(r, 40) * m <= level for r in ranks]


@pytest.mark.parametrize(("m", "rank", "percent"), [(3, 2, 15), (3, 16, 40), (6, 2, 30)])
def test_a_tie_of_ranks_and_level_is_a_rejection(m: int, rank: int, percent: int) -> None:
    # 2 / 40 times 3 is 0.15, and in floats more: equality must reject all the same.
    assert rank / 40 * m > percent / 100 or rank / 40 > percent / 100
    k = Fraction(rank * m * 100, 40 * percent)
    p = np.array([rank / 40] * int(k) + [1.0] * (m - int(k)))
    assert benjamini_hochberg(p, percent / 100).sum() == k


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_adjusted_values_are_scipys(p: list[float]) -> None:
    for ours, theirs in (("bh", "bh"), ("by", "by")):
        expected = false_discovery_control(p, method=theirs)
        np.testing.assert_allclose(adjust(p, ours), expected, rtol=1e-12)
    assert (adjust(p, "bonferroni") >= adjust(p, "holm")).all()
    assert (adjust(p, "holm") >= np.asarray(p)).all()


def test_storey_finds_more_when_many_nulls_are_false() -> None:
    rng = np.random.default_rng(0)
    p = np.concatenate([norm.sf(rng.normal(2.5, 1, 150)), rng.uniform(size=50)])
    assert storey(p, 0.1).sum() > benjamini_hochberg(p, 0.1).sum()
    assert not storey([0.51, 0.6, 0.7], 0.99).any()


@settings(max_examples=50, deadline=None)
@given(ranks, percents, st.sampled_from([10, 20, 30]))
def test_storey_equals_its_definition(ranks: list[int], percent: int, tuning: int) -> None:
    m, level = len(ranks), Fraction(percent, 100)
    share = Fraction((1 + sum(r > tuning for r in ranks)) * 40, m * (40 - tuning))
    at_most = reference_bh(ranks, level / share)
    expected = [r <= tuning and hit for r, hit in zip(ranks, at_most, strict=True)]
    assert storey(np.array(ranks) / 40, percent / 100, tuning / 40).tolist() == expected


def test_bh_holds_its_rate_with_conformal_p_values() -> None:
    # E[FDP] <= q m0 / m; a share of false rejections lies in [0, 1], so by Hoeffding the mean
    # of 400 runs exceeds q by 0.09 with probability below exp(-2 * 400 * 0.09^2) = 0.0016.
    rng, q, shares, found = np.random.default_rng(7), 0.2, [], []
    for _ in range(400):
        calibration = rng.normal(size=200)
        scores = np.concatenate([rng.normal(size=40), rng.normal(3.0, 1.0, size=10)])
        rejected = benjamini_hochberg(pvalues(calibration, scores), q)
        shares.append(rejected[:40].sum() / max(1, rejected.sum()))
        found.append(rejected[40:].mean())
    assert np.mean(shares) <= q + 0.09
    assert np.mean(shares) > q * 0.8 - 0.09  # BH is tight here: m0 / m = 0.8
    assert np.mean(found) > 0.5


@pytest.mark.parametrize("procedure", [holm, bonferroni])
def test_family_wise_error(procedure: object) -> None:
    rng, runs = np.random.default_rng(1), 1000
    wrong = sum(procedure(rng.uniform(size=20), 0.1).any() for _ in range(runs))
    # False alarm of this test: P(Bin(1000, 0.1) > bound) < 1e-4.
    assert wrong <= binom.ppf(1 - 1e-4, runs, 0.1)


def test_kinds() -> None:
    given = torch.tensor([0.01, 0.02, 0.9])
    assert torch.equal(benjamini_hochberg(given, 0.05), torch.tensor([True, True, False]))
    assert isinstance(adjust(given), torch.Tensor)
    assert benjamini_hochberg([0.9], 0.05).dtype == bool


@pytest.mark.parametrize(
    ("p", "q", "text"),
    [([], 0.1, "empty"), ([0.5, np.nan], 0.1, "NaN"), ([1.5], 0.1, r"\[0, 1\]"),
     ([-0.1], 0.1, r"\[0, 1\]"), ([0.5], 0.0, "q must"), ([0.5], 1.2, "q must"),
     ([[0.5]], 0.1, "1-d")],
)  # fmt: skip
def test_bad_input(p: list, q: float, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        benjamini_hochberg(p, q)


def test_bad_method() -> None:
    with pytest.raises(ValueError, match="'bh'"):
        adjust([0.1], "hochberg")
