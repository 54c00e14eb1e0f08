"""Mahalanobis, relative Mahalanobis and nearest neighbours against plain formulae."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist, mahalanobis
from sklearn.neighbors import NearestNeighbors

import trustml
from trustml.ood import Knn, Mahalanobis, RelativeMahalanobis, Suite

SHRINKAGE = 1e-3


@pytest.fixture(scope="module")
def clouds():
    """Features of three classes with a common, ill-conditioned covariance."""
    rng = np.random.default_rng(0)
    scale = rng.normal(size=(6, 6)) * np.array([10.0, 3.0, 1.0, 0.3, 0.1, 0.03])
    y = rng.integers(0, 3, 300)
    means = rng.normal(size=(3, 6)) * 5
    return means[y] + rng.normal(size=(300, 6)) @ scale.T, y, rng.normal(size=(40, 6)) * 8


def shrunk(centred):
    S = centred.T @ centred / len(centred)
    return (1 - SHRINKAGE) * S + SHRINKAGE * np.trace(S) / len(S) * np.eye(len(S))


def distances(features, labels, queries):
    means = np.stack([features[labels == k].mean(0) for k in np.unique(labels)])
    index = np.searchsorted(np.unique(labels), labels)
    inverse = np.linalg.inv(shrunk(features - means[index]))
    return np.array([[mahalanobis(z, m, inverse) ** 2 for m in means] for z in queries])


def test_mahalanobis_is_scipys(clouds):
    Z, y, Q = clouds
    model = trustml.precomputed("features")
    score = Mahalanobis(model).fit(Z, y).score(Q)
    np.testing.assert_allclose(score, distances(Z, y, Q).min(1), rtol=1e-8)


def relative(Z, y, Q):
    background = distances(Z, np.zeros(len(Z)), Q)[:, 0]
    return distances(Z, y, Q).min(1) - background, background.max()


def test_relative_mahalanobis_is_scipys(clouds):
    Z, y, Q = clouds
    expected, scale = relative(Z, y, Q)
    score = RelativeMahalanobis(trustml.precomputed("features")).fit(Z, y).score(Q)
    np.testing.assert_allclose(score, expected, rtol=1e-8, atol=1e-8 * scale)
    unit = [z / np.linalg.norm(z, axis=1, keepdims=True) for z in (Z, Q)]
    expected, scale = relative(unit[0], y, unit[1])
    det = RelativeMahalanobis(trustml.precomputed("features"), normalize=True).fit(Z, y)
    np.testing.assert_allclose(det.score(Q), expected, rtol=1e-7, atol=1e-8 * scale)


def test_without_shrinkage_the_relative_distance_is_woodburys(clouds):
    # One factorisation: what both distances share cancels, k numbers a row are left.
    Z, y, Q = clouds
    means, shares = np.stack([Z[y == k].mean(0) for k in range(3)]), np.bincount(y) / len(y)
    centred, offsets = Z - means[y], means - Z.mean(0)
    to_means = np.linalg.solve(centred.T @ centred / len(Z), offsets.T)
    v = (Q - Z.mean(0)) @ to_means
    inner = np.linalg.inv(np.diag(1 / shares) + offsets @ to_means)
    expected = (np.diag(offsets @ to_means) - 2 * v).min(1) + np.einsum("nk,kl,nl->n", v, inner, v)
    det = RelativeMahalanobis(trustml.precomputed("features"), shrinkage=0.0).fit(Z, y)
    scale = Mahalanobis(trustml.precomputed("features"), shrinkage=0.0).fit(Z, y).score(Q).max()
    np.testing.assert_allclose(det.score(Q), expected, rtol=1e-6, atol=1e-8 * scale)


@pytest.mark.parametrize("shrinkage", [1e-3, 0.0, "ledoit-wolf"])
@pytest.mark.parametrize("kind", [Mahalanobis, RelativeMahalanobis])
def test_partial_fit_is_fit(clouds, kind, shrinkage):
    Z, y, Q = clouds
    model = trustml.precomputed("features")
    whole = kind(model, shrinkage=shrinkage).fit(Z, y)
    order = np.random.default_rng(1).permutation(len(Z))
    parts = kind(model, shrinkage=shrinkage)
    for rows in np.split(order, [20, 40, 41, 200]):
        parts.partial_fit(Z[rows], y[rows])
    # Without shrinkage the condition number, here 5e6, multiplies the rounding of either order.
    scale, tol = np.abs(whole.score(Q)).max(), 1e-10 if shrinkage else 1e-8
    np.testing.assert_allclose(parts.score(Q), whole.score(Q), rtol=tol, atol=0.01 * tol * scale)


def test_memory_does_not_grow_with_the_rows():
    det, rng = Mahalanobis(trustml.precomputed("features")), np.random.default_rng(0)
    for _ in range(30):
        det.partial_fit(rng.normal(size=(100, 5)), np.arange(100) % 3)
    assert len(det.running_[0].moments.root()) == 5
    assert sum(len(rows) for rows in det.running_[0].moments._rows) <= 20


def test_several_layers_are_the_sum_of_each(digits):
    layers = ["1", "3"]
    det = Mahalanobis(digits.model, layers=layers).fit(digits.X_train, digits.y_train)
    assert det.layers_ == layers
    each = []
    for name in layers:
        Z, Q = (
            digits.model.observe(X, [name]).layers[name].double().numpy()
            for X in (digits.X_train, digits.X_test[:30])
        )
        each.append(distances(Z, digits.y_train, Q).min(1))
    found = det.score_layers(digits.X_test[:30])
    np.testing.assert_allclose(found, np.stack(each, 1), rtol=1e-6)
    np.testing.assert_allclose(det.score(digits.X_test[:30]), found.sum(1))
    auto = Mahalanobis(digits.model, layers="auto").fit(digits.X_train, digits.y_train)
    assert auto.layers_ == layers
    np.testing.assert_allclose(auto.score(digits.X_test), det.score(digits.X_test))
    alone = Mahalanobis(digits.model, layers=["3"]).fit(digits.X_train, digits.y_train)
    plain = Mahalanobis(digits.model).fit(digits.X_train, digits.y_train)
    np.testing.assert_allclose(alone.score(digits.X_test), plain.score(digits.X_test), rtol=1e-9)


def test_mahalanobis_of_a_network_is_scipys(digits):
    Z = digits.model.features(digits.X_train).astype(np.float64)
    Q = digits.model.features(digits.X_test[:30]).astype(np.float64)
    score = Mahalanobis(digits.model).fit(digits.X_train, digits.y_train).score(digits.X_test[:30])
    np.testing.assert_allclose(score, distances(Z, digits.y_train, Q).min(1), rtol=1e-6)


def test_normalised_mahalanobis_ignores_the_length_of_the_features(clouds):
    Z, y, Q = clouds
    det = Mahalanobis(trustml.precomputed("features"), normalize=True).fit(Z, y)
    np.testing.assert_allclose(det.score(Q), det.score(7.0 * Q), rtol=1e-9)
    unit = Z / np.linalg.norm(Z, axis=1, keepdims=True)
    other = Mahalanobis(trustml.precomputed("features")).fit(unit, y)
    np.testing.assert_allclose(
        det.score(Q), other.score(Q / np.linalg.norm(Q, axis=1, keepdims=True)), rtol=1e-9
    )


def test_without_labels_features_have_one_gaussian(clouds):
    Z, _, Q = clouds
    score = Mahalanobis(trustml.precomputed("features")).fit(Z).score(Q)
    np.testing.assert_allclose(score, distances(Z, np.zeros(len(Z)), Q)[:, 0], rtol=1e-8)


def test_labels_may_have_gaps_and_be_strings(clouds):
    Z, y, Q = clouds
    model = trustml.precomputed("features")
    plain = Mahalanobis(model).fit(Z, y).score(Q)
    np.testing.assert_allclose(Mahalanobis(model).fit(Z, np.array([-3, 2, 40])[y]).score(Q), plain)
    named = np.array(["ant", "bee", "cat"])[y]
    np.testing.assert_allclose(Mahalanobis(model).fit(Z, named).score(Q), plain)


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(1e-6, 1e6), seed=st.integers(0, 100))
def test_scores_do_not_depend_on_the_unit_of_the_features(scale, seed):
    rng = np.random.default_rng(seed)
    Z, y, Q = rng.normal(size=(60, 4)), np.arange(60) % 3, rng.normal(size=(10, 4))
    model = trustml.precomputed("features")
    for kind in (Mahalanobis, RelativeMahalanobis, Knn):
        before = kind(model).fit(Z, y).score(Q)
        after = kind(model).fit(scale * Z, y).score(scale * Q)
        np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-8)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000))
def test_mahalanobis_is_invariant_to_rotations(seed):
    rng = np.random.default_rng(seed)
    Z, y, Q = rng.normal(size=(60, 4)), np.arange(60) % 3, rng.normal(size=(10, 4))
    rotation = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    model = trustml.precomputed("features")
    for kind in (Mahalanobis, RelativeMahalanobis):
        before = kind(model).fit(Z, y).score(Q)
        after = kind(model).fit(Z @ rotation, y).score(Q @ rotation)
        np.testing.assert_allclose(after, before, rtol=1e-7, atol=1e-8)


def test_fewer_rows_than_features_never_give_negative_distances():
    rng = np.random.default_rng(0)
    Z, y, Q = rng.normal(size=(40, 64)), np.arange(40) % 4, rng.normal(size=(2000, 64))
    score = Mahalanobis(trustml.precomputed("features")).fit(Z, y).score(Q)
    assert (score > 0).all()
    assert score.min() > Mahalanobis(trustml.precomputed("features")).fit(Z, y).score(Z).max()


def test_dead_units_and_ledoit_wolf():
    rng = np.random.default_rng(0)
    Z = np.c_[rng.normal(size=(80, 3)), np.zeros((80, 2))]
    for shrinkage in (1e-3, "ledoit-wolf"):
        det = Mahalanobis(trustml.precomputed("features"), shrinkage=shrinkage).fit(Z)
        assert np.isfinite(det.score(Z)).all()
        awake = np.array([[0.0, 0.0, 0.0, 1.0, 1.0]])  # a unit that never fired
        assert det.score(awake)[0] > det.score(Z).max()


def test_knn_is_scikit_learns(digits):
    Z, Q = (digits.model.features(X) for X in (digits.X_train, digits.X_test))
    unit = [z / np.linalg.norm(z, axis=1, keepdims=True) for z in (Z, Q)]
    found = NearestNeighbors(n_neighbors=7).fit(unit[0]).kneighbors(unit[1])[0][:, -1]
    score = Knn(digits.model, k=7).fit(digits.X_train).score(digits.X_test)
    np.testing.assert_allclose(score, found, atol=1e-5)
    score = Knn(digits.model, k=7, normalize=False).fit(digits.X_train).score(digits.X_test)
    expected = np.sort(cdist(Q, Z), axis=1)[:, 6]
    np.testing.assert_allclose(score, expected, rtol=1e-4)


def test_knn_in_blocks_is_the_same(digits, monkeypatch):
    whole = Knn(digits.model).fit(digits.X_train).score(digits.X_test)
    monkeypatch.setattr("trustml.ood._knn._BLOCK", 3000)  # three rows at a time
    np.testing.assert_allclose(Knn(digits.model).fit(digits.X_train).score(digits.X_test), whole)


def test_knn_takes_the_root_of_n_by_default(digits):
    assert Knn(digits.model).fit(digits.X_train).k_ == 32


def test_knn_of_features_that_are_all_zero():
    model = trustml.precomputed("features")
    score = Knn(model, k=1).fit(np.eye(3)).score(np.zeros((1, 3)))
    assert score[0] == pytest.approx(1.0)


def test_torch_features_in_torch_scores_out(clouds):
    Z, y, Q = clouds
    det = Mahalanobis(trustml.precomputed("features")).fit(torch.tensor(Z), torch.tensor(y))
    score = det.score(torch.tensor(Q))
    assert isinstance(score, torch.Tensor)
    np.testing.assert_allclose(score.numpy(), det.score(Q))


def test_bad_input_is_refused(clouds, digits):
    Z, y, _ = clouds
    model = trustml.precomputed("features")
    with pytest.raises(ValueError, match="k must be at most the 3 rows of fit, got 4"):
        Knn(model, k=4).fit(Z[:3])
    with pytest.raises(ValueError, match="k must be a positive integer"):
        Knn(model, k=0).fit(Z)
    with pytest.raises(TypeError, match="k must be a positive integer"):
        Knn(model, k=2.5).fit(Z)
    with pytest.raises(ValueError, match="shrinkage must be"):
        Mahalanobis(model, shrinkage=2.0).fit(Z)
    with pytest.raises(ValueError, match="more rows than classes"):
        Mahalanobis(model).fit(Z[:1])
    assert "more rows than classes" in Suite(model).fit(Z[:1]).left_out_["Mahalanobis"]
    with pytest.raises(ValueError, match="features that vary within a class"):
        Mahalanobis(model).fit(np.ones((10, 3)))
    with pytest.raises(ValueError, match="with one class use Mahalanobis"):
        RelativeMahalanobis(model).fit(Z, np.zeros(len(Z), dtype=int))
    with pytest.raises(ValueError, match="pass y to fit"):
        RelativeMahalanobis(model).fit(Z)
    with pytest.raises(ValueError, match="same length"):
        Mahalanobis(model).fit(Z, y[:-1])
    with pytest.raises(ValueError, match="labels that the model does not know"):
        Mahalanobis(digits.model).fit(digits.X_train, digits.y_train + 1)
