"""Hébert-Johnson et al.: no large cell is biased."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from trustml.fairness import Multicalibration
from trustml.warnings import ConvergenceWarning, TrustmlWarning


def sample(seed, n=1500):
    rng = np.random.default_rng(seed)
    s = np.column_stack([rng.integers(0, 2, n), rng.integers(0, 3, n)])
    X = rng.normal(size=(n, 2))
    truth = 1 / (1 + np.exp(-X[:, 0] * (1 + s[:, 1]) - 1.5 * (s[:, 0] * (s[:, 1] == 2)) + 0.5))
    return X, (rng.random(n) < truth).astype(int), s


def cells(s, depth=2):
    yield np.ones(len(s), dtype=bool)
    for size in range(1, depth + 1):
        for columns in itertools.combinations(range(s.shape[1]), size):
            for value in np.unique(s[:, columns], axis=0):
                yield (s[:, columns] == value).all(1)


@given(st.integers(0, 10_000), st.sampled_from([0.01, 0.05]), st.booleans())
@settings(max_examples=20, deadline=None)
def test_no_large_cell_is_biased(seed, alpha, weighted):
    X, y, s = sample(seed)
    w = np.random.default_rng(seed).uniform(0.5, 2, len(y)) if weighted else np.ones(len(y))
    w /= w.sum()
    fair = Multicalibration(LogisticRegression(), alpha=alpha, min_share=0.02)
    fair.fit(X, y, sensitive_features=s, sample_weight=w)
    p = fair.predict_proba(X, sensitive_features=s)[:, 1]
    assert p.min() >= 0
    assert p.max() <= 1
    bins = np.minimum((p * 10).astype(int), 9)
    for cell in cells(s):
        for b in range(10):
            rows = cell & (bins == b)
            if w[rows].sum() >= 0.02:
                assert abs(np.average((y - p)[rows], weights=w[rows])) <= alpha + 1e-9
    falls = -np.diff(fair.squared_errors_)
    assert (falls >= 0.02 * alpha**2 - 1e-12).all()
    assert fair.squared_errors_[-1] == pytest.approx(w @ (p - y) ** 2)
    assert fair.n_iter_ == len(falls) > 0


def test_new_rows_alone_and_the_decision():
    X, y, s = sample(1)
    fair = Multicalibration(LogisticRegression()).fit(
        X[:1000], y[:1000], sensitive_features=s[:1000]
    )
    p = fair.predict_proba(X, sensitive_features=s)
    for i in (1200, 1300):
        alone = fair.predict_proba(X[i : i + 1], sensitive_features=s[i : i + 1])
        np.testing.assert_allclose(alone[0], p[i])
    np.testing.assert_array_equal(fair.predict(X, sensitive_features=s), p[:, 1] > 0.5)


def test_a_constant_score_becomes_the_groups_rates():
    X, y, s = sample(2)
    fair = Multicalibration(LogisticRegression(C=1e-12), alpha=1e-6, n_bins=1)
    fair.fit(X, y, sensitive_features=s)
    p = fair.predict_proba(X, sensitive_features=s)[:, 1]
    for a, b in itertools.product(range(2), range(3)):
        cell = (s == [a, b]).all(1)
        assert p[cell].mean() == pytest.approx(y[cell].mean(), abs=1e-6)


def test_depth_leaves_intersections_out():
    X, y, s = sample(3)
    flat = Multicalibration(LogisticRegression(), depth=1, n_bins=1, alpha=0.001)
    flat.fit(X, y, sensitive_features=s)
    deep = Multicalibration(LogisticRegression(), n_bins=1, alpha=0.001)
    deep.fit(X, y, sensitive_features=s)
    worst = [
        max(
            abs((y - fair.predict_proba(X, sensitive_features=s)[:, 1])[cell].mean())
            for cell in cells(s)
        )
        for fair in (flat, deep)
    ]
    assert worst[0] > 0.05
    assert worst[1] <= 0.001


def test_probabilities_that_the_learner_did_not_see():
    X, y, s = sample(4)
    train, test = slice(0, 1000), slice(1000, 1500)
    tree = DecisionTreeClassifier(random_state=0)
    errors = []
    for folds in (None, 4):
        fair = Multicalibration(tree, folds=folds, min_share=0.05)
        if folds is None:
            with (
                pytest.warns(TrustmlWarning, match="unmitigated"),
                pytest.warns(TrustmlWarning, match="by heart"),
            ):
                fair.fit(X[train], y[train], sensitive_features=s[train])
        else:
            fair.fit(X[train], y[train], sensitive_features=s[train])
        p = fair.predict_proba(X[test], sensitive_features=s[test])[:, 1]
        errors.append(((p - y[test]) ** 2).mean())
    assert errors[1] < errors[0] - 0.02


class Wrong(ClassifierMixin, BaseEstimator):
    """Probabilities that are the wrong way round."""

    def fit(self, X, y, sample_weight=None):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        p = 1 / (1 + np.exp(-3 * X[:, 0]))
        return np.column_stack([p, 1 - p])


def test_bad_input_and_too_few_passes():
    X, y, s = sample(5)
    with pytest.warns(ConvergenceWarning, match="after 2 passes"):
        Multicalibration(Wrong(), max_iter=2, alpha=0.005).fit(X, y, sensitive_features=s)
    for name, value in (("alpha", 0), ("min_share", 1)):
        with pytest.raises(ValueError, match=f"{name} must be in"):
            Multicalibration(LogisticRegression(), **{name: value}).fit(X, y, sensitive_features=s)
    with pytest.raises(ValueError, match="n_bins must be a positive"):
        Multicalibration(LogisticRegression(), n_bins=0).fit(X, y, sensitive_features=s)


@pytest.mark.parametrize("depth", [0, -1, 1.5])
def test_depth_counts_columns(depth):
    X, y, s = sample(0)
    with pytest.raises((ValueError, TypeError), match="depth"):
        Multicalibration(LogisticRegression(), depth=depth).fit(X, y, sensitive_features=s)
