"""Each score's p-value among all before it, by definition; independent and uniform."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from trustml.evidence import online_pvalues, pvalues
from trustml.evidence._online_pvalues import OnlineRanks


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.lists(st.integers(0, 5)))
def test_each_equals_its_definition(stream: list[int], before: list[int]) -> None:
    scores, cal = np.array(stream, float), np.array(before, float)
    u = 1 - np.random.default_rng(5).random(len(scores))
    found = OnlineRanks(cal).add(scores, u)
    for i, s in enumerate(scores):
        past = np.concatenate([cal, scores[:i]])
        expected = pvalues(past, [s], uniforms=u[i])[0] if len(past) else u[i]
        assert found[i] == pytest.approx(expected, abs=1e-12)


def test_one_by_one_is_the_same_as_at_once() -> None:
    rng = np.random.default_rng(0)
    scores, u = rng.normal(size=700).round(1), 1 - rng.random(700)
    together = OnlineRanks(scores[:50]).add(scores[50:], u[50:])
    ranks = OnlineRanks(scores[:50])
    alone = np.concatenate([ranks.add(scores[i : i + 1], u[i : i + 1]) for i in range(50, 700)])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(ranks.sorted, np.sort(scores))


def test_independent_and_uniform() -> None:
    scores = np.random.default_rng(2).poisson(2.0, size=4000)  # many ties
    p = online_pvalues(scores, 0)
    assert kstest(p, "uniform").pvalue > 1e-4
    # One p-value says nothing of the next: the correlation's standard error is 1 / sqrt(4000).
    assert abs(np.corrcoef(p[:-1], p[1:])[0, 1]) < 4 / np.sqrt(4000)


def test_kinds_and_seeds() -> None:
    stream = torch.tensor([1.0, 2.0, 0.5])
    found = online_pvalues(stream, 3)
    assert isinstance(found, torch.Tensor)
    np.testing.assert_array_equal(found.numpy(), online_pvalues(stream.numpy(), 3))
    assert (online_pvalues(stream, 4) != found).any()
    with pytest.raises(ValueError, match="NaN"):
        online_pvalues([0.0, np.nan])
