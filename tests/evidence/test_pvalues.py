"""Conformal p-values are ranks, and super-uniform."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trustml.evidence import conformal_rank, ks_test, pvalues, quantile

small = st.integers(0, 8).map(float)  # many ties


@settings(max_examples=25, deadline=None)
@given(st.lists(small, min_size=1, max_size=30), st.lists(small, min_size=1, max_size=10))
def test_equals_the_count(calibration: list, scores: list) -> None:
    expected = [(1 + sum(c >= s for c in calibration)) / (len(calibration) + 1) for s in scores]
    np.testing.assert_allclose(pvalues(calibration, scores), expected, rtol=1e-15)
    smooth = pvalues(calibration, scores, random_state=0)
    above = [sum(c > s for c in calibration) / (len(calibration) + 1) for s in scores]
    assert (smooth <= expected).all()
    assert (smooth > above).all()


@settings(max_examples=25, deadline=None)
@given(st.lists(small, min_size=20, max_size=40), st.lists(small, min_size=1, max_size=10),
       st.integers(5, 95))  # fmt: skip
def test_p_exceeds_alpha_exactly_below_the_quantile(
    calibration: list, scores: list, percent: int
) -> None:
    if conformal_rank(len(calibration), percent / 100) > len(calibration):
        return
    accepted = np.asarray(scores) <= quantile(calibration, percent / 100)
    ranks = np.rint(pvalues(calibration, scores) * (len(calibration) + 1)).astype(int)
    assert (accepted == (100 * ranks > percent * (len(calibration) + 1))).all()


def test_super_uniform_conservative_and_uniform_when_smoothed() -> None:
    rng = np.random.default_rng(3)
    plain, smooth = [], []
    for _ in range(2000):
        scores = rng.integers(0, 6, size=31)  # heavy ties
        plain.append(pvalues(scores[:30], scores[30:])[0])
        smooth.append(pvalues(scores[:30], scores[30:], random_state=rng)[0])
    # One-sided: the distribution function must not rise above that of the uniform.
    assert ks_test(plain, alternative="greater").p_value > 1e-4
    assert ks_test(smooth).p_value > 1e-4
    assert np.mean(plain) > np.mean(smooth) + 0.05


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(small, st.integers(0, 5)), min_size=1, max_size=30),
       st.lists(st.tuples(small, st.integers(1, 5)), min_size=1, max_size=10))  # fmt: skip
def test_weights_count_as_repeats(rows: list, new: list) -> None:
    calibration, weights = map(np.array, zip(*rows, strict=True))
    scores, own = map(np.array, zip(*new, strict=True))
    expected, above = (
        np.array([((weights[keep(s)].sum() + o) / (weights.sum() + o)) for s, o in new])
        for keep in (lambda s: calibration >= s, lambda s: calibration > s)
    )
    above = above - own / (weights.sum() + own)
    p = pvalues(calibration, scores, weights=weights, test_weights=own)
    np.testing.assert_allclose(p, expected, rtol=1e-14)
    u = np.linspace(0.1, 1, len(scores))
    smooth = pvalues(calibration, scores, weights=weights, test_weights=own, uniforms=u)
    np.testing.assert_allclose(smooth, above + u * (expected - above), rtol=1e-12, atol=1e-15)
    # Weights have no scale.
    scaled = pvalues(calibration, scores, weights=weights * 0.37, test_weights=own * 0.37)
    np.testing.assert_allclose(scaled, p, rtol=1e-12)


def test_labels_of_a_row_share_or_have_weights_and_uniforms() -> None:
    rng = np.random.default_rng(0)
    calibration, scores, w = rng.normal(size=30), rng.normal(size=(7, 3)), rng.random(30)
    own, u = rng.random(7), 1 - rng.random(7)
    p = pvalues(calibration, scores, weights=w, test_weights=own, uniforms=u)
    assert p.shape == (7, 3)
    for k in range(3):
        alone = pvalues(calibration, scores[:, k], weights=w, test_weights=own, uniforms=u)
        np.testing.assert_array_equal(p[:, k], alone)
    full = [np.repeat(v[:, None], 3, axis=1) for v in (own, u)]
    each = pvalues(calibration, scores, weights=w, test_weights=full[0], uniforms=full[1])
    np.testing.assert_array_equal(p, each)
    tensor = pvalues(calibration, torch.from_numpy(scores), uniforms=0.5)
    assert isinstance(tensor, torch.Tensor)
    assert tensor.shape == (7, 3)


def test_weighted_p_values_are_uniform_under_a_known_shift() -> None:
    rng = np.random.default_rng(7)
    ratio = lambda x: 0.5 * np.exp(0.375 * x**2)  # noqa: E731
    plain, smooth, naive = [], [], []
    for _ in range(1500):
        cal, new = rng.normal(size=60), rng.normal(scale=2, size=1)
        weights = {"weights": ratio(cal), "test_weights": ratio(new)}
        plain.append(pvalues(np.abs(cal), np.abs(new), **weights)[0])
        smooth.append(pvalues(np.abs(cal), np.abs(new), random_state=rng, **weights)[0])
        naive.append(pvalues(np.abs(cal), np.abs(new))[0])
    assert ks_test(plain, alternative="greater").p_value > 1e-4
    assert ks_test(smooth).p_value > 1e-4
    assert ks_test(naive, alternative="greater").p_value < 1e-4


def test_cost_is_a_sort_and_searches_not_all_pairs() -> None:
    # 2e5 x 1e5 pairs would be 160 GB.
    rng = np.random.default_rng(0)
    calibration, scores = rng.normal(size=100_000), rng.normal(size=(20_000, 10))
    p = pvalues(calibration, scores)
    assert ks_test(p[:, 0]).p_value > 1e-4
    weighted = pvalues(calibration, scores, weights=np.full(100_000, 0.1), test_weights=0.1)
    np.testing.assert_allclose(weighted, p, rtol=1e-9)


def test_kind_seed_and_global_state() -> None:
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    torch_state = torch.get_rng_state()
    p = pvalues(torch.arange(9.0), torch.tensor([0.5, 20.0]), random_state=1)
    assert isinstance(p, torch.Tensor)
    again = pvalues(np.arange(9.0), [0.5, 20.0], random_state=1)
    np.testing.assert_array_equal(p.numpy(), again)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_infinite_scores_are_ranked() -> None:
    assert pvalues([0.0, np.inf], [np.inf, -np.inf]).tolist() == [2 / 3, 1.0]


@pytest.mark.parametrize(
    ("calibration", "scores", "text"),
    [([], [1.0], "cal_scores is empty"), ([1.0], [], "scores is empty"),
     ([np.nan], [1.0], "cal_scores has NaN"), ([1.0], [np.nan], "scores has NaN"),
     ([[1.0]], [1.0], "1-d"), ([1.0], [[[1.0]]], "1-d or 2-d")],
)  # fmt: skip
def test_bad_input(calibration: list, scores: list, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        pvalues(calibration, scores)


@pytest.mark.parametrize(
    ("keywords", "text"),
    [({"weights": [1.0, 1.0]}, "go together"), ({"test_weights": 1.0}, "go together"),
     ({"weights": [1.0], "test_weights": 1.0}, r"shape \(2,\)"),
     ({"weights": [1.0, 1.0], "test_weights": [1.0, 1.0]}, "one a row"),
     ({"weights": [1.0, -1.0], "test_weights": 1.0}, "at least 0"),
     ({"weights": [1.0, 1.0], "test_weights": np.nan}, "NaN"),
     ({"weights": [0.0, 0.0], "test_weights": 0.0}, "all zero"),
     ({"uniforms": 0.0}, r"\(0, 1\]"), ({"uniforms": 1.5}, r"\(0, 1\]"),
     ({"uniforms": [0.5, 0.5]}, "one a row"),
     ({"uniforms": 0.5, "random_state": 0}, "not both")],
)  # fmt: skip
def test_bad_weights_and_uniforms(keywords: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        pvalues([1.0, 2.0], [[1.0, 2.0, 3.0]], **keywords)
