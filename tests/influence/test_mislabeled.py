"""Label errors."""

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_digits, load_iris
from sklearn.linear_model import LogisticRegression, Ridge

from trustml.influence import InfluenceFunctions, find_mislabeled
from trustml.model import wrap


def flipped(n=250, n_wrong=25):
    X, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(y))[:n]
    X, y = X[order] / 16, y[order].copy()
    wrong = rng.choice(n, n_wrong, replace=False)
    y[wrong] = (y[wrong] + rng.integers(1, 10, n_wrong)) % 10
    return X, y, wrong


@pytest.mark.parametrize("method", ["leave_one_out", "self_influence"])
def test_flipped_labels_come_first(method):
    X, y, wrong = flipped()
    model = wrap(LogisticRegression(C=1.0, max_iter=3000).fit(X, y), train=(X, y))
    ranking = find_mislabeled(model, method=method)
    found = np.isin(ranking.top(25), wrong).mean()
    assert found >= 0.7  # chance finds 0.1
    assert sorted(ranking.order.tolist()) == list(range(250))
    assert (np.diff(ranking.scores[ranking.order]) <= 0).all()
    # What the model says without the row is the label before the flip, mostly.
    true = load_digits().target[np.random.default_rng(0).permutation(1797)[:250]]
    assert (ranking.suggested[wrong] == true[wrong]).mean() > 0.7
    np.testing.assert_array_equal(ranking.given, y)
    assert ranking.to_frame()["train_row"].iloc[0] == ranking.order[0]


def test_a_fitted_influence_is_reused():
    X, y, _ = flipped(120, 10)
    model = wrap(LogisticRegression(max_iter=3000).fit(X, y), train=(X, y))
    influence = InfluenceFunctions(model).fit()
    one, other = find_mislabeled(influence), find_mislabeled(model)
    np.testing.assert_allclose(one.scores, other.scores)


def test_labels_are_the_users():
    X, y, wrong = flipped(120, 10)
    words = np.array([f"digit {k}" for k in range(10)])[y]
    model = wrap(LogisticRegression(max_iter=3000).fit(X, words), train=(X, words))
    ranking = find_mislabeled(model)
    assert ranking.given_labels.tolist() == words.tolist()
    assert set(ranking.suggested_labels) <= set(words)
    assert ranking.to_frame()["given"].iloc[0] == words[ranking.order[0]]
    assert (ranking.suggested_labels[wrong] != words[wrong]).mean() > 0.5


def test_leave_one_out_losses_of_ridge_are_exact():
    X, y = load_diabetes(return_X_y=True)
    X, y = X[:60], y[:60]
    model = wrap(Ridge(alpha=0.2).fit(X, y), train=(X, y))
    ranking = find_mislabeled(model)
    truth = [model.retrain(np.delete(np.arange(60), i)).loss(X[i : i + 1], y[i : i + 1])[0]
             for i in range(60)]  # fmt: skip
    np.testing.assert_allclose(ranking.scores, truth, rtol=1e-8)


def test_bad_input():
    X, y, _ = flipped(60, 5)
    model = wrap(LogisticRegression(max_iter=3000).fit(X, y), train=(X, y))
    with pytest.raises(ValueError, match="method must be one of"):
        find_mislabeled(model, method="margin")
    with pytest.raises(ValueError, match="training data"):
        find_mislabeled(LogisticRegression().fit(X, y))
    with pytest.raises(ValueError, match="positive integer"):
        find_mislabeled(model).top(-1)


def test_the_ranking_prints_as_a_table():
    X, y = load_iris(return_X_y=True)
    words = np.array(["setosa", "versicolor", "virginica"])[y]
    model = wrap(LogisticRegression(max_iter=1000).fit(X, words), train=(X, words))
    found = find_mislabeled(model)
    lines = repr(found).splitlines()
    assert lines[0] == "MislabelRanking of 150 training rows by leave_one_out"
    assert lines[1].split() == ["train_row", "score", "given", "suggested"]
    assert lines[2].split()[0] == str(found.order[0])
    assert lines[2].split()[2] in words
    assert lines[-1] == "... 140 more rows: to_frame()"
