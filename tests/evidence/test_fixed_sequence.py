"""A fixed sequence stops at the first failure, and its family-wise error rate holds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from trustml.evidence import fixed_sequence


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(1, 30), st.floats(0.01, 0.9))
def test_equals_the_walk(p: list[float], starts: int, alpha: float) -> None:
    starts = min(starts, len(p))
    rejected = [False] * len(p)
    for start in range(starts):
        i = start * len(p) // starts
        while i < len(p) and p[i] <= alpha / starts:
            rejected[i] = True
            i += 1
    assert fixed_sequence(p, alpha, starts).tolist() == rejected


@pytest.mark.parametrize("starts", [1, 4, 20])
def test_family_wise_error(starts: int) -> None:
    # 3 false hypotheses first, then 17 true ones that share their data as thresholds do.
    rng, runs = np.random.default_rng(0), 2000
    wrong = 0
    for _ in range(runs):
        p = np.concatenate([np.full(3, 1e-4), np.repeat(rng.uniform(size=4), 5)[:17]])
        wrong += fixed_sequence(p, 0.1, starts)[3:].any()
    assert wrong <= binom.ppf(1 - 1e-5, runs, 0.1)


def test_several_starts_forgive_a_bad_beginning() -> None:
    p = [0.5, *[1e-3] * 9]
    assert not fixed_sequence(p, 0.1).any()
    assert fixed_sequence(p, 0.1, starts=2)[5:].all()


def test_kinds_and_bad_input() -> None:
    assert torch.equal(fixed_sequence(torch.tensor([0.0, 1.0]), 0.1), torch.tensor([True, False]))
    for arguments, text in (
        (([], 0.1), "empty"), (([np.nan], 0.1), "NaN"), (([0.5], 0.1, 2), "at most"),
        (([0.5], 0.1, 0), "starts"), (([0.5], 1.0), "alpha"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            fixed_sequence(*arguments)
