"""The Lipschitz audit against all pairs by loops, and where the answer is known."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, LogisticRegression
from torch import nn

from trustml.fairness import _lipschitz as module
from trustml.fairness import lipschitz_audit
from trustml.model import wrap


def fitted(n=60, seed=0, classes=2, d=3):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    y = np.digitize(x[:, 0] + 0.5 * rng.normal(size=n), np.linspace(-0.5, 0.5, classes - 1))
    y[:classes] = np.arange(classes)
    return LogisticRegression(max_iter=1000).fit(x, y), x


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4))
def test_the_pair_is_the_worst_of_all(seed, classes):
    model, x = fitted(n=25, seed=seed, classes=classes)
    p = model.predict_proba(x)
    ratios = {
        (i, j): np.abs(p[i] - p[j]).sum() / 2 / np.linalg.norm(x[i] - x[j])
        for i, j in itertools.combinations(range(len(x)), 2)
    }
    found = lipschitz_audit(model, x, features=x, top=5)
    assert found.value == pytest.approx(max(ratios.values()))
    assert tuple(found.rows) == max(ratios, key=ratios.get)
    want = sorted(ratios.values(), reverse=True)[:5]
    np.testing.assert_allclose(found.table["change per distance"], want)
    i, j = found.rows
    assert f"rows {i} and {j}" in found.words
    assert found.table["rows"][0] == f"{i}, {j}"


def test_a_logistic_model_stays_below_its_slope():
    model, x = fitted(n=400)
    bound = np.linalg.norm(model.coef_) / 4
    assert 0.5 * bound < lipschitz_audit(model, x, features=x).value <= bound


def test_a_regressor_changes_by_its_coefficient():
    x = np.linspace(0, 1, 30)[:, None]
    model = LinearRegression().fit(x, 3 * x[:, 0])
    assert lipschitz_audit(model, x, features=x).value == pytest.approx(3)
    assert lipschitz_audit(model, x, features=10 * x).value == pytest.approx(0.3)
    assert lipschitz_audit(model, x).value == pytest.approx(3 * x.std())


def test_columns_are_scaled_unless_features_are_given():
    model, x = fitted()
    wide = LogisticRegression(max_iter=1000, C=1e9).fit(x, model.predict(x))
    unit = x / x.std(0)
    assert lipschitz_audit(wide, x).value == pytest.approx(
        lipschitz_audit(wide, x, features=unit).value
    )


def test_equal_but_for_what_must_not_count_is_infinitely_unfair():
    rng = np.random.default_rng(0)
    sex, merit = np.tile([0.0, 1.0], 20), np.repeat(rng.normal(size=20), 2)
    x = np.column_stack([sex, merit])
    model = LogisticRegression().fit(x, (merit + sex > 0.5).astype(int))
    found = lipschitz_audit(model, x, features=merit)
    assert found.value == np.inf
    i, j = found.rows
    assert merit[i] == merit[j]
    assert sex[i] != sex[j]
    # Of the pairs at distance 0 the one that is farthest apart comes first.
    p = model.predict_proba(x)[:, 1]
    assert found.table["change"][0] == pytest.approx(np.abs(p[::2] - p[1::2]).max())
    blind = LogisticRegression().fit(x[:, 1:], (merit > 0).astype(int))
    twice = np.repeat(x[:, 1:], 2, axis=0)  # equal rows are predicted alike: no violation
    assert np.isfinite(lipschitz_audit(blind, twice).value)


def test_modules_tensors_and_blocks(monkeypatch):
    torch_x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    model = wrap(net, task="classification")
    whole = lipschitz_audit(model, torch_x)
    monkeypatch.setattr(module, "_BLOCK", 50 * 7)
    parts = lipschitz_audit(model, torch_x)
    assert parts.value == pytest.approx(whole.value)
    np.testing.assert_array_equal(parts.rows, whole.rows)
    np.testing.assert_allclose(
        parts.table["change per distance"], whole.table["change per distance"]
    )


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_the_device():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    net = nn.Linear(3, 2)
    want = lipschitz_audit(wrap(net, task="classification"), x)
    found = lipschitz_audit(wrap(net.cuda(), task="classification"), x.cuda())
    assert found.value == pytest.approx(want.value, rel=1e-4)
    np.testing.assert_array_equal(found.rows, want.rows)


def test_bad_input_names_the_fix():
    model, x = fitted()
    with pytest.raises(ValueError, match="same length"):
        lipschitz_audit(model, x, features=x[1:])
    with pytest.raises(ValueError, match="two rows"):
        lipschitz_audit(model, x[:1], features=x[:1])
    with pytest.raises(ValueError, match="top must be"):
        lipschitz_audit(model, x, top=0)
    with pytest.raises(ValueError, match="NaN"):
        lipschitz_audit(model, x, features=np.full(len(x), np.nan))
    with pytest.raises(TypeError, match="encode it first"):
        lipschitz_audit(model, x, features=np.array(["a"] * len(x)))
