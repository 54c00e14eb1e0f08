"""The linear datamodeling score: closed forms, chance, noise ceiling, paired comparison."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge

from trustml.influence import (
    InfluenceFunctions,
    Retrained,
    leave_one_out,
    linear_datamodeling_score,
    retrain,
)
from trustml.model import wrap


def problem():
    X, y = load_diabetes(return_X_y=True)
    model = wrap(Ridge(alpha=0.2).fit(X[:80], y[:80]), train=(X[:80], y[:80]))
    return model, X[80:110], y[80:110]


def synthetic(m=60, n=30, q=20, seeds=1, noise=0.0, random_state=0):
    """Measurements that are sums over the rows left out, plus the luck of each training."""
    rng = np.random.default_rng(random_state)
    keep, effects = rng.random((m, n)) < 0.5, rng.normal(size=(q, n))
    clean = ~keep @ effects.T
    values = clean[:, None] + noise * clean.std() * rng.normal(size=(m, seeds, q))
    return effects, Retrained(keep, tuple(range(seeds)), values, "loss")


def output(outputs, X, y):
    return outputs.reshape(len(outputs))


def test_scores_rank_the_losses_of_retrained_models():
    model, Xq, yq = problem()
    scores = InfluenceFunctions(model).fit().scores(Xq, yq)
    kwargs = {"subsets": 15, "fraction": 0.8, "random_state": 0}
    result = linear_datamodeling_score(scores, model, Xq, yq, **kwargs)
    assert result.score > 0.7
    assert result.interval.low > 0.5
    assert result.interval.contains(result.score)
    assert result.per_query.shape == (30,)
    assert result.ceiling is None
    backwards = linear_datamodeling_score(-scores.values, model, Xq, yq, **kwargs)
    assert backwards.score == pytest.approx(-result.score)
    truth = retrain(model, Xq, yq, **kwargs)
    again = linear_datamodeling_score(scores, subsets=truth)
    np.testing.assert_array_equal(again.per_query, result.per_query)


def test_an_additive_model_is_predicted_perfectly():
    # Ridge whose every row has a feature of its own: weight y_i / (1 + alpha) with the row, 0
    # without it, so an output is a sum over the rows and leaving rows out adds up.
    rng, alpha = np.random.default_rng(0), 0.5
    y, Xq = rng.normal(size=12), rng.normal(size=(5, 12))
    model = wrap(Ridge(alpha=alpha, fit_intercept=False).fit(np.eye(12), y), train=(np.eye(12), y))
    exact = -Xq * y / (1 + alpha)
    effects = leave_one_out(model, np.arange(12), Xq, measure=output)
    np.testing.assert_allclose(effects, exact, atol=1e-12)
    truth = retrain(model, Xq, subsets=25, measure=output, random_state=0)
    np.testing.assert_allclose(truth.mean, truth.keep @ -exact.T, atol=1e-12)
    for scores in (exact, InfluenceFunctions(model).fit().scores(Xq, measure=output)):
        np.testing.assert_allclose(
            linear_datamodeling_score(scores, subsets=truth).per_query, 1.0, atol=1e-9
        )


def test_leave_one_out_subsets_correlate_with_the_ground_truth():
    model, Xq, yq = problem()
    truth = np.zeros((30, 80))
    rows = np.arange(6)
    truth[:, :6] = leave_one_out(model, rows, Xq, yq)
    keep = np.ones((6, 80), bool)
    keep[rows, rows] = False
    result = linear_datamodeling_score(truth, model, Xq, yq, subsets=keep, random_state=0)
    np.testing.assert_allclose(result.per_query, 1.0)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.floats(1e-3, 1e3),
    m=st.integers(2, 12),
    q=st.integers(1, 5),
)
def test_the_score_of_exact_sums_is_one_and_of_their_negative_minus_one(seed, scale, m, q):
    effects, truth = synthetic(m=m, q=q, random_state=seed)
    assume_distinct = np.unique(truth.mean, axis=0).shape[0] > 1
    kwargs = {"subsets": truth, "random_state": 0}
    found = linear_datamodeling_score(scale * effects, **kwargs)
    if assume_distinct:
        np.testing.assert_allclose(found.per_query, 1.0, atol=1e-9)
    np.testing.assert_allclose(
        linear_datamodeling_score(-effects, **kwargs).per_query, -found.per_query, atol=1e-9
    )


def test_noise_scores_nothing():
    # Independent scores: each query's correlation has variance 1/(m - 1), and they are
    # independent given the truth, so 4.5 standard errors are passed once in 150 000 draws.
    _, truth = synthetic(m=50, q=40)
    noise = np.random.default_rng(1).normal(size=(40, 30))
    found = linear_datamodeling_score(noise, subsets=truth, random_state=0)
    assert abs(found.score) < 4.5 / np.sqrt(49 * 40)


def test_the_interval_misses_a_score_of_zero_about_as_often_as_it_says():
    misses = 0
    for k in range(60):
        _, truth = synthetic(m=20, n=15, q=40, random_state=k)
        noise = np.random.default_rng(1000 + k).normal(size=(40, 15))
        found = linear_datamodeling_score(noise, subsets=truth, level=0.9, random_state=0)
        misses += not found.interval.contains(0.0)
    assert misses <= 17  # binomial(60, 0.1): P(more than 17) is 1e-5; BCa at 40 queries: ~0.12


@pytest.mark.parametrize(("seeds", "noise"), [(2, 0.5), (3, 1.0), (6, 2.0)])
def test_the_noise_ceiling_is_what_exact_effects_reach(seeds, noise):
    effects, truth = synthetic(m=400, q=30, seeds=seeds, noise=noise)
    reached = linear_datamodeling_score(effects, subsets=truth, random_state=0)
    assert reached.ceiling == pytest.approx(reached.score, abs=0.03)
    assert "noise ceiling" in repr(reached)
    assert synthetic(seeds=seeds)[1].noise_ceiling() == pytest.approx(1.0)


def test_training_that_is_all_luck_has_no_ceiling_to_speak_of():
    rng = np.random.default_rng(0)
    luck = Retrained(rng.random((200, 9)) < 0.5, (0, 1), rng.normal(size=(200, 2, 50)), "loss")
    assert luck.noise_ceiling() < 0.25


def test_two_methods_are_compared_in_pairs():
    effects, truth = synthetic(m=40, q=60, noise=0.5)
    rng = np.random.default_rng(3)
    worse = effects + 0.3 * rng.normal(size=effects.shape)
    a, b = (linear_datamodeling_score(s, subsets=truth, random_state=0) for s in (effects, worse))
    better = a.compare(b, random_state=0)
    assert better.estimate == pytest.approx(a.score - b.score)
    assert better.low > 0
    # Pairing takes out what the queries have in common.
    assert better.high - better.low < a.interval.high - a.interval.low
    assert b.compare(a, random_state=0).high < 0
    same = a.compare(a)
    assert (same.low, same.high) == (0.0, 0.0)
    other = linear_datamodeling_score(effects, subsets=synthetic(m=40, q=60, random_state=9)[1])
    with pytest.raises(ValueError, match="other retrained models"):
        a.compare(other)


def test_bad_subsets():
    model, Xq, yq = problem()
    scores = np.zeros((30, 80))
    for kwargs, message in (
        ({"fraction": 1.5}, "fraction"),
        ({"subsets": 1}, "at least two"),
        ({"subsets": np.eye(2, 80, dtype=bool)[[0, 0]]}, "2 that are all the same"),
        ({"subsets": np.ones((3, 79), bool)}, "boolean array"),
        ({"subsets": np.ones((3, 80))}, "boolean array"),
        ({"seeds": 0}, "positive integer"),
    ):
        with pytest.raises(ValueError, match=message):
            linear_datamodeling_score(scores, model, Xq, yq, **kwargs)
    with pytest.raises(ValueError, match="scores must have shape"):
        linear_datamodeling_score(scores[:3], model, Xq, yq)
    with pytest.raises(ValueError, match="scores has 2400 NaN"):
        linear_datamodeling_score(np.full((30, 80), np.nan), model, Xq, yq)


def test_bad_truth():
    effects, truth = synthetic()
    with pytest.raises(ValueError, match="scores must have shape"):
        linear_datamodeling_score(effects[:, 1:], subsets=truth)
    with pytest.raises(TypeError, match=r"subsets=retrain"):
        linear_datamodeling_score(effects)
    broken = Retrained(truth.keep, (0,), np.full_like(truth.values, np.nan), "loss")
    with pytest.raises(ValueError, match="measurements"):
        linear_datamodeling_score(effects, subsets=broken)
