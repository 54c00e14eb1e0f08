"""Flips when the sensitive column says something else: arrays, tensors, frames, one-hot codes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from torch import nn

from trustml.fairness import counterfactual_flip_rate
from trustml.model import wrap


def fitted(n=120, seed=0, values=2):
    rng = np.random.default_rng(seed)
    x = np.column_stack([rng.normal(size=(n, 2)), rng.integers(0, values, n)])
    x[:values, 2] = np.arange(values)
    y = (x[:, 0] + x[:, 2] > 0.7).astype(int)
    y[:2] = [0, 1]
    return LogisticRegression().fit(x, y), x


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4))
def test_rows_flip_that_are_decided_otherwise_by_hand(seed, values):
    model, x = fitted(seed=seed, values=values)
    decided, flips = model.predict(x), np.zeros(len(x), dtype=bool)
    rates = {}
    for to in range(values):
        other = x.copy()
        other[:, 2] = to
        changed = model.predict(other) != decided
        flips |= changed
        for source in set(range(values)) - {to}:
            rates[f"{float(source)} -> {float(to)}"] = changed[x[:, 2] == source].mean()
    found = counterfactual_flip_rate(model, x, 2)
    assert found.value == flips.mean()
    np.testing.assert_array_equal(found.rows, np.flatnonzero(flips))
    listed = dict(zip(found.table["2"], found.table["flip rate"], strict=True))
    assert listed == pytest.approx(rates)


def test_a_model_that_does_not_look_has_no_flips():
    model, x = fitted()
    model.coef_[0, 2] = 0
    found = counterfactual_flip_rate(model, x, 2)
    assert (found.value, len(found.rows)) == (0, 0)
    assert found.words == "0 of 120 rows are decided otherwise with another 2"


def test_words_name_the_change():
    model, x = fitted()
    model.coef_ = np.array([[0.0, 0.0, 2.0]])
    model.intercept_ = np.array([-1.0])
    found = counterfactual_flip_rate(model, x, -1)
    assert found.value == 1
    assert "most often 0.0 -> 1.0 (1 of " in found.words
    assert found.words.endswith("0 becomes 1")


def frame_model(n=200):
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "sex": rng.choice(["f", "m"], n),
            "race": rng.choice(["a", "b", "c"], n),
            "income": rng.normal(size=n),
        },
        index=np.arange(n)[::-1] * 3,
    )
    y = np.where(frame["income"] + (frame["sex"] == "m") > 0.5, "yes", "no")
    return frame, y


def test_frames_keep_their_words_and_their_index():
    frame, y = frame_model()
    encode = make_column_transformer((OneHotEncoder(), ["sex", "race"]), remainder="passthrough")
    model = make_pipeline(encode, LogisticRegression()).fit(frame, y)
    before = frame.copy()
    found = counterfactual_flip_rate(model, frame, "sex")
    assert frame.equals(before)
    other = frame.assign(sex=np.where(frame["sex"] == "f", "m", "f"))
    want = model.predict(other) != model.predict(frame)
    np.testing.assert_array_equal(found.rows, np.flatnonzero(want))
    assert "f -> m" in found.words
    assert "no becomes yes" in found.words
    assert counterfactual_flip_rate(model, frame, 0).value == found.value
    both = counterfactual_flip_rate(model, frame, ["sex", "race"])
    assert both.value >= found.value
    assert len(both.table["rows"]) == 6 * 5


def test_categories_keep_their_type():
    frame, y = frame_model()
    frame = frame.astype({"sex": "category", "race": "category"})
    model = HistGradientBoostingClassifier(
        categorical_features="from_dtype", max_iter=20, random_state=0
    ).fit(frame, y)
    found = counterfactual_flip_rate(model, frame, "sex")
    other = frame.assign(sex=frame["sex"].cat.rename_categories({"f": "m", "m": "f"}))
    other["sex"] = other["sex"].cat.set_categories(["f", "m"])
    want = model.predict(other) != model.predict(frame)
    np.testing.assert_array_equal(found.rows, np.flatnonzero(want))
    assert found.value > 0


def test_polars_frames():
    pl = pytest.importorskip("polars")
    frame, y = frame_model()
    encode = make_column_transformer((OneHotEncoder(), ["sex", "race"]), remainder="passthrough")
    model = make_pipeline(encode, LogisticRegression()).fit(frame, y)
    want = counterfactual_flip_rate(model, frame, "sex")
    columns = {name: frame[name].to_numpy() for name in frame.columns}
    found = counterfactual_flip_rate(model, pl.DataFrame(columns), "sex")
    np.testing.assert_array_equal(found.rows, want.rows)


def test_one_hot_columns_are_set_together():
    frame, _ = frame_model()
    codes = np.eye(3)[np.unique(frame["race"], return_inverse=True)[1]]
    x = np.column_stack([frame["income"], codes])
    model = LogisticRegression(C=100).fit(x, np.where(x[:, 0] + x[:, 1] > 0.3, 1, 0))
    found = counterfactual_flip_rate(model, x, [1, 2, 3])
    decided, want = model.predict(x), np.zeros(len(x), dtype=bool)
    for code in np.eye(3):
        other = np.column_stack([x[:, 0], np.tile(code, (len(x), 1))])
        want |= model.predict(other) != decided
    np.testing.assert_array_equal(found.rows, np.flatnonzero(want))
    assert len(found.table["rows"]) == 6


def test_modules_and_tensors():
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    x[:, 1] = (x[:, 1] > 0).float()
    before = x.clone()
    net = nn.Linear(3, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 0.0]]))
        net.bias.zero_()
    found = counterfactual_flip_rate(wrap(net, task="classification"), x, 1)
    want = (x[:, 0] + x[:, 1] > 0) != (x[:, 0] + 1 - x[:, 1] > 0)
    np.testing.assert_array_equal(found.rows, np.flatnonzero(want.numpy()))
    assert torch.equal(x, before)


def test_bad_input_names_the_fix():
    model, x = fitted()
    with pytest.raises(ValueError, match="120 different values"):
        counterfactual_flip_rate(model, x, 0)
    with pytest.raises(ValueError, match="1 different values"):
        counterfactual_flip_rate(model, np.where(np.arange(3) == 2, 1, x), 2)
    with pytest.raises(ValueError, match="no column"):
        counterfactual_flip_rate(model, x, "sex")
    with pytest.raises(ValueError, match="no column"):
        counterfactual_flip_rate(model, x, 3)
    with pytest.raises(TypeError, match="array, tensor or frame"):
        counterfactual_flip_rate(model, {"x": x}, 2)
    with pytest.raises(ValueError, match="1 missing values"):
        counterfactual_flip_rate(model, np.where(np.arange(120)[:, None] == 7, np.nan, x), 2)
    regressor = LinearRegression().fit(x, x[:, 0])
    with pytest.raises(ValueError, match="pass a classifier"):
        counterfactual_flip_rate(regressor, x, 2)
