"""Kamiran, Karim and Zhang's critical region."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from trustml.fairness import RejectOptionClassifier
from trustml.warnings import TrustmlWarning


def sample(seed, n=600):
    rng = np.random.default_rng(seed)
    s = rng.choice(["a", "b", "c"], n)
    X = np.column_stack([rng.normal(size=n) + (s == "c"), s == "b"]).astype(float)
    y = (X[:, 0] + rng.logistic(size=n) > 0.3).astype(int)
    return X, y, s


def balanced(y, d):
    return (d[y == 1].mean() + (1 - d[y == 0]).mean()) / 2


@pytest.mark.parametrize("seed", range(4))
def test_the_best_margin_among_all(seed):
    X, y, s = sample(seed)
    model = LogisticRegression().fit(X, y)
    p = model.predict_proba(X)[:, 1]
    fair = RejectOptionClassifier(model, prefit=True, tolerance=0.1, privileged="c")
    fair.fit(X, y, sensitive_features=s)
    sign = np.where(s == "c", 1, -1)
    best = -1.0
    for margin in np.unique(np.append(0, abs(p - 0.5))) + 1e-9:
        d = p > 0.5 + sign * margin
        if np.ptp([d[s == g].mean() for g in "abc"]) <= 0.1:
            best = max(best, balanced(y, d))
    d = fair.predict(X, sensitive_features=s)
    assert balanced(y, d) == pytest.approx(best)
    assert np.ptp([d[s == g].mean() for g in "abc"]) == pytest.approx(fair.gap_)
    assert fair.gap_ <= 0.1


def test_only_rows_in_doubt_change_and_only_one_way():
    X, y, s = sample(5)
    model = LogisticRegression().fit(X, y)
    p, plain = model.predict_proba(X)[:, 1], model.predict(X)
    fair = RejectOptionClassifier(model, prefit=True, tolerance=0.1)
    fair.fit(X, y, sensitive_features=s)
    assert fair.privileged_ == "c"
    d = fair.predict(X, sensitive_features=s)
    assert (abs(p - 0.5) <= fair.margin_)[d != plain].all()
    assert (d[s == "c"] <= plain[s == "c"]).all()
    assert (d[s != "c"] >= plain[s != "c"]).all()
    np.testing.assert_array_equal(fair.predict_proba(X, sensitive_features=s)[:, 1], d)


@pytest.mark.parametrize("constraints", ["equal_opportunity", "equalized_odds", "error_parity"])
def test_a_threshold_of_its_own_choice_is_no_worse(constraints):
    X, y, s = sample(6)
    kinds = [
        RejectOptionClassifier(
            LogisticRegression(), constraints=constraints, tolerance=0.2, threshold=t
        ).fit(X, y, sensitive_features=s)
        for t in (0.5, None)
    ]
    scores = [balanced(y, k.predict(X, sensitive_features=s)) for k in kinds]
    assert scores[1] >= scores[0] - 0.01  # its margins are thinner spread
    assert all(k.gap_ <= 0.2 for k in kinds)


def test_weights_count_as_copies():
    X, y, s = sample(7, n=200)
    w = np.random.default_rng(0).integers(1, 4, 200)
    settings = {"tolerance": 0.15, "constraints": "equal_opportunity"}
    model = LogisticRegression().fit(X, y)
    one = RejectOptionClassifier(model, prefit=True, **settings)
    one.fit(X, y, sensitive_features=s, sample_weight=w)
    two = RejectOptionClassifier(model, prefit=True, **settings)
    two.fit(X.repeat(w, 0), y.repeat(w), sensitive_features=s.repeat(w))
    assert one.margin_ == pytest.approx(two.margin_)
    assert one.gap_ == pytest.approx(two.gap_)


@pytest.mark.filterwarnings("ignore:.*every training row")
def test_what_cannot_be_met_is_said():
    X, y, s = sample(8)
    with pytest.warns(TrustmlWarning, match="no critical region brings"):
        RejectOptionClassifier(LogisticRegression(), tolerance=0.0, privileged="b").fit(
            X, y, sensitive_features=s
        )
    with pytest.raises(ValueError, match="privileged must be one of"):
        RejectOptionClassifier(LogisticRegression(), privileged="z").fit(X, y, sensitive_features=s)
    with pytest.raises(ValueError, match="threshold must be in"):
        RejectOptionClassifier(LogisticRegression(), threshold=2).fit(X, y, sensitive_features=s)
