import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustml.robustness import Pgd, attack, robust_accuracy, robustness_curve


@settings(max_examples=10, deadline=None)
@given(grid=st.lists(st.floats(0, 0.6), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_the_curve_never_rises(smooth, grid, seed):
    model, X, y = smooth
    curve = robustness_curve(model, X, y, "linf", grid, Pgd(steps=5), random_state=seed)
    assert (np.diff(curve.eps) > 0).all()
    assert (np.diff(curve.estimate) <= 0).all()
    assert (curve.per_example[:, 1:] <= curve.per_example[:, :-1]).all()
    np.testing.assert_array_equal(curve.per_example, curve.smallest[:, None] > curve.eps)
    assert (curve.low <= curve.estimate).all()
    assert (curve.estimate <= curve.high).all()


def test_it_agrees_with_separate_runs_on_a_linear_model(binary, iris):
    X, y = iris[0], iris[1] > 0
    grid = [0.0, 0.3, 0.6, 0.9, 1.2]
    curve = robustness_curve(binary, X, y, "l2", grid[::-1], random_state=0)
    apart = [robust_accuracy(binary, X, y, "l2", eps, random_state=0) for eps in grid]
    np.testing.assert_allclose(curve.estimate, [r.estimate for r in apart])
    np.testing.assert_allclose(curve.low, [r.interval.low for r in apart])
    assert 0 < curve.estimate[-1] < curve.estimate[0]


def test_one_failed_run_a_row_is_all_it_costs(smooth):
    model, X, y = smooth
    grid = np.linspace(0.02, 0.3, 8)
    curve = robustness_curve(model, X, y, "linf", grid, "pgd", random_state=0)
    apart = [attack(model, X, y, "pgd", "linf", eps, random_state=0) for eps in grid]
    assert curve.backwards < 0.5 * sum(int(r.backwards.sum()) for r in apart)


def test_bad_grids(linear, iris):
    for grid in ([], 0.1, "0.1"):
        with pytest.raises(ValueError, match="eps_grid must be a sequence"):
            robustness_curve(linear, *iris, "linf", grid)
    with pytest.raises(ValueError, match="not negative"):
        robustness_curve(linear, *iris, "linf", [0.1, -0.1])
    with pytest.raises(ValueError, match="same length"):
        robustness_curve(linear, iris[0], iris[1][:-2], "linf", [0.1])
