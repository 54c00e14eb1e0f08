"""Removal curves: closed forms of an additive model, what random removal is compared with."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, Ridge

from trustml.influence import InfluenceFunctions, removal_curve
from trustml.model import wrap

N = 20


def additive():
    """Ridge whose every row has a feature of its own, and the exact effects on its outputs."""
    rng, alpha = np.random.default_rng(0), 0.5
    y, Xq = rng.normal(size=N), rng.normal(size=(6, N))
    model = wrap(Ridge(alpha=alpha, fit_intercept=False).fit(np.eye(N), y), train=(np.eye(N), y))
    return model, Xq, -Xq * y / (1 + alpha)


def output(outputs, X, y):
    return outputs.reshape(len(outputs))


def digits(n=150):
    X, y = load_digits(n_class=3, return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(y))
    X, y = X[rows] / 16, y[rows]
    y[:30] = (y[:30] + 1) % 3
    model = wrap(LogisticRegression(C=1.0, max_iter=2000).fit(X[:n], y[:n]), train=(X[:n], y[:n]))
    return model, X[n : n + 80], y[n : n + 80]


def test_an_additive_model_loses_exactly_what_the_scores_say():
    model, Xq, effects = additive()
    curve = removal_curve(
        effects, model, Xq, measure=output, fractions=(0.1, 0.25, 0.5), random_state=0
    )
    assert curve.orders == ("helpful", "harmful", "random")
    assert curve.removed.tolist() == [0, 2, 5, 10]
    mean = np.sort(effects.mean(0))[::-1]
    lost = np.array([0.0, *(mean[:k].sum() for k in (2, 5, 10))])
    gained = np.array([0.0, *(mean[::-1][:k].sum() for k in (2, 5, 10))])
    whole = -effects.sum(1).mean()
    np.testing.assert_allclose(curve.values[0].mean(1), whole + lost, atol=1e-10)
    np.testing.assert_allclose(curve.values[1].mean(1), whole + gained, atol=1e-10)
    assert curve.areas["helpful"].estimate > 0 > curve.areas["harmful"].estimate
    assert curve.accuracy is None


def test_a_vector_of_scores_orders_the_rows_itself():
    model, Xq, effects = additive()
    kwargs = {"measure": output, "fractions": (0.2,), "random_state": 0}
    of_queries = removal_curve(effects, model, Xq, **kwargs)
    of_rows = removal_curve(effects.mean(0), model, Xq, **kwargs)
    np.testing.assert_array_equal(of_queries.values, of_rows.values)


def test_one_order_needs_no_list():
    model, Xq, effects = additive()
    curve = removal_curve(effects, model, Xq, measure=output, orders="helpful", random_state=0)
    assert curve.orders == ("helpful", "random")


def test_rows_with_wrong_labels_harm_and_leaving_them_out_helps():
    model, Xq, yq = digits()
    scores = InfluenceFunctions(model).fit().scores(Xq, yq)
    curve = removal_curve(scores, model, Xq, yq, fractions=(0.1, 0.2), random_state=0)
    assert curve.areas["harmful"].high < 0 < curve.areas["helpful"].low
    assert curve.accuracy.shape == (3, 3)
    np.testing.assert_allclose(curve.accuracy[:, 0], (model.predict(Xq) == yq).mean())
    assert curve.accuracy[1, -1] > curve.accuracy[0, -1]
    frame = curve.to_frame()
    assert len(frame) == 9
    assert (frame["gap"][frame["order"] == "random"] == 0).all()
    assert (frame["low"] <= frame["mean"]).all()
    assert (frame["gap"][frame["removed"] == 0] == 0).all()
    assert "harmful - random" in repr(curve)
    assert "accuracy" in frame


def test_scores_of_chance_are_no_better_than_random_removal():
    # The paired interval of the area is at 99.9 %; a false alarm in four is about 4e-3.
    model, Xq, yq = digits()
    for seed in range(2):
        noise = np.random.default_rng(seed).normal(size=150)
        curve = removal_curve(
            noise, model, Xq, yq, fractions=(0.1,), draws=8, level=0.999, random_state=seed
        )
        spread = curve.spread[-1, 1]
        for area in curve.areas.values():
            # Which rows chance took is luck of its own, which the draws show.
            assert area.low - 4 * spread < 0 < area.high + 4 * spread


def test_seeds_draws_and_processes_are_all_trained(tmp_path):
    model, Xq, effects = additive()
    kwargs = {"measure": output, "fractions": (0.2,), "draws": 2, "seeds": 2, "random_state": 1}
    first = removal_curve(effects, model, Xq, orders=["harmful"], store=tmp_path, **kwargs)
    again = removal_curve(effects, model, Xq, orders=["harmful"], store=tmp_path, **kwargs)
    assert first.values.shape == (2, 2, 6)
    np.testing.assert_array_equal(first.values, again.values)
    assert list(first.areas) == ["harmful"]
    assert np.load(tmp_path / "measurements.npy").shape == ((1 + 1 + 2) * 2, 1, 6)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"fractions": ()}, "at least one"),
        ({"fractions": (0.0,)}, r"in \(0, 1\)"),
        ({"fractions": (0.2, 0.2)}, "must increase"),
        ({"fractions": (0.001,)}, "must increase"),
        ({"orders": ["worst"]}, "orders must be one of"),
        ({"draws": 0}, "draws"),
        ({"scores": np.zeros((6, N - 1))}, "scores must have shape"),
        ({"scores": np.full(N, np.nan)}, "NaN"),
        ({"store": "somewhere"}, "give an int random_state"),
    ],
)
def test_bad_input(kwargs, message):
    model, Xq, effects = additive()
    arguments = {"scores": effects, "measure": output, **kwargs}
    with pytest.raises(ValueError, match=message):
        removal_curve(arguments.pop("scores"), model, Xq, **arguments)
