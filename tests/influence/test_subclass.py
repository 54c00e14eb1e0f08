"""Sub-class detection: exact counts, chance, and the hidden digit behind even and odd."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from trustml.evidence import clopper_pearson, wilson
from trustml.influence import InfluenceFunctions, subclass_detection
from trustml.model import wrap


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), q=st.integers(1, 30), n=st.integers(1, 20))
def test_hits_are_counted_and_the_interval_is_the_exact_one(seed, q, n):
    rng = np.random.default_rng(seed)
    scores, train, query = rng.normal(size=(q, n)), rng.integers(0, 3, n), rng.integers(0, 3, q)
    found = subclass_detection(scores, train, query, level=0.9)
    hits = sum(train[np.argmax(scores[i])] == query[i] for i in range(q))
    assert found.rate == clopper_pearson(hits, q, 0.9)
    assert found.chance == pytest.approx(np.mean([np.mean(train == label) for label in query]))
    other = subclass_detection(scores, train, query, level=0.9, interval="wilson")
    assert other.rate == wilson(hits, q, 0.9)
    order = rng.permutation(n)
    moved = subclass_detection(scores[:, order], train[order], query, level=0.9)
    assert moved.rate == found.rate


def test_scores_of_chance_have_the_rate_of_chance():
    rng = np.random.default_rng(0)
    train, query = rng.integers(0, 4, 100), rng.integers(0, 4, 300)
    found = subclass_detection(rng.normal(size=(300, 100)), train, query, level=0.9999)
    assert found.rate.contains(found.chance)  # false alarm 1e-4


def test_influence_finds_the_digit_that_the_model_was_not_told():
    X, digit = load_digits(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(digit))[:400]
    X, digit = X[rows] / 16, digit[rows]
    odd = digit % 2
    model = wrap(LogisticRegression(C=1.0, max_iter=2000).fit(X[:320], odd[:320]),
                 train=(X[:320], odd[:320]))  # fmt: skip
    scores = InfluenceFunctions(model).fit().scores(X[320:], odd[320:])
    hidden = subclass_detection(scores, digit[:320], digit[320:])
    assert hidden.rate.low > hidden.chance  # ten digits: about 0.1
    same_class = subclass_detection(scores, odd[:320], odd[320:])
    assert same_class.rate.low > 0.6
    assert "chance" in repr(hidden)
    assert hidden.to_frame()["hit"].mean() == hidden.rate.estimate


@pytest.mark.parametrize(
    ("scores", "train", "query", "message"),
    [
        (np.zeros((2, 3)), [0, 1], [0, 1], "do not fit"),
        (np.zeros(3), [0, 1, 2], [0], "must be"),
        (np.zeros((0, 3)), [0, 1, 2], [], "do not fit"),
        (np.full((1, 2), np.nan), [0, 1], [0], "NaN"),
        (np.zeros((1, 2)), [[0], [1]], [0], "must be"),
    ],
)
def test_bad_input(scores, train, query, message):
    with pytest.raises(ValueError, match=message):
        subclass_detection(scores, train, query)
