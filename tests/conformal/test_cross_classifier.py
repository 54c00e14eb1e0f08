"""Cross-conformal classification: the definition, refits, kinds, bad input."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import trustml
from trustml.conformal import CrossClassifier
from trustml.warnings import CoverageWarning


@pytest.fixture(scope="module")
def iris() -> tuple:
    X, y = load_iris(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    return X[order], np.array(["a", "b", "c"])[y[order]]


def logistic(X: np.ndarray, y: np.ndarray) -> LogisticRegression:
    return LogisticRegression(C=1.0, tol=1e-10, solver="newton-cholesky").fit(X, y)


def test_its_sets_are_those_of_the_definition(iris: tuple) -> None:
    # CV+ as it is written: y is in the set if fewer than (1 - alpha)(n + 1) rows score below it.
    X, y = iris[0][:40], iris[1][:40]
    cross = CrossClassifier(trustml.wrap(logistic(X, y), train=(X, y)), 5, random_state=0).fit()
    assert np.bincount(cross.fold_).tolist() == [8] * 5
    new, n = iris[0][40:], 40
    below = np.zeros((len(new), 3))
    for k in range(5):
        kept = cross.fold_ != k
        fitted = logistic(X[kept], y[kept])  # the same C beside the sum of losses
        held_out = 1 - fitted.predict_proba(X[~kept])
        own = held_out[np.arange(8), np.searchsorted(fitted.classes_, y[~kept])]
        np.testing.assert_allclose(cross.scores_[~kept], own, atol=1e-6)
        scores = 1 - fitted.predict_proba(new)
        below += (own[:, None, None] < scores - 1e-7).sum(axis=0)
    np.testing.assert_allclose(cross.p_values(new), 1 - below / (n + 1))
    sets = cross.predict_set(new, [0.1, 0.4])
    np.testing.assert_array_equal(sets[..., 0], below < 0.9 * 41)
    np.testing.assert_array_equal(sets[..., 1], below < 0.6 * 41)


@pytest.mark.parametrize("score", ["lac", "aps"])
@pytest.mark.parametrize("classes", ["abc", "bc"])
def test_equals_refits_of_a_linear_model(iris: tuple, score: str, classes: str) -> None:
    X, y = (part[np.isin(iris[1], list(classes))] for part in iris)
    model = trustml.wrap(logistic(X[:50], y[:50]), train=(X[:50], y[:50]))
    quick = CrossClassifier(model, 6, score, random_state=0).fit()
    found = quick.diagnose(X[50:])
    assert found.max_gap == 0
    exact = CrossClassifier(model, 6, score, refit=True, random_state=0).fit()
    np.testing.assert_array_equal(exact.p_values(X[50:]), found.p_values)


def test_a_network_is_near_its_refits(iris: tuple) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    for p in start.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.3
    X, y = torch.from_numpy(iris[0][:80] - 4), torch.from_numpy(np.searchsorted([*"abc"], iris[1]))
    decay, n = 0.03, 80

    def minimised(X: object, y: object) -> torch.nn.Module:
        import copy

        module = copy.deepcopy(start)
        optimiser = torch.optim.LBFGS(
            module.parameters(), max_iter=300, line_search_fn="strong_wolfe",
            tolerance_grad=1e-8, history_size=40,
        )  # fmt: skip

        def closure() -> torch.Tensor:
            optimiser.zero_grad()
            penalty = sum((p**2).sum() for p in module.parameters()) * decay / 2
            loss = torch.nn.functional.cross_entropy(
                module(torch.as_tensor(X)), torch.as_tensor(y), reduction="sum"
            )
            total = loss / n + penalty
            total.backward()
            return total

        optimiser.step(closure)
        return module

    start = minimised(X, y[:80])
    model = trustml.wrap(start, train=(X, y[:80]), weight_decay=decay, train_fn=minimised)
    found = CrossClassifier(model, 10, random_state=0).fit().diagnose(iris[0][80:] - 4)
    assert found.mean_gap < 0.01


def test_a_class_that_one_fold_holds_alone(iris: tuple) -> None:
    # Its refit gives that label no probability: nothing is as strange as its only row.
    kept = np.r_[np.flatnonzero(iris[1] != "b")[:20], np.flatnonzero(iris[1] == "b")[:1]]
    X, y = iris[0][kept], iris[1][kept]
    cross = CrossClassifier(trustml.wrap(logistic(X, y), train=(X, y)), 7, refit=True).fit()
    assert cross.scores_[-1] == 1
    assert cross.p_values(iris[0][-5:]).shape == (5, 3)


def test_randomised_sets_are_the_same_alone_and_nested(iris: tuple) -> None:
    X, y = iris[0][:60], iris[1][:60]
    model = trustml.wrap(logistic(X, y), train=(X, y))
    cross = CrossClassifier(model, 5, "aps", random_state=1).fit()
    whole = cross.p_values(iris[0][60:])
    np.testing.assert_array_equal(cross.p_values(iris[0][60:65]), whole[:5])
    sets = cross.predict_set(iris[0][60:], [0.05, 0.3])
    assert (sets[..., 0] >= sets[..., 1]).all()
    again = CrossClassifier(model, 5, "aps", random_state=1).fit()
    np.testing.assert_array_equal(again.p_values(iris[0][60:]), whole)


def test_models_without_gradients_are_refitted_or_refused(iris: tuple) -> None:
    X, y = iris[0][:30], iris[1][:30]
    forest = trustml.wrap(RandomForestClassifier(3, random_state=0).fit(X, y), train=(X, y))
    with pytest.raises(TypeError, match=r"refit=True"):
        CrossClassifier(forest).fit()
    cross = CrossClassifier(forest, 3, refit=True, random_state=0).fit()
    assert len(cross.models_) == 3
    assert cross.predict_set(iris[0][30:], 0.2).any(axis=1).mean() > 0.5


def test_preprocessing_that_saw_the_training_rows_alone_is_told(iris: tuple) -> None:
    fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(*iris)
    with pytest.warns(CoverageWarning, match="StandardScaler learnt"):
        CrossClassifier(trustml.wrap(fitted, train=iris)).fit()


def test_too_few_rows_are_the_full_set(iris: tuple) -> None:
    X, y = iris[0][:15], iris[1][:15]
    cross = CrossClassifier(trustml.wrap(logistic(X, y), train=(X, y)), 3, random_state=0).fit()
    with pytest.warns(CoverageWarning, match="at least 19"):
        assert cross.predict_set(iris[0][15:], 0.05).all()


def test_bad_input(iris: tuple, diabetes: object) -> None:
    with pytest.raises(TypeError, match="CvPlusRegressor"):
        CrossClassifier(diabetes.model).fit()
    model = trustml.wrap(logistic(*iris), train=iris)
    for folds, error in ((1, ValueError), (151, ValueError), (2.5, TypeError)):
        with pytest.raises(error, match="folds"):
            CrossClassifier(model, folds).fit()
    for score in ("knn", trustml.conformal.Raps(penalty="auto")):
        with pytest.raises(ValueError, match="nothing to learn"):
            CrossClassifier(model, score=score).fit()
    with pytest.raises(ValueError, match="train="):
        CrossClassifier(logistic(*iris)).fit()
