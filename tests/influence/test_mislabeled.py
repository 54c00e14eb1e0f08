"""Label errors."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_diabetes, load_digits, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier

from trustml.influence import InfluenceFunctions, TracIn, find_mislabeled, mislabel_auc
from trustml.influence._tangent import leave_one_out_ridge, tangent_features
from trustml.model import wrap


def flipped(n=250, n_wrong=25):
    X, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(y))[:n]
    X, y = X[order] / 16, y[order].copy()
    wrong = rng.choice(n, n_wrong, replace=False)
    y[wrong] = (y[wrong] + rng.integers(1, 10, n_wrong)) % 10
    return X, y, wrong


@pytest.mark.parametrize(
    "method", ["auto", "tangent", "leave_one_out", "self_influence", "loss", "margin"]
)
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
    for method in ("auto", "leave_one_out", "self_influence"):
        one, other = find_mislabeled(influence, method), find_mislabeled(model, method)
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
    assert ranking.method == "leave_one_out"
    truth = [model.retrain(np.delete(np.arange(60), i)).loss(X[i : i + 1], y[i : i + 1])[0]
             for i in range(60)]  # fmt: skip
    np.testing.assert_allclose(ranking.scores, truth, rtol=1e-8)


def test_labels_learnt_by_heart_are_found_all_the_same():
    X, y, wrong = flipped(400, 40)
    net = MLPClassifier((16,), solver="lbfgs", alpha=1e-3, max_iter=2000, random_state=0).fit(X, y)
    model = wrap(net, train=(X, y))
    assert (net.predict(X) == y).all()  # the wrong ones too
    tangent, loss = (mislabel_auc(find_mislabeled(model, m), wrong) for m in ("auto", "loss"))
    assert tangent.auc.estimate >= 0.95
    assert tangent.compare(loss, random_state=0).low > 0


def test_an_attributor_ranks_by_its_self_influence():
    X, y, wrong = flipped(150, 15)
    model = wrap(LogisticRegression(max_iter=3000).fit(X, y), train=(X, y))
    method = TracIn(model).fit()
    found = find_mislabeled(method)
    assert found.method == "self_influence"
    np.testing.assert_array_equal(found.scores, method.self_influence())
    assert mislabel_auc(found, wrong).auc.low > 0.5


@pytest.mark.parametrize(("n", "k"), [(40, 5), (12, 30)])
def test_leave_one_out_ridge_is_ridge_without_the_row(n, k):
    rng = np.random.default_rng(0)
    features, y = torch.as_tensor(rng.normal(size=(n, k))), rng.normal(size=(n, 2))
    constant = np.linalg.norm(features.numpy().mean(0))
    phi = np.column_stack([features, np.full(n, constant)])
    found, errors = leave_one_out_ridge(features, y), []
    for ridge in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0):
        rows = [np.delete(np.arange(n), i) for i in range(n)]
        apart = np.stack([
            phi[i] @ np.linalg.solve(
                phi[r].T @ phi[r] + ridge * np.eye(k + 1), phi[r].T @ y[r]
            ) for i, r in enumerate(rows)
        ])  # fmt: skip
        errors.append((((apart - y) ** 2).mean(), apart))
    np.testing.assert_allclose(found, min(errors, key=lambda e: e[0])[1], atol=1e-7)


def test_tangent_features_are_cosines_of_gradients_however_many_there_are():
    X, y, _ = flipped(60, 5)
    model = wrap(LogisticRegression(max_iter=3000).fit(X, y), train=(X, y))
    # Gradients of a linear model's outputs: (x, 1) for each class.
    rows = np.column_stack([X, np.ones(60)])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    exact = tangent_features(model.objective)
    np.testing.assert_allclose(exact @ exact.T, rows @ rows.T, atol=1e-10)
    X, y = np.tile(X, (7, 1)), np.tile(y, 7)  # more numbers than are held whole
    net = MLPClassifier((64,), max_iter=5, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wide = wrap(net.fit(X, y), train=(X, y))
    few = tangent_features(wide.objective)
    assert few.shape == (420, 2040)
    np.testing.assert_allclose(few.norm(dim=1), 1.0)
    # A projection to k numbers has standard errors of at most sqrt(2/k), of 176 400 products.
    gradients = [wide.objective.rows(cotangents=one_output(k)) for k in range(10)]
    whole = torch.cat(gradients, dim=1).double()
    whole = whole / whole.norm(dim=1, keepdim=True)
    assert (few @ few.T - whole @ whole.T).abs().max() < 6 * np.sqrt(2 / 204)


def one_output(k):
    def cotangents(outputs, inputs, targets):
        one = torch.zeros_like(outputs)
        one[:, k] = 1.0
        return one

    return cotangents


def test_several_labels_a_row_and_numbers_are_ranked_too():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 5))
    Y = (X @ rng.normal(size=(5, 3)) > 0).astype(int)
    Y[7] = 1 - Y[7]
    net = MLPClassifier((4,), solver="lbfgs", alpha=1.0, max_iter=3000, random_state=0).fit(X, Y)
    found = find_mislabeled(wrap(net, train=(X, Y)))
    assert found.method == "tangent"
    assert 7 in found.top(3)
    assert found.suggested.shape == (80, 3)
    y = X @ rng.normal(size=5)
    y[11] += 30
    values = find_mislabeled(wrap(Ridge().fit(X, y), train=(X, y)), method="tangent")
    assert values.top(1)[0] == 11
    assert values.suggested.shape == (80,)


def test_detection_counts_what_inspection_finds():
    scores, wrong = np.array([5.0, 4.0, 3.0, 2.0, 1.0]), np.array([1, 0, 1, 0, 0], bool)
    found = mislabel_auc(scores, wrong)
    assert found.found.tolist() == [1, 1, 2, 2, 2]
    assert found.auc.estimate == pytest.approx(5 / 6)
    assert found.precision(0.6).estimate == pytest.approx(2 / 3)
    assert found.recall(0.2).estimate == 0.5
    assert found.recall(1.0).estimate == 1.0
    np.testing.assert_array_equal(mislabel_auc(scores, [0, 2]).is_wrong, wrong)
    assert found.to_frame()["recall"].iloc[-1] == 1.0
    assert "2 wrong labels among 5 rows" in repr(found)
    same = found.compare(found, random_state=0)
    assert (same.low, same.high) == (0.0, 0.0)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(3, 40))
def test_the_auc_is_that_of_pairs_whatever_the_scale(seed, n):
    rng = np.random.default_rng(seed)
    scores, wrong = rng.integers(0, 6, n).astype(float), np.arange(n) % 3 == 0
    found = mislabel_auc(scores, wrong)
    pairs = np.sign(scores[wrong][:, None] - scores[~wrong][None])
    assert found.auc.estimate == pytest.approx((pairs + 1).mean() / 2)
    assert mislabel_auc(3 * scores + 1, wrong).auc == found.auc
    assert mislabel_auc(-scores, wrong).auc.estimate == pytest.approx(1 - found.auc.estimate)


def test_bad_detections():
    for suspicion, wrong, message in (
        (np.zeros((2, 2)), [0], "shape"),
        ([np.nan, 1.0], [0], "NaN"),
        ([0.0, 1.0], [0, 1], "every row"),
        ([0.0, 1.0], [2], r"0\.\.1"),
        ([0.0, 1.0], [True], "mask"),
    ):
        with pytest.raises(ValueError, match=message):
            mislabel_auc(suspicion, wrong)
    found = mislabel_auc([0.0, 1.0, 2.0], [2])
    with pytest.raises(ValueError, match="fraction"):
        found.precision(0.0)
    with pytest.raises(ValueError, match="different rows"):
        found.compare(mislabel_auc([0.0, 1.0, 2.0], [1]))


def test_bad_input():
    X, y, _ = flipped(60, 5)
    model = wrap(LogisticRegression(max_iter=3000).fit(X, y), train=(X, y))
    with pytest.raises(ValueError, match="method must be one of"):
        find_mislabeled(model, method="cosine")
    with pytest.raises(NotFittedError):
        find_mislabeled(InfluenceFunctions(model))
    with pytest.raises(TypeError, match="self_influence"):
        find_mislabeled(TracIn(model).fit(), method="leave_one_out")
    values = wrap(Ridge().fit(X, y), train=(X, y.astype(float)))
    with pytest.raises(TypeError, match="needs classes"):
        find_mislabeled(values, method="margin")
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
    assert lines[0] == "MislabelRanking of 150 training rows by tangent"
    assert lines[1].split() == ["train_row", "score", "given", "suggested"]
    assert lines[2].split()[0] == str(found.order[0])
    assert lines[2].split()[2] in words
    assert lines[-1] == "... 140 more rows: to_frame()"


def test_language_models_are_ranked_by_their_loss():
    X = torch.arange(24).reshape(6, 4) % 5
    net = torch.nn.Sequential(torch.nn.Embedding(5, 3), torch.nn.Linear(3, 5))
    model = wrap(net, task="language-modeling", train=(X, X.roll(-1, 1)))
    found = find_mislabeled(model)
    assert found.method == "loss"
    expected = model.loss_fn(net(X), X.roll(-1, 1)).detach()
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5)
