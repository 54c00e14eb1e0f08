"""The Hoeffding-Bentkus p-value is valid at the boundary and monotone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from trustml.evidence import hoeffding_bentkus_pvalue


@pytest.mark.parametrize(("n", "alpha"), [(20, 0.1), (200, 0.1), (100, 0.5)])
def test_super_uniform_at_the_boundary(n: int, alpha: float) -> None:
    k = np.arange(n + 1)
    p = np.array([hoeffding_bentkus_pvalue(i / n, n, alpha) for i in k])
    law = binom.pmf(k, n, alpha)
    for level in (0.01, 0.05, 0.1, 0.2):
        assert law[p <= level].sum() <= level + 1e-12
    assert (np.diff(p) >= -1e-12).all()


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 1), st.integers(1, 500), st.floats(0.01, 0.99))
def test_is_a_probability_and_falls_with_n(risk: float, n: int, alpha: float) -> None:
    p = hoeffding_bentkus_pvalue(risk, n, alpha)
    assert 0 <= p <= 1
    if risk >= alpha:
        assert p == 1


def test_rounding_of_a_mean_costs_nothing() -> None:
    exact = hoeffding_bentkus_pvalue(3 / 30, 30, 0.4)
    assert hoeffding_bentkus_pvalue(0.1 + 1e-16, 30, 0.4) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [((1.5, 10, 0.1), "rescale"), ((np.nan, 10, 0.1), "rescale"), ((0.1, 0, 0.1), "n must"),
     ((0.1, 10, 1.0), "alpha")],
)  # fmt: skip
def test_bad_input(arguments: tuple, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        hoeffding_bentkus_pvalue(*arguments)
