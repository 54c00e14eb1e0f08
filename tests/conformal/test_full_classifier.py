"""Full conformal classification: the step against closed forms and refits, kinds, bad input."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

import trustml
from trustml.conformal import FullClassifier
from trustml.conformal._proximal import pulls
from trustml.core.losses import BinaryCrossEntropy, CrossEntropy
from trustml.warnings import CoverageWarning

SCORES = pytest.mark.parametrize("score", ["deleted", "ordinary"])


@pytest.fixture(scope="module")
def iris() -> tuple:
    X, y = load_iris(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    return X[order], np.array(["a", "b", "c"])[y[order]]


def logistic(X: np.ndarray, y: np.ndarray) -> object:
    return LogisticRegression(C=1.0, tol=1e-10, solver="newton-cholesky").fit(X, y)


@pytest.mark.parametrize(("loss", "o"), [(CrossEntropy(), 4), (BinaryCrossEntropy(), 1)])
def test_the_step_solves_its_equations(loss: object, o: int) -> None:
    # u = -B grad(f + u), for confident and wrong outputs and for a singular B.
    rng = np.random.default_rng(0)
    f = torch.from_numpy(rng.normal(size=(30, o)) * 20)
    root = torch.from_numpy(rng.normal(size=(30, o, max(1, o - 2))))
    spread = 5 * root @ root.mT
    c = max(o, 2)
    pull = pulls(loss, f, spread, torch.arange(c).expand(30, c))
    u = pull.outputs - f[:, None]
    labels = torch.arange(c).repeat(30)
    gradient = loss.gradient(pull.outputs.reshape(-1, o), labels).reshape(30, c, o)
    torch.testing.assert_close(pull.gradient, gradient, rtol=0, atol=1e-9)
    torch.testing.assert_close(u, -(spread[:, None] @ gradient[..., None])[..., 0])


@SCORES
def test_near_refits_with_one_row_more(iris: tuple, score: str) -> None:
    X, y = iris[0][:40], iris[1][:40]
    model = trustml.wrap(logistic(X, y), train=(X, y))
    quick = FullClassifier(model, score).fit()
    found = quick.diagnose(iris[0][40:60], n_points=2 if score == "deleted" else 8)
    assert found.mean_gap < 0.02
    assert found.max_gap < 0.08
    assert found.agreement(0.2) > 0.9
    if score == "deleted":  # its refits are those of diagnose
        return
    exact = FullClassifier(model, score, refit=True).fit()
    rows = iris[0][40:60][found.rows[:1]]
    np.testing.assert_array_equal(exact.p_values(rows), found.refitted[:1])
    assert (
        exact.predict_set(rows, [0.1, 0.3]) == (exact.p_values(rows)[..., None] > [0.1, 0.3])
    ).all()


@SCORES
def test_two_classes_of_one_output(iris: tuple, score: str) -> None:
    X, y = iris[0][iris[1] != "a"], iris[1][iris[1] != "a"]
    model = trustml.wrap(logistic(X[:40], y[:40]), train=(X[:40], y[:40]))
    assert model.n_outputs == 1
    full = FullClassifier(model, score).fit()
    assert full.classes_.tolist() == ["b", "c"]
    found = full.diagnose(X[40:], n_points=3)
    assert found.mean_gap < 0.02


@SCORES
def test_the_order_of_the_training_rows_is_nothing(iris: tuple, score: str) -> None:
    X, y = iris[0][:50], iris[1][:50]
    order = np.random.default_rng(3).permutation(50)
    one = FullClassifier(trustml.wrap(logistic(X, y), train=(X, y)), score).fit()
    two = FullClassifier(
        trustml.wrap(logistic(X[order], y[order]), train=(X[order], y[order])), score
    ).fit()
    np.testing.assert_allclose(one.p_values(iris[0][50:]), two.p_values(iris[0][50:]), atol=1e-12)


def test_a_tie_counts_as_a_tie(iris: tuple) -> None:
    # A new row that is a training row has its score: at least two of n + 1 are as strange.
    X, y = iris[0][:50], iris[1][:50]
    full = FullClassifier(trustml.wrap(logistic(X, y), train=(X, y)), "ordinary").fit()
    p = full.p_values(X)[np.arange(50), np.searchsorted(full.classes_, y)]
    assert (p >= 2 / 51).all()


def test_chunks_change_nothing(iris: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = iris[0][:50], iris[1][:50]
    full = FullClassifier(trustml.wrap(logistic(X, y), train=(X, y))).fit()
    whole = full.p_values(iris[0][50:])
    monkeypatch.setattr("trustml.conformal._plus_interval._CHUNK_NUMBERS", 3000)
    np.testing.assert_array_equal(full.p_values(iris[0][50:]), whole)


def test_models_without_gradients_are_refitted_or_refused(iris: tuple) -> None:
    X, y = iris[0][:12], iris[1][:12]
    forest = trustml.wrap(RandomForestClassifier(3, random_state=0).fit(X, y), train=(X, y))
    with pytest.raises(TypeError, match=r"refit=True.*SplitClassifier"):
        FullClassifier(forest).fit()
    p = FullClassifier(forest, "ordinary", refit=True).fit().p_values(iris[0][20:22])
    assert p.shape == (2, 3)
    assert ((p >= 1 / 13) & (p <= 1)).all()


def test_a_class_of_one_row_can_be_left_out(iris: tuple) -> None:
    # Without its only row a class is unknown to the refit: that row is as strange as can be.
    kept = np.r_[np.flatnonzero(iris[1] != "c")[:12], np.flatnonzero(iris[1] == "c")[:1]]
    X, y = iris[0][kept], iris[1][kept]
    full = FullClassifier(trustml.wrap(logistic(X, y), train=(X, y)), refit=True).fit()
    assert (full.p_values(iris[0][-1:]) >= 2 / 14).all()


@pytest.mark.parametrize("kind", [pd.DataFrame, torch.from_numpy])
def test_refits_take_the_users_kinds(iris: tuple, kind: object) -> None:
    X, y = iris[0][:12], np.searchsorted(["a", "b", "c"], iris[1][:12])
    fitted = logistic(kind(X), y)
    model = trustml.wrap(fitted, train=(kind(X), torch.from_numpy(y)))
    plain = trustml.wrap(logistic(X, y), train=(X, y))
    rows = iris[0][20:22]
    found = FullClassifier(model, "ordinary", refit=True).fit().p_values(kind(rows))
    np.testing.assert_allclose(
        found, FullClassifier(plain, "ordinary", refit=True).fit().p_values(rows)
    )


def test_preprocessing_that_saw_the_training_rows_alone_is_told(iris: tuple) -> None:
    X, y = iris[0][:40], iris[1][:40]
    fitted = make_pipeline(StandardScaler(), PCA(2), LogisticRegression()).fit(X, y)
    with pytest.warns(CoverageWarning, match=r"PCA, StandardScaler learnt.*train_fn"):
        FullClassifier(trustml.wrap(fitted, train=(X, y))).fit()
    with pytest.warns(CoverageWarning, match="learnt"):  # its refits hold the transformers, too
        FullClassifier(trustml.wrap(fitted, train=(X, y)), refit=True).fit()
    # Nothing is learnt here, or all of it anew: no warning (they are errors in these tests).
    plain = make_pipeline(PolynomialFeatures(2), LogisticRegression(max_iter=5000)).fit(X, y)
    FullClassifier(trustml.wrap(plain, train=(X, y))).fit()
    anew = trustml.wrap(
        fitted,
        train=(X, y),
        train_fn=lambda X, y: make_pipeline(StandardScaler(), PCA(2), LogisticRegression()).fit(
            X, y
        ),
    )
    FullClassifier(anew, refit=True).fit()


def test_too_few_rows_are_the_full_set(iris: tuple) -> None:
    X, y = iris[0][:15], iris[1][:15]
    full = FullClassifier(trustml.wrap(logistic(X, y), train=(X, y))).fit()
    with pytest.warns(CoverageWarning, match="at least 19"):
        assert full.predict_set(iris[0][15:], 0.05).all()


def test_bad_input(iris: tuple, diabetes: object) -> None:
    X, y = iris[0][:40], iris[1][:40]
    with pytest.raises(TypeError, match="FullRegressor"):
        FullClassifier(diabetes.model).fit()
    with pytest.raises(ValueError, match="train="):
        FullClassifier(logistic(X, y)).fit()
    model = trustml.wrap(logistic(X, y), train=(X, y))
    with pytest.raises(ValueError, match="score must be one of"):
        FullClassifier(model, "lac").fit()
    full = FullClassifier(model).fit()
    for n_points, error in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="n_points"):
            full.diagnose(X, n_points)
    untrained = trustml.wrap(torch.nn.Linear(4, 3).double(), train=(X, np.arange(40) % 3))
    with pytest.raises(TypeError, match="train_fn"):
        FullClassifier(untrained, refit=True).fit().p_values(X[:1])
