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
     ([[1.0]], [1.0], "1-d")],
)  # fmt: skip
def test_bad_input(calibration: list, scores: list, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        pvalues(calibration, scores)
