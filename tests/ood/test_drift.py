"""Drift: false alarms, power, where."""

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, ks_2samp
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

import trustml
from trustml.evidence import classifier_test, hotelling_test
from trustml.ood import drift_test
from trustml.ood._drift_score import score_coordinates

pd = pytest.importorskip("pandas")
METHODS = ["mmd", "energy", "ks", "chi2", "mmd-fourier", "classifier", "score"]
SHUFFLED = ["mmd", "energy", "mmd-fourier"]


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
    assert moved.on == ("gradients" if method == "score" else "features")
    assert moved.n == (200, 200)


@pytest.mark.parametrize("method", [*SHUFFLED, "ks"])
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


def test_linear_time_is_for_many_rows():
    model = trustml.precomputed("features")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(5000, 2))
    moved = drift_test(model, X, rng.normal(0.6, 1, (4000, 2)), method="mmd-linear")
    assert moved.p_value < 1e-3
    assert moved.n == (4000, 4000)
    assert drift_test(model, X[:2500], X[2500:], method="mmd-linear").p_value > 1e-3


def test_a_test_of_your_own_is_given_scaled_rows():
    model = trustml.precomputed("features")
    rng = np.random.default_rng(0)
    X, Y = 1e3 * rng.normal(size=(40, 3)), 1e3 * rng.normal(size=(50, 3))
    own = partial(classifier_test, classifier=LogisticRegression(), random_state=0)
    found = drift_test(model, X, Y, method=own)
    assert found.method.startswith("classifier (LogisticRegression)")
    np.testing.assert_allclose(
        drift_test(model, X + 5, Y + 5, method=own).statistic, found.statistic
    )


@pytest.fixture(scope="module")
def linear():
    """A ridge regression, rows of its world, and the gradients of its squared error."""
    rng = np.random.default_rng(0)
    w = np.array([1.0, -2.0, 0.5])

    def draw(n, shift=0.0):
        X = rng.normal(size=(n, 3))
        return X, X @ w + 1 + rng.standard_t(5, n) + shift * X[:, 0]

    model = trustml.wrap(Ridge(alpha=1e-3).fit(*draw(500)))
    return model, draw


def test_the_score_test_is_hotellings_of_the_gradients(linear):
    model, draw = linear
    (X, y), (X_new, y_new) = draw(150), draw(120)
    rows = [
        2 * (model.predict(x) - t)[:, None] * np.c_[x, np.ones(len(x))]
        for x, t in ((X, y), (X_new, y_new))
    ]
    labels = {"y_ref": y, "y_new": y_new, "n_permutations": 0}
    found = drift_test(model, X, X_new, method="score", **labels)
    expected = hotelling_test(*rows, n_permutations=0)
    assert found.statistic == pytest.approx(expected.statistic, rel=1e-6)
    assert found.p_value == pytest.approx(expected.p_value, rel=1e-6)
    assert found.effect_size == pytest.approx(expected.effect_size, rel=1e-6)
    assert found.method == "hotelling, F(4, 265)", "as many degrees of freedom as parameters"
    # Without labels: the gradient of the prediction, (x, 1).
    blind = drift_test(model, X, X_new, method="score", n_permutations=0)
    of_inputs = hotelling_test(X, X_new, n_permutations=0)
    assert blind.statistic == pytest.approx(of_inputs.statistic, rel=1e-6)


def test_labels_let_the_score_test_see_what_no_input_shows(linear):
    model, draw = linear
    (X, y), (X_new, y_new) = draw(400), draw(400, shift=0.5)
    seen = drift_test(model, X, X_new, method="score", y_ref=y, y_new=y_new)
    assert seen.p_value == 1 / 500
    assert seen.by_feature.of == "inputs"
    assert drift_test(model, X, X_new, method="score").p_value > 0.01
    assert drift_test(model, X, X_new, on="inputs").p_value > 0.01


@pytest.mark.parametrize("n_permutations", [0, 99])
def test_the_score_tests_level(linear, n_permutations):
    model, draw = linear
    runs, alarms = 100, 0
    for i in range(runs):
        (X, y), (X_new, y_new) = draw(100), draw(80)
        labels = {"y_ref": y, "y_new": y_new, "random_state": i}
        found = drift_test(model, X, X_new, method="score", n_permutations=n_permutations, **labels)
        alarms += found.p_value <= 0.1
    low, high = binom.ppf([1e-4, 1 - 1e-4], runs, 0.1)
    assert low <= alarms <= high


def test_the_score_test_on_every_kind_of_model(digits):
    X, y = digits.X_test[:200].astype(np.float64), digits.y_test[:200]
    binary, several = (y > 4).astype(int), np.c_[y, -y].astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        models = [
            LogisticRegression(max_iter=50).fit(X, binary),
            LogisticRegression(max_iter=50).fit(X, y),
            Ridge().fit(X, several),
            MLPRegressor(hidden_layer_sizes=(8,), max_iter=30, random_state=0).fit(
                X, y.astype(float)
            ),
        ]
    for model in models:
        moved = drift_test(model, X[:100], X[100:] * 0.5, method="score", n_permutations=99)
        still = drift_test(model, X[:100], X[100:], method="score", n_permutations=99)
        assert moved.p_value <= still.p_value
        assert moved.p_value == 0.01
        assert moved.effect_size > still.effect_size
    forest = RandomForestClassifier(5, random_state=0).fit(X, y)
    with pytest.raises(TypeError, match="the score test"):
        drift_test(forest, X[:100], X[100:], method="score")


def test_all_parameters_may_be_asked(digits):
    X = digits.X_test[:120]
    first, second = score_coordinates(digits.model, X[:60], X[60:], parameters=None, n_directions=7)
    assert first.shape == second.shape == (60, 7)
    # Leading eigenvectors of the pooled gradients: uncorrelated coordinates, in order of size.
    gram = np.concatenate([first, second]).T @ np.concatenate([first, second])
    sizes = np.diag(gram)
    assert np.abs(gram - np.diag(sizes)).max() < 1e-4 * sizes[0]
    assert (np.diff(sizes) <= 0).all()


def test_datasets_and_models_of_categories(digits):
    data = [
        torch.utils.data.TensorDataset(torch.tensor(X), torch.zeros(60))
        for X in (digits.X_test[:60], 1 - digits.X_test[60:120])
    ]
    found = drift_test(digits.model, *data, method="score", n_permutations=19)
    assert (found.p_value, found.by_feature.of) == (0.05, "gradients")
    rng = np.random.default_rng(0)

    def table(n, odds):
        return pd.DataFrame(
            {"colour": rng.choice(["red", "blue", "green"], n, p=odds), "size": rng.normal(size=n)}
        )

    X = table(300, [0.5, 0.3, 0.2])
    encode = ColumnTransformer([("c", OneHotEncoder(), ["colour"])], remainder="passthrough")
    model = make_pipeline(encode, LogisticRegression()).fit(X, X["size"] > 0)
    new = table(200, [0.2, 0.3, 0.5])
    for method in ("mmd", "score"):
        found = drift_test(model, X, new, method=method, n_permutations=19)
        assert found.by_feature.test == ("chi2", "ks")
        assert found.by_feature.top(1) == ["colour"]
    assert drift_test(model, X, new, on="inputs", method="chi2").p_value < 1e-3
    with pytest.raises(ValueError, match="some input columns are no numbers"):
        drift_test(model, X, new, on="inputs")


def test_categories_are_named_or_seen():
    rng = np.random.default_rng(0)
    X, new = (np.c_[rng.integers(0, 3, 90), rng.integers(0, 30, 90)].astype(float) for _ in "ab")
    model = Ridge().fit(X, X[:, 0])
    assert drift_test(model, X, new).by_feature.test == ("chi2", "ks")
    assert drift_test(model, X, new, categorical=["x1"]).by_feature.test == ("ks", "chi2")
    assert drift_test(model, X, new, categorical=[]).by_feature.test == ("ks", "ks")
    with pytest.raises(ValueError, match=r"categorical names \['x7'\]"):
        drift_test(model, X, new, categorical=["x7"])


def test_a_change_of_what_is_missing_is_seen():
    rng = np.random.default_rng(0)
    X, new = rng.normal(size=(300, 2)), rng.normal(size=(300, 2))
    X[rng.random(300) < 0.05, 1] = np.nan
    new[rng.random(300) < 0.4, 1] = np.nan
    model = make_pipeline(SimpleImputer(), LogisticRegression()).fit(X, X[:, 0] > 0)
    found = drift_test(model, X, new, n_permutations=19).by_feature
    assert found.test == ("ks", "ks")
    assert found.adjusted_p_value[1] < 1e-6 < 0.01 < found.adjusted_p_value[0]


def test_the_correction_may_be_chosen():
    rng = np.random.default_rng(0)
    X, new = rng.normal(size=(100, 5)), rng.normal(0.3, 1, (100, 5))
    model = Ridge().fit(X, X[:, 0])
    found = [
        drift_test(model, X, new, correction=c, n_permutations=1).by_feature
        for c in ("bonferroni", "holm", "bh")
    ]
    assert (found[0].adjusted_p_value >= found[1].adjusted_p_value).all()
    assert (found[1].adjusted_p_value >= found[2].adjusted_p_value).all()
    np.testing.assert_array_equal(found[0].adjusted_p_value, np.minimum(1, 5 * found[0].p_value))


def test_bad_input_is_refused(digits):
    X = digits.X_test[:20]
    with pytest.raises(ValueError, match="labels are used by method='score' alone"):
        drift_test(digits.model, X, X, y_ref=digits.y_test[:20])
    with pytest.raises(ValueError, match="labels for both samples"):
        drift_test(digits.model, X, X, method="score", y_ref=digits.y_test[:20])
    labels = {"y_ref": digits.y_test[:20], "y_new": digits.y_test[:7]}
    with pytest.raises(ValueError, match="X has 20 rows, y has 7"):
        drift_test(digits.model, X, X, method="score", **labels)
    with pytest.raises(ValueError, match="compares gradients; leave on=None"):
        drift_test(digits.model, X, X, method="score", on="inputs")
    with pytest.raises(ValueError, match="correction must be one of 'holm'"):
        drift_test(digits.model, X, X, n_permutations=1, correction="none")
    with pytest.raises(ValueError, match="the same columns, got 3 and 2"):
        drift_test(trustml.precomputed("features"), np.ones((9, 3)), np.ones((9, 2)), method="ks")
    with pytest.raises(ValueError, match="method must be one of 'mmd'"):
        drift_test(digits.model, X, X, method="psi")
    with pytest.raises(ValueError, match="on must be one of 'features'"):
        drift_test(digits.model, X, X, on="pixels")
    with pytest.raises(ValueError, match="NaN"):
        drift_test(digits.model, X, np.full_like(X, np.nan))
    with pytest.raises(ValueError, match="at least 2 rows"):
        drift_test(digits.model, X, X[:1])
    with pytest.raises(ValueError, match="must not be empty"):
        drift_test(digits.model, X, X[:0])
    frame = pd.DataFrame(np.ones((9, 3)), columns=["a", "b", "c"])
    with pytest.raises(ValueError, match="same columns in different orders"):
        drift_test(trustml.precomputed("features"), frame, frame[["c", "a", "b"]])
