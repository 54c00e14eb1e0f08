"""Pipelines: scalers as layers, encoders as a prefix, inputs in the user's units."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import SelectKBest, VarianceThreshold
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)

from trustml.model import wrap

TIGHT = {"tol": 1e-11, "max_iter": 20_000}

SCALERS = [
    StandardScaler(),
    StandardScaler(with_mean=False),
    StandardScaler(with_std=False),
    MinMaxScaler((-1, 2)),
    MinMaxScaler(clip=True),
    MaxAbsScaler(),
    RobustScaler(),
    RobustScaler(with_centering=False, with_scaling=False),
    PCA(3),
    PCA(3, whiten=True),
    TruncatedSVD(2, random_state=0),
    Normalizer(),
    Normalizer("l1"),
    Normalizer("max"),
    SelectKBest(k=2),
    VarianceThreshold(0.1),
    "passthrough",
]


@pytest.fixture(scope="module")
def raw():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 5)) * [1, 10, 0.1, 3, 1] + [0, 100, 0, -5, 2]
    y = (X[:, 0] + (X[:, 1] - 100) / 10 + rng.normal(size=120) > 0).astype(int)
    return X, y


@pytest.fixture(scope="module")
def people():
    rng = np.random.default_rng(1)
    n = 150
    frame = pd.DataFrame(
        {
            "age": rng.integers(18, 80, n).astype(float),
            "income": rng.lognormal(10, 1, n),
            "city": rng.choice(["Rome", "Oslo", "Lima"], n),
            "grade": rng.choice(["low", "mid", "high"], n),
        }
    )
    frame.loc[3, "age"] = np.nan
    score = frame["age"].fillna(40) / 20 + (frame["city"] == "Oslo") + rng.normal(size=n)
    return frame, pd.Series(np.where(score > 2.4, "yes", "no"), name="granted")


def stationary(model):
    return float(
        model.objective.gradient().norm()
        / model.objective.per_example_gradients().norm(dim=1).mean()
    )


@pytest.mark.parametrize("scaler", SCALERS, ids=repr)
def test_differentiable_steps_become_layers(scaler, raw):
    X, y = raw
    estimator = Pipeline([("first", scaler), ("clf", LogisticRegression(C=0.5, **TIGHT))])
    estimator.fit(X, y)
    model = wrap(estimator, train=(X, y))
    far = X * 1.5 + 1  # beyond the fitted ranges too
    np.testing.assert_allclose(model.predict_proba(far), estimator.predict_proba(far), atol=1e-6)
    np.testing.assert_array_equal(model.predict(X), estimator.predict(X))
    np.testing.assert_allclose(model.features(far), estimator[:-1].transform(far), atol=1e-9)
    assert stationary(model) < 1e-6
    assert model.inputs(X).shape == X.shape  # the user's own units
    assert set(dict(model.module.named_parameters())) == {"linear.weight", "linear.bias"}


def test_gradients_are_in_the_users_units(raw):
    X, y = raw
    estimator = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    model = wrap(estimator, train=(X, y))
    x = model.continuous_inputs(X[:3], "a test").requires_grad_()
    (gradient,) = torch.autograd.grad(model.outputs(x).sum(), x)
    expected = estimator[-1].coef_[0] / estimator[0].scale_
    np.testing.assert_allclose(gradient.numpy(), np.tile(expected, (3, 1)))


def test_encoders_run_before_the_module(people):
    X, y = people
    prepare = ColumnTransformer(
        [
            ("number", make_pipeline(SimpleImputer(), StandardScaler()), ["age", "income"]),
            ("city", OneHotEncoder(), ["city"]),
            ("grade", OrdinalEncoder(categories=[["low", "mid", "high"]]), ["grade"]),
        ]
    )
    estimator = make_pipeline(prepare, StandardScaler(), LogisticRegression(**TIGHT)).fit(X, y)
    model = wrap(estimator, train=(X, y))
    np.testing.assert_allclose(model.predict_proba(X), estimator.predict_proba(X), atol=1e-6)
    np.testing.assert_array_equal(model.predict(X), estimator.predict(X))
    assert model.predict(X).tolist()[:3] == estimator.predict(X).tolist()[:3]
    assert model.inputs(X).shape == (150, 6)
    assert list(model.classes_) == ["no", "yes"]
    assert model.feature_names == list(X.columns)
    assert stationary(model) < 1e-6
    with pytest.raises(TypeError, match="PGD"):
        model.continuous_inputs(X, "PGD")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_sparse_encoders_and_other_transformers(people):
    X, y = people
    estimator = make_pipeline(
        make_column_transformer((OneHotEncoder(), ["city", "grade"])),
        PolynomialFeatures(2),
        FunctionTransformer(np.sqrt),
        MaxAbsScaler(),
        MLPClassifier((3,), max_iter=5, random_state=0, early_stopping=True),
    ).fit(X, y)
    model = wrap(estimator, train=(X, y))
    np.testing.assert_allclose(model.predict_proba(X), estimator.predict_proba(X), atol=1e-6)


def test_a_scaler_before_an_encoder_stays_in_the_prefix(raw):
    X, y = raw
    estimator = make_pipeline(StandardScaler(), PolynomialFeatures(2), Ridge()).fit(X, y * 1.0)
    model = wrap(estimator, train=(X, y * 1.0))
    assert model.inputs(X).shape == (120, 21)
    np.testing.assert_allclose(model.predict(X), estimator.predict(X))


def test_subclasses_are_not_taken_for_the_originals(raw):
    class Doubler(StandardScaler):
        def transform(self, X, copy=None):
            return 2 * super().transform(X)

    X, y = raw
    estimator = make_pipeline(Doubler(), LogisticRegression()).fit(X, y)
    np.testing.assert_allclose(
        wrap(estimator).predict_proba(X), estimator.predict_proba(X), atol=1e-12
    )


def test_step_named_like_the_head(raw):
    X, y = raw
    estimator = Pipeline([("linear", StandardScaler()), ("clf", LogisticRegression())]).fit(X, y)
    model = wrap(estimator, train=(X, y))
    np.testing.assert_allclose(model.predict_proba(X), estimator.predict_proba(X))
    assert model.head_name == "linear"


def test_frame_columns_are_checked_by_name(raw):
    X, y = raw
    frame = pd.DataFrame(X, columns=list("abcde"))
    model = wrap(make_pipeline(StandardScaler(), LogisticRegression()).fit(frame, y))
    np.testing.assert_allclose(model.predict_proba(frame), model.predict_proba(X))
    with pytest.raises(ValueError, match="another order"):
        model.predict(frame[list("edcba")])
    with pytest.raises(ValueError, match="lacks the columns"):
        model.predict(frame.rename(columns={"a": "z"}))


def test_arrays_reach_pipelines_fitted_on_frames(people):
    X, y = people
    estimator = make_pipeline(
        make_column_transformer((OneHotEncoder(), ["city", "grade"])), LogisticRegression()
    ).fit(X[["city", "grade"]], y)
    model = wrap(estimator)
    rows = X[["city", "grade"]].to_numpy()
    np.testing.assert_allclose(
        model.predict_proba(rows), estimator.predict_proba(X[["city", "grade"]])
    )


def test_missing_values_reach_the_imputer_and_nothing_else(people):
    X, y = people
    imputed = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression())
    numbers = X[["age", "income"]]
    assert wrap(imputed.fit(numbers, y)).predict(numbers).shape == (150,)
    plain = make_pipeline(StandardScaler(), LogisticRegression()).fit(numbers.dropna(), y.drop(3))
    with pytest.raises(ValueError, match="NaN"):
        wrap(plain).predict(numbers)


def test_text():
    words = ["good film", "bad film", "good plot", "bad plot", "good", "bad"] * 5
    y = ["up", "down"] * 15
    estimator = make_pipeline(TfidfVectorizer(), LogisticRegression(**TIGHT)).fit(words, y)
    model = wrap(estimator, train=(words, y))
    np.testing.assert_allclose(model.predict_proba(words), estimator.predict_proba(words))
    assert model.predict(["good", "bad"]).tolist() == ["up", "down"]
    assert stationary(model) < 1e-6
    assert len(model.retrain(range(20)).train) == 20
    forest = make_pipeline(TfidfVectorizer(), RandomForestClassifier(3)).fit(words, y)
    np.testing.assert_array_equal(wrap(forest).predict(words), forest.predict(words))


def test_sparse_rows(raw):
    X, y = raw
    sparse = csr_matrix(np.where(X > 1, X, 0))
    estimator = make_pipeline(MaxAbsScaler(), LogisticRegression(**TIGHT)).fit(sparse, y)
    model = wrap(estimator, train=(sparse, y))
    np.testing.assert_allclose(
        model.predict_proba(sparse), estimator.predict_proba(sparse), atol=1e-9
    )
    assert stationary(model) < 1e-6


def test_a_search_at_the_end(raw):
    X, y = raw
    search = GridSearchCV(LogisticRegression(**TIGHT), {"C": [0.1, 1.0]}, cv=2)
    estimator = make_pipeline(StandardScaler(), search).fit(X, y)
    model = wrap(estimator, train=(X, y))
    np.testing.assert_allclose(model.predict_proba(X), estimator.predict_proba(X))
    assert stationary(model) < 1e-6
    assert stationary(model.retrain(np.arange(100))) < 1e-6


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_models_can_be_stored(people, raw):
    X, y = people
    encoded = make_pipeline(
        make_column_transformer((OneHotEncoder(), ["city"]), remainder="drop"),
        LogisticRegression(class_weight="balanced"),
    ).fit(X, y)
    table, labels = raw
    for estimator, train in (
        (encoded, (X, y)),
        (MLPClassifier((2,), max_iter=3, random_state=0).fit(table, labels), (table, labels)),
        (Ridge().fit(table, labels), (table, labels)),
        (RandomForestClassifier(2).fit(table, labels), (table, labels)),
    ):
        model = wrap(estimator, train=train)
        again = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(again.predict(train[0]), model.predict(train[0]))
        assert len(again.retrain(range(100)).train) == 100
