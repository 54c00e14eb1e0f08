"""Drift: false alarms, power, where."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

import trustml
from trustml.ood import drift_test

pd = pytest.importorskip("pandas")
METHODS = ["mmd", "energy", "ks"]


@pytest.mark.parametrize("method", METHODS)
def test_same_distribution_is_no_drift_and_a_shift_is(digits, method):
    half = digits.X_test[:200], digits.X_test[200:400]
    still = drift_test(digits.model, *half, method=method, n_permutations=99)
    moved = drift_test(
        digits.model, half[0], np.clip(half[1] + 0.3, 0, 1), method=method, n_permutations=99
    )
    assert still.p_value > 0.05
    assert moved.p_value <= 0.01
    assert moved.effect_size > still.effect_size
    assert moved.on == "features"
    assert moved.n == (200, 200)


@pytest.mark.parametrize("method", METHODS)
def test_p_values_are_valid_under_the_null(method):
    model = trustml.precomputed("features")
    rng = np.random.default_rng(0)
    p = [
        drift_test(
            model, rng.normal(size=(25, 2)), rng.normal(size=(25, 2)),
            method=method, n_permutations=39, random_state=i,
        ).p_value
        for i in range(100)
    ]  # fmt: skip
    assert np.mean(np.array(p) <= 0.1) <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 100)


def test_effect_size_does_not_grow_with_n():
    model = trustml.precomputed("features")
    rng = np.random.default_rng(0)
    effects = [
        drift_test(
            model, rng.normal(size=(n, 2)), rng.normal(size=(n, 2)) + 0.5,
            method="energy", n_permutations=19,
        ).effect_size
        for n in (200, 800)
    ]  # fmt: skip
    assert effects[1] == pytest.approx(effects[0], rel=0.5)


def test_by_feature_names_the_column_that_moved():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 4))
    model = LogisticRegression().fit(X, X[:, 0] > 0)
    new = rng.normal(size=(200, 4))
    new[:, 2] += 1
    found = drift_test(model, X, new, n_permutations=19).by_feature
    assert found.of == "inputs"
    assert found.names == ("x0", "x1", "x2", "x3")
    assert found.top(1) == ["x2"]
    assert (found.adjusted_p_value <= 0.05).tolist() == [False, False, True, False]
    expected = ks_2samp(X[:, 2], new[:, 2])
    assert found.statistic[2] == pytest.approx(expected.statistic)
    assert found.p_value[2] == pytest.approx(expected.pvalue)
    assert len(found.to_frame()) == len(found) == 4
    assert repr(found).startswith("DriftByFeature(4 inputs, most moved: x2")


def test_frames_give_the_names():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(60, 2)), columns=["age", "income"])
    model = LogisticRegression().fit(X, X["age"] > 0)
    new = X.assign(income=X["income"] + 3)
    result = drift_test(model, X, new, n_permutations=19)
    assert result.by_feature.top(1) == ["income"]
    assert list(result.by_feature.to_frame()["feature"]) == ["age", "income"]
    assert result.to_frame()["p_value"][0] == result.p_value


def test_prediction_only_models_are_compared_by_their_outputs(digits):
    forest = RandomForestClassifier(20, random_state=0).fit(digits.X_train, digits.y_train)
    result = drift_test(forest, digits.X_test[:150], 1 - digits.X_test[150:300], n_permutations=99)
    assert result.on == "outputs"
    assert result.p_value <= 0.01
    with pytest.raises(ValueError, match="on='features' needs features"):
        drift_test(forest, digits.X_test[:10], digits.X_test[10:20], on="features")


def test_inputs_may_be_compared_and_may_be_no_table(digits):
    rows = digits.X_test[:40], digits.X_test[40:80]
    assert drift_test(digits.model, *rows, on="inputs", n_permutations=19).on == "inputs"
    data = [torch.utils.data.TensorDataset(torch.tensor(X), torch.zeros(40)) for X in rows]
    result = drift_test(digits.model, *data, n_permutations=19)
    assert result.by_feature.of == "features"
    assert len(result.by_feature) == 32
    with pytest.raises(ValueError, match="on='inputs' needs arrays"):
        drift_test(digits.model, *data, on="inputs")


@settings(max_examples=10, deadline=None)
@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 50))
def test_units_do_not_matter(scale, seed):
    rng = np.random.default_rng(seed)
    X, Y = rng.normal(size=(20, 3)), rng.normal(size=(30, 3))
    model = trustml.precomputed("features")
    a = drift_test(model, X, Y, n_permutations=19)
    b = drift_test(model, scale * X, scale * Y, n_permutations=19)
    assert a.p_value == b.p_value
    assert a.statistic == pytest.approx(b.statistic, rel=1e-6)


def test_nothing_is_drawn_from_the_global_generators(digits):
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    args = digits.model, digits.X_test[:30], digits.X_test[30:60]
    first = drift_test(*args, n_permutations=19, random_state=3)
    assert drift_test(*args, n_permutations=19, random_state=3).p_value == first.p_value
    assert torch.equal(torch.get_rng_state(), torch_before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


def test_bad_input_is_refused(digits):
    X = digits.X_test[:20]
    with pytest.raises(ValueError, match="method must be one of 'mmd'"):
        drift_test(digits.model, X, X, method="psi")
    with pytest.raises(ValueError, match="on must be one of 'features'"):
        drift_test(digits.model, X, X, on="pixels")
    with pytest.raises(ValueError, match="NaN"):
        drift_test(digits.model, X, np.full_like(X, np.nan))
    with pytest.raises(ValueError, match="at least 2 rows"):
        drift_test(digits.model, X, X[:1])
