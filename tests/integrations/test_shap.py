import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import nn

from trustml.explain import KernelShap
from trustml.model import wrap

pytestmark = pytest.mark.peers
pytest.importorskip("shap")


@pytest.fixture(scope="module")
def forest():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 6))
    y = (X[:, 0] * X[:, 1] + X[:, 2] > 0).astype(int) + (X[:, 3] > 1)
    return wrap(RandomForestClassifier(10, random_state=0).fit(X, y)), X


def enumerated(value, d):
    """Shapley values by their definition; ``value(mask)`` -> number or (c,)."""
    table = {m: value(np.array(m, bool)) for m in itertools.product((0, 1), repeat=d)}
    phi = []
    for j in range(d):
        total = 0.0
        for m in table:
            if m[j]:
                continue
            k = sum(m)
            weight = math.factorial(k) * math.factorial(d - k - 1) / math.factorial(d)
            with_j = tuple(1 if i == j else b for i, b in enumerate(m))
            total = total + weight * (table[with_j] - table[m])
        phi.append(total)
    return np.array(phi)


def test_few_features_are_exact(forest):
    model, X = forest
    background = X[:15]
    found = KernelShap(model, background, output="probability").attribute(X[50:53])
    assert found.values.shape == (3, 6, 3)
    for i in range(3):

        def value(mask, i=i):
            return model.predict_proba(np.where(mask, X[50 + i], background)).mean(0)

        np.testing.assert_allclose(found.values[i], enumerated(value, 6), atol=1e-10)
    np.testing.assert_allclose(found.base_values[0], model.predict_proba(background).mean(0))
    assert found.completeness.max() < 1e-10


def test_linear_models_have_the_closed_form():
    X, y = load_breast_cancer(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.1)).fit(X, y)
    weight = pipeline[-1].coef_[0] / pipeline[0].scale_
    found = KernelShap(pipeline, X[:20]).attribute(X[100:102])
    # 30 features: sampled coalitions, and shap's own default would keep ten features.
    np.testing.assert_allclose(found.values, weight * (X[100:102] - X[:20].mean(0)), atol=1e-8)


def test_tiny_scales_do_not_vanish():
    """shap takes values within 1e-8 for equal, and sets attributions below 1e-10 to zero."""
    net = nn.Linear(3, 1).double()
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, -2.0, 3.0]]))
        net.bias.zero_()
    X = 1e-12 * np.array([[1.0, 2.0, 3.0], [2.0, -1.0, 1.0]])
    model = wrap(net, task="regression")
    found = KernelShap(model, np.zeros((1, 3))).attribute(X)
    np.testing.assert_allclose(found.values, [1, -2, 3] * X, rtol=1e-6)


def test_sampling_is_seeded_by_the_row_and_leaves_numpy_alone():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(40, 14))
    model = wrap(RandomForestRegressor(5, random_state=0).fit(X, X[:, 0] * X[:, 1]))
    explainer = KernelShap(model, X[:5], nsamples=60, random_state=3)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    whole = explainer.attribute(X[:4])
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    np.random.seed(99)  # noqa: NPY002
    np.testing.assert_array_equal(explainer.attribute(X[2:3]).values, whole.values[2:3])
    other = KernelShap(model, X[:5], nsamples=60, random_state=4).attribute(X[:4])
    assert not np.allclose(other.values, whole.values)


def test_features_equal_to_the_background_get_nothing(forest):
    model, X = forest
    row = X[:1].copy()
    background = X[1:6].copy()
    background[:, [1, 4]] = row[0, [1, 4]]
    found = KernelShap(model, background, output="probability").attribute(row, target=1)
    assert (found.values[0, [1, 4]] == 0).all()
    same = KernelShap(model, row, output="probability").attribute(row, target=1)
    assert (same.values == 0).all()
    assert same.completeness.max() == 0


def test_targets_outputs_and_losses(forest):
    model, X = forest
    every = KernelShap(model, X[:4], output="probability").attribute(X[:3])
    one = KernelShap(model, X[:4], output="probability").attribute(X[:3], target=2)
    np.testing.assert_allclose(one.values, every.values[..., 2], atol=1e-12)
    assert every.output_names == ["0", "1", "2"]
    y = model.predict(X[:3])
    loss = KernelShap(model, X[:4], output="loss").attribute(X[:3], y=y)
    np.testing.assert_allclose(
        loss.base_values + loss.values.sum(1), model.loss(X[:3], y), rtol=1e-6, atol=1e-9
    )


def test_frames_with_text_columns():
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame({"city": rng.choice(["a", "b", "c"], 60), "size": rng.normal(size=60)})
    y = (frame["city"] == "a") ^ (frame["size"] > 0)
    steps = make_column_transformer((OneHotEncoder(), ["city"]), remainder="passthrough")
    model = wrap(make_pipeline(steps, LogisticRegression()).fit(frame, y))
    found = KernelShap(model, frame[:10]).attribute(frame[:3])
    assert found.values.shape == (3, 2)
    assert found.feature_names == ["city", "size"]
    total = found.base_values + found.values.sum(1)
    np.testing.assert_allclose(total, model.logits(frame[:3])[:, 1])


def test_images_and_tensors():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    X = torch.rand(3, 2, 2)
    model = wrap(net, task="classification")
    found = KernelShap(model, X[:2]).attribute(X)
    assert isinstance(found.values, torch.Tensor)
    assert found.values.shape == (3, 2, 2, 2)


def test_bad_input(forest):
    model, X = forest
    with pytest.raises(ValueError, match="needs background="):
        KernelShap(model).attribute(X[:1])
    with pytest.raises(ValueError, match="background must have rows"):
        KernelShap(model, X[:5, :3]).attribute(X[:1])
    with pytest.raises(ValueError, match="nsamples must be a positive integer"):
        KernelShap(model, X[:5], nsamples=0).attribute(X[:1])
    with pytest.raises(ValueError, match="shape"):
        KernelShap(model, X[:5]).attribute(X[0])
    with pytest.raises(ValueError, match="9"):
        KernelShap(model, X[:5]).attribute(X[:1], target=9)


def test_without_shap_the_extra_is_named(forest, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "shap", None)
    model, X = forest
    with pytest.raises(ImportError, match=r"trustml\[explain\]"):
        KernelShap(model, X[:5]).attribute(X[:1])
