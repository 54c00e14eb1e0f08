"""E-values have expectation one, translate, merge, and reject at their rate."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trustml.evidence import (
    benjamini_hochberg,
    discovery_evalues,
    e_benjamini_hochberg,
    e_to_p,
    evalues,
    merge_evalues,
    p_to_e,
    pvalues,
)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.sampled_from([0.2, 0.5, None]))
def test_an_e_value_is_worth_no_less_than_it_came_from(p: list[float], kappa: float) -> None:
    assert (e_to_p(p_to_e(p, kappa)) >= np.asarray(p) - 1e-12).all()


def test_p_to_e_has_expectation_one() -> None:
    grid = (np.arange(10**6) + 0.5) / 10**6
    assert p_to_e(grid, 0.5).mean() == pytest.approx(1, abs=1e-3)
    # The average over kappa has so heavy a tail that a grid misses some of it: below 1, near it.
    grid = (np.arange(10**5) + 0.5) / 10**5
    assert 0.85 < p_to_e(grid, None).mean() < 1


def test_the_average_over_kappa_is_the_closed_form() -> None:
    p = np.array([1e-300, 1e-9, 0.01, 0.3, 0.999])
    closed = (1 - p + p * np.log(p)) / (p * np.log(p) ** 2)
    np.testing.assert_allclose(p_to_e(p, None), closed, rtol=1e-6)
    assert p_to_e([1.0, 0.0], None).tolist() == [0.5, np.inf]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=2, max_size=12))
def test_over_all_places_conformal_e_values_average_to_one(scores: list[float]) -> None:
    values = np.array(scores)
    e = [evalues(np.delete(values, i), values[i : i + 1])[0] for i in range(len(values))]
    assert np.mean(e) == pytest.approx(1)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=20),
    st.lists(st.integers(0, 15), min_size=1, max_size=12),
    st.integers(1, 60),
)
def test_discovery_evalues_reject_what_benjamini_hochberg_rejects(
    cal: list[int], new: list[int], percent: int
) -> None:
    q = percent / 100
    e = discovery_evalues(cal, new, q)
    expected = benjamini_hochberg(pvalues(cal, new), q)
    assert e_benjamini_hochberg(e, q).tolist() == expected.tolist()
    # Less than the threshold is worth nothing; all others are worth the same.
    assert len(set(e[e > 0])) <= 1


def test_e_bh_equals_its_definition() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        e, q = rng.exponential(15, size=12), 0.3
        kept = [k for k in range(1, 13) if np.sort(e)[-k] >= 12 / (q * k)]
        expected = e >= np.sort(e)[-max(kept)] if kept else np.zeros(12, dtype=bool)
        assert e_benjamini_hochberg(e, q).tolist() == expected.tolist()


def test_merging() -> None:
    e = [[4.0, 0.5], [1.0, 0.0], [1.0, 1.0]]
    np.testing.assert_allclose(merge_evalues(e), [2.0, 0.5])
    np.testing.assert_allclose(merge_evalues(e, independent=True), [4.0, 0.0])
    assert merge_evalues([4.0, 2.0]) == 3.0
    assert isinstance(merge_evalues(torch.tensor(e)), torch.Tensor)
    assert isinstance(evalues(torch.ones(3), torch.ones(2)), torch.Tensor)


@pytest.mark.parametrize(
    ("call", "text"),
    [(lambda: e_to_p([-1.0]), "logs"), (lambda: e_to_p([np.nan]), "NaN"),
     (lambda: p_to_e([0.5], kappa=1), "kappa"), (lambda: merge_evalues([-1.0, 2.0]), "logs"),
     (lambda: merge_evalues([[[1.0]]]), "k e-values"), (lambda: evalues([-1.0], [1.0]), "least 0"),
     (lambda: evalues([[1.0]], [1.0]), "1-d"), (lambda: evalues([1.0], [np.inf]), "finite"),
     (lambda: discovery_evalues([1.0], [1.0], 0), "q must"),
     (lambda: e_benjamini_hochberg([1.0], 1), "q must")],
)  # fmt: skip
def test_bad_input(call: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()
