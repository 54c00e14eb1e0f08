"""Explanations: distances by the formula, p-values by class, slopes by differences."""

import copy

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from torch import nn

import trustml
from trustml.evidence import pvalues
from trustml.ood import (
    Energy,
    FullLaplace,
    Fused,
    Gram,
    IsolationForest,
    Knn,
    Mahalanobis,
    Msp,
    Odin,
    RelativeMahalanobis,
    Suite,
)
from trustml.ood._explain import explain
from trustml.ood._explain_rows import nearest_rows


@pytest.fixture(scope="module")
def iris():
    from sklearn.datasets import load_iris

    X, y = load_iris(return_X_y=True)
    order = np.random.default_rng(0).permutation(150)
    X, y = X[order], y[order]
    model = LogisticRegression(max_iter=500).fit(X[:90], y[:90])
    return trustml.wrap(model, train=(X[:90], y[:90])), X, y


def test_the_distance_is_its_formula(iris):
    model, X, _ = iris
    W, b = (part.double().numpy() for part in model.head)
    inputs = np.c_[X, np.ones(150)]
    f = X @ W.T + b
    p = np.exp(f - f.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)

    def jacobian(i):  # of the outputs, with respect to rows of [W, b]
        return np.kron(np.eye(3), inputs[i])

    G = np.mean(
        [jacobian(i).T @ (np.diag(p[i]) - np.outer(p[i], p[i])) @ jacobian(i) for i in range(90)],
        axis=0,
    )
    damped = np.linalg.inv(G + 1e-3 * np.trace(G) / 15 * np.eye(15))
    g = np.stack([(np.eye(3)[f[i].argmax()] - 1 / 3) @ jacobian(i) for i in range(150)])
    gap = g[90:, None] - g[None, :90]
    expected = np.sqrt(np.einsum("qtp,pr,qtr->qt", gap, damped, gap))
    nearest, distance = nearest_rows(model, X[90:], k=4)
    np.testing.assert_allclose(distance, np.sort(expected, axis=1)[:, :4], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        np.take_along_axis(expected, nearest, axis=1), distance, rtol=1e-5, atol=1e-5
    )


def test_a_training_row_is_its_own_nearest_and_neighbours_share_its_class(iris):
    model, X, y = iris
    nearest, distance = nearest_rows(model, X[:20], k=3)
    np.testing.assert_allclose(distance[:, 0], 0, atol=1e-5)
    assert (nearest[:, 0] == np.arange(20)).mean() > 0.9  # iris has two rows twice
    found, _ = nearest_rows(model, X[90:], k=5)
    assert np.mean(y[found] == y[90:, None]) > 0.9
    few, _ = nearest_rows(model, X[90:], k=5, max_rows=10)
    assert len(np.unique(few)) <= 10


def test_models_of_one_output_and_of_values(iris):
    _, X, y = iris
    for estimator in (
        LogisticRegression().fit(X, y > 0),
        Ridge().fit(X, y),
        Ridge().fit(X, np.c_[y, -y]),
    ):
        model = trustml.wrap(estimator, train=(X, estimator.predict(X)))
        nearest, distance = nearest_rows(model, X[:10], k=2)
        assert nearest.shape == (10, 2)
        np.testing.assert_allclose(distance[:, 0], 0, atol=1e-5)


def test_foreign_images_are_explained(digits):
    det = Mahalanobis(digits.model).fit(digits.X_train, digits.y_train)
    det.calibrate(digits.X_test[:400], digits.y_test[:400])
    whole = np.concatenate([digits.X_test[400:420], 5 * digits.X_test[420:440]])
    found = explain(det, whole, k=3)
    assert set(found.left_out) == {"layer_p_value"}
    assert found.nearest.shape == found.distance.shape == (40, 3)
    assert found.distance[20:, 0].mean() > found.distance[:20, 0].mean()
    assert found.attribution.shape == whole.shape
    np.testing.assert_array_equal(found.score, det.score(whole))
    np.testing.assert_array_equal(found.p_value, det.p_values(whole))
    np.testing.assert_allclose(found.class_p_value.max(axis=1), found.p_value)
    column = det.calibration_.scores[digits.y_test[:400] == 7]
    np.testing.assert_array_equal(found.class_p_value[:, 7], pvalues(column, found.score))
    assert found.class_p_value[20:].max() < 0.1, "they are of no class"
    assert len(found) == 40


@pytest.mark.parametrize("kind", [Mahalanobis, Energy, Msp, Knn, RelativeMahalanobis])
def test_the_attribution_is_the_slope_of_the_score(digits, kind):
    double = trustml.wrap(copy.deepcopy(digits.net).double(), task="classification")
    det = kind(double).fit(digits.X_train.astype(np.float64), digits.y_train)
    x = np.concatenate([digits.X_test[:2], digits.foreign[:3]]).astype(np.float64)
    slope = explain(det, x).attribution
    assert np.abs(slope[2:]).max(axis=1).min() > 0
    rng = np.random.default_rng(0)
    for _ in range(5):
        way = rng.normal(size=x.shape)
        step = 1e-6 * way
        difference = (det.score(x + step) - det.score(x - step)) / 2e-6
        np.testing.assert_allclose((slope * way).sum(1), difference, rtol=1e-3, atol=1e-5)


def test_the_slope_of_gram_goes_through_maps_with_dead_channels():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 6), nn.ReLU(),
            nn.Linear(6, 3),
        ).double()  # fmt: skip
        with torch.no_grad():
            net[0].bias[0] = -100.0
        X = torch.rand(60, 1, 8, 8).double()
        way = torch.randn(3, 1, 8, 8).double()
    det = Gram(trustml.wrap(net, task="classification")).fit(X)
    x = 3 * X[:3]
    slope = explain(det, x).attribution
    assert np.abs(slope).max() > 0
    difference = (det.score(x + 1e-6 * way) - det.score(x - 1e-6 * way)).numpy() / 2e-6
    found = (slope * way.numpy()).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(found, difference, rtol=1e-3, atol=1e-5)


def test_a_moved_pixel_is_pointed_at(digits):
    det = Mahalanobis(digits.model).fit(digits.X_train, digits.y_train)
    x = digits.X_test[:30].copy()
    x[:, 20] += 6.0
    where = np.abs(explain(det, x).attribution * (x - digits.X_train.mean(0))).argmax(axis=1)
    assert np.mean(where == 20) > 0.8


def test_what_cannot_be_said_is_said_so(digits):
    det = Msp(trustml.wrap(digits.net, task="classification")).fit(digits.X_train)
    found = explain(det, digits.X_test[:5])
    assert (found.p_value, found.class_p_value, found.nearest) == (None, None, None)
    assert "calibrate" in found.left_out["p_value"]
    assert "training rows are not known" in found.left_out["nearest"]
    det.calibrate(digits.X_test[:50])
    assert "labels" in explain(det, digits.X_test[:5]).left_out["class_p_value"]
    forest = RandomForestClassifier(5, random_state=0).fit(digits.X_train, digits.y_train)
    model = trustml.wrap(forest, train=(digits.X_train, digits.y_train))
    told = explain(Msp(model).fit(digits.X_train), digits.X_test[:5]).left_out
    assert "no gradients" in told["attribution"]
    assert "no last linear layer" in told["nearest"]
    fused = Fused(digits.model).fit(digits.X_train, digits.y_train)
    told = explain(fused, digits.X_test[:5])
    assert "one of the members_" in told.left_out["attribution"]
    assert told.nearest.shape == (5, 5)
    member = explain(fused.members_["RelativeMahalanobis"], digits.X_test[:5])
    assert member.attribution.shape == (5, 64)
    forest = IsolationForest(digits.model).fit(digits.X_train, digits.y_train)
    assert "not smooth" in explain(forest, digits.X_test[:5]).left_out["attribution"]
    curved = FullLaplace(digits.model, parameters="last_layer").fit(digits.X_train, digits.y_train)
    assert "second derivatives" in explain(curved, digits.X_test[:5]).left_out["attribution"]
    odin = Odin(digits.model).fit(digits.X_train)
    assert "works on the inputs" in explain(odin, digits.X_test[:5]).left_out["attribution"]


def test_each_layer_has_a_p_value(digits):
    det = Mahalanobis(digits.model, layers="auto").fit(digits.X_train, digits.y_train)
    cal, new = digits.X_test[:200], np.concatenate([digits.X_test[200:220], digits.foreign[:5]])
    assert "were not kept" in det.explain(new).left_out["layer_p_value"]
    det.calibrate(cal, digits.y_test[:200])
    found = det.explain(new, k=2)
    assert found.layers == det.layers_
    assert found.layer_p_value.shape == (25, len(det.layers_))
    kept, scores = det.score_layers(cal), det.score_layers(new)
    for j in range(len(det.layers_)):
        np.testing.assert_array_equal(found.layer_p_value[:, j], pvalues(kept[:, j], scores[:, j]))
    assert found.layer_p_value[20:].min(axis=1).max() < 0.1
    assert set(found.to_frame()["strangest_layer"]) <= set(det.layers_)
    # Calibrated as any other detector is, and to be forgotten with it.
    np.testing.assert_allclose(det.calibration_.by_layer.sum(axis=1), det.calibration_.scores)
    np.testing.assert_array_equal(found.p_value, det.p_values(new))
    assert not hasattr(det.fit(digits.X_train, digits.y_train), "calibration_")
    suite = Suite(digits.model, [det]).fit(digits.X_train[:200]).calibrate(cal)
    told = suite.detectors_["Mahalanobis"].explain(new[:2]).left_out
    assert "of the detector itself" in told["layer_p_value"]
    features = Mahalanobis(digits.model).fit(digits.X_train, digits.y_train).calibrate(cal)
    assert "not a sum" in features.explain(new[:2]).left_out["layer_p_value"]


def test_the_method_is_the_function(digits):
    det = RelativeMahalanobis(digits.model).fit(digits.X_train, digits.y_train)
    one, other = det.explain(digits.X_test[:4], k=3), explain(det, digits.X_test[:4], k=3)
    np.testing.assert_array_equal(one.nearest, other.nearest)
    np.testing.assert_array_equal(one.attribution, other.attribution)
    assert one.left_out == other.left_out


def test_nothing_is_moved(digits):
    det = Mahalanobis(digits.model).fit(digits.X_train, digits.y_train)
    before, slopes = torch.get_rng_state(), [p.grad for p in digits.net.parameters()]
    explain(det, digits.X_test[:5])
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is s for p, s in zip(digits.net.parameters(), slopes, strict=True))
    alone = explain(det, digits.X_test[3:4])
    whole = explain(det, digits.X_test[:5])
    np.testing.assert_allclose(alone.attribution[0], whole.attribution[3], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(alone.nearest[0], whole.nearest[3])


def test_bad_input_is_refused(digits):
    with pytest.raises(TypeError, match="of a Suite take one"):
        explain(Suite(digits.model), digits.X_test)
    det = Msp(digits.model).fit(digits.X_train)
    with pytest.raises(ValueError, match="k must be"):
        explain(det, digits.X_test[:3], k=0)
