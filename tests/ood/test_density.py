"""Densities, clusters, residuals, Gram matrices, forests and boundaries against plain formulae."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn import cluster, ensemble, mixture, svm
from sklearn.linear_model import LogisticRegression
from torch import nn

import trustml
from trustml.ood import (
    GaussianMixture,
    Gmm,
    Gram,
    IsolationForest,
    KMeans,
    OneClassSvm,
    UnsuitableError,
    Vim,
)
from trustml.ood._gram import gram_sums

FEATURES = trustml.precomputed("features")
ON_FEATURES = [Gmm, GaussianMixture, KMeans, IsolationForest, OneClassSvm, Gram]


@pytest.fixture(scope="module")
def clouds():
    """Features of three classes with covariances of their own."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(3, 5, 5)) * np.array([3.0, 1.0, 1.0, 0.5, 0.3])
    y = rng.choice(3, 300, p=[0.5, 0.3, 0.2])
    means = rng.normal(size=(3, 5)) * 6
    Z = means[y] + np.einsum("nd,ned->ne", rng.normal(size=(300, 5)), mixing[y])
    return Z, y, rng.normal(size=(40, 5)) * 8


def density(Z, y, Q, s):
    """Minus the log density, features in units of the mean variance within classes."""
    centred = np.concatenate([Z[y == k] - Z[y == k].mean(0) for k in np.unique(y)])
    S = centred.T @ centred / len(Z)
    unit = np.trace((1 - s) * S + s * np.trace(S) / len(S) * np.eye(len(S))) / len(S)
    logs = []
    for k in np.unique(y):
        S = np.cov(Z[y == k].T, bias=True)
        S = (1 - s) * S + s * np.trace(S) / len(S) * np.eye(len(S))
        gaussian = multivariate_normal(Z[y == k].mean(0) / unit**0.5, S / unit)
        logs.append(np.log(np.mean(y == k)) + gaussian.logpdf(Q / unit**0.5))
    return -logsumexp(logs, axis=0)


@pytest.mark.parametrize("shrinkage", [0.05, 0.0, 0.5])
def test_gmm_is_scipys(clouds, shrinkage):
    Z, y, Q = clouds
    score = Gmm(FEATURES, shrinkage).fit(Z, y).score(Q)
    np.testing.assert_allclose(score, density(Z, y, Q, shrinkage), rtol=1e-9)
    named = Gmm(FEATURES, shrinkage).fit(Z, np.array(["c", "a", "b"])[y]).score(Q)
    np.testing.assert_allclose(named, score, rtol=1e-9)
    one = Gmm(FEATURES, shrinkage).fit(Z).score(Q)
    np.testing.assert_allclose(one, density(Z, np.zeros(300), Q, shrinkage), rtol=1e-9)


def test_gmm_streams(clouds):
    Z, y, Q = clouds
    parts = Gmm(FEATURES)
    for rows in np.split(np.random.default_rng(1).permutation(300), [30, 31, 170]):
        parts.partial_fit(Z[rows], y[rows])
    np.testing.assert_allclose(parts.score(Q), Gmm(FEATURES).fit(Z, y).score(Q), rtol=1e-10)


def test_gmm_of_a_class_with_one_row_takes_the_common_covariance(clouds):
    Z, y, _ = clouds
    Z, y = np.r_[Z, [[40.0, 40, 40, 40, 40]]], np.r_[y, 3]
    score = Gmm(FEATURES).fit(Z, y).score(Z)
    assert np.isfinite(score).all()
    near = np.array([[40.5, 40, 40, 40, 40]])
    between = (near + Z[0]) / 2
    det = Gmm(FEATURES).fit(Z, y)
    assert det.score(near) < det.score(between)


def test_gmm_over_layers_is_the_sum(digits):
    det = Gmm(digits.model, layers="auto").fit(digits.X_train, digits.y_train)
    each = [
        Gmm(digits.model, layers=[name]).fit(digits.X_train, digits.y_train) for name in det.layers_
    ]
    Q = digits.X_test[:50]
    assert len(each) == 2
    np.testing.assert_allclose(det.score(Q), sum(one.score(Q) for one in each), rtol=1e-9)
    np.testing.assert_allclose(det.score_layers(Q)[:, 0], each[0].score(Q), rtol=1e-9)


@pytest.mark.parametrize("kind", ON_FEATURES)
@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_scores_do_not_depend_on_the_unit_of_the_features(clouds, kind, factor):
    Z, y, Q = clouds
    before, after = kind(FEATURES).fit(Z, y).score(Q), kind(FEATURES).fit(factor * Z, y)
    # Trees compare in single precision; a cut may fall between two roundings.
    np.testing.assert_allclose(after.score(factor * Q), before, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", ON_FEATURES)
def test_fewer_rows_than_features_and_dead_units(kind):
    rng = np.random.default_rng(0)
    Z, y, Q = rng.normal(size=(24, 40)), np.arange(24) % 3, rng.normal(size=(200, 40)) * 3
    Z[:, 30:], Q[:, 30:] = 0.0, 0.0
    det = kind(FEATURES).fit(Z, y)
    assert np.isfinite(det.score(Q)).all()
    assert np.median(det.score(Q)) > np.median(det.score(Z))
    awake = np.zeros((1, 40))
    awake[:, 30:] = 9.0
    assert np.isfinite(det.score(awake)).all()


@pytest.mark.parametrize("kind", ON_FEATURES)
def test_constant_features_are_refused_or_scored(kind):
    Z = np.ones((30, 3))
    if kind is Gram:
        assert kind(FEATURES).fit(Z).score(Z + 1).min() > kind(FEATURES).fit(Z).score(Z).max()
        return
    with pytest.raises(UnsuitableError, match="features that vary"):
        kind(FEATURES).fit(Z)


def test_kmeans_is_scikit_learns(clouds):
    Z, y, Q = clouds
    det = KMeans(FEATURES, n_clusters=3).fit(Z, y)
    theirs = cluster.KMeans(3, n_init=10, tol=0.0, random_state=1).fit(Z)
    radius = np.sqrt(theirs.inertia_ / len(Z))
    np.testing.assert_allclose(det.score(Q), theirs.transform(Q).min(1) / radius, rtol=1e-9)
    assert len(KMeans(FEATURES).fit(Z).centres_) == 8
    assert len(KMeans(FEATURES).fit(Z, y).centres_) == 3
    every = KMeans(FEATURES, n_clusters=30).fit(Z[:30])
    np.testing.assert_allclose(every.score(Z[:30]), 0, atol=1e-6)


def test_the_mixture_is_scikit_learns(clouds):
    Z, y, Q = clouds
    det = GaussianMixture(FEATURES).fit(Z, y)
    scale = np.sqrt(((Z - Z.mean(0)) ** 2).mean())
    rows, queries = (Z - Z.mean(0)) / scale, (Q - Z.mean(0)) / scale
    logs = []
    for mean, whitening, level in zip(det.means_, det.whitening_, det.levels_, strict=True):
        precision = (whitening @ whitening.T).numpy()
        form = np.einsum("nd,de,ne->n", queries - mean.numpy(), precision, queries - mean.numpy())
        logs.append(float(level) - 0.5 * form)
    np.testing.assert_allclose(det.score(Q), -logsumexp(logs, axis=0), rtol=1e-9)
    again = mixture.GaussianMixture(3, reg_covar=1e-2, max_iter=500, n_init=5, random_state=3)
    best = again.fit(rows).score(rows)
    assert -det.score(Z).mean() > best - 0.5, "a fit about as good as the best of five"


def test_the_svm_is_scikit_learns(clouds):
    Z, _, Q = clouds
    rows = (Z - Z.mean(0)) / np.sqrt(((Z - Z.mean(0)) ** 2).mean())
    queries = (Q - Z.mean(0)) / np.sqrt(((Z - Z.mean(0)) ** 2).mean())
    theirs = svm.OneClassSVM(gamma=1 / 5, nu=0.1, tol=1e-8).fit(rows)
    expected = 1 - theirs.score_samples(queries) / theirs.dual_coef_.sum()
    np.testing.assert_allclose(OneClassSvm(FEATURES).fit(Z).score(Q), expected, atol=1e-6)
    assert len(OneClassSvm(FEATURES, nu=0.9, max_rows=50).fit(Z).vectors_) <= 50


def test_the_forest_is_scikit_learns(clouds):
    Z, _, Q = clouds
    scale = np.sqrt(((Z - Z.mean(0)) ** 2).mean())
    rows, queries = (Z - Z.mean(0)) / scale, (Q - Z.mean(0)) / scale
    rows = rows[np.lexsort(np.round(rows, 5).T[::-1])]
    theirs = ensemble.IsolationForest(n_estimators=200, max_samples=256, random_state=0).fit(rows)
    score = IsolationForest(FEATURES).fit(Z).score(Q)
    np.testing.assert_allclose(score, -theirs.score_samples(queries), rtol=1e-6)


def test_vim_is_its_formula():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 300)
    X = rng.normal(size=(3, 6))[y] * 3 + rng.normal(size=(300, 6)) * [2, 1, 1, 0.5, 0.2, 0.1]
    regression = LogisticRegression(max_iter=1000).fit(X, y)
    W, b, Q = regression.coef_, regression.intercept_, rng.normal(size=(30, 6)) * 5
    origin = -np.linalg.pinv(W, rcond=1e-4) @ b
    values, vectors = np.linalg.eigh((X - origin).T @ (X - origin))
    assert (np.diff(values) > 0).all()
    complement = vectors[:, :4]
    residual = np.linalg.norm((X - origin) @ complement, axis=1)
    alpha = (X @ W.T + b).max(1).mean() / residual.mean()
    expected = alpha * np.linalg.norm((Q - origin) @ complement, axis=1)
    expected -= logsumexp(Q @ W.T + b, axis=1)
    score = Vim(regression, dim=2).fit(X).score(Q)
    np.testing.assert_allclose(score, expected, rtol=1e-9)
    for factor in (1e-4, 1e4):
        head = nn.Linear(6, 3).double()
        with torch.no_grad():
            head.weight.copy_(torch.tensor(W / factor))
            head.bias.copy_(torch.tensor(b))
        scaled = Vim(trustml.wrap(head, task="classification"), dim=2).fit(factor * X)
        np.testing.assert_allclose(scaled.score(factor * Q), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="less than the 6 features, got 6"):
        Vim(regression, dim=6).fit(X)
    with pytest.raises(UnsuitableError, match="more rows, or lower dim"):
        Vim(regression, dim=4).fit(X[:3])


def gram_excess(maps_fit, c_fit, maps, c, orders, classes):
    """Loop over everything; the mean relative excess of one layer."""

    def sums(F):
        found = []
        for p in orders:
            G = (F**p) @ (F**p).T
            v = G.sum(1)
            found.append(np.sign(v) * np.abs(v) ** (1 / p))
        return np.concatenate(found)

    V, W = np.array([sums(F) for F in maps_fit]), np.array([sums(F) for F in maps])
    tops = np.array([V[c_fit == k].max(0) for k in classes])
    least = 1e-3 * np.abs(tops).mean()
    out = []
    for v, k in zip(W, c, strict=True):
        low, high = V[c_fit == k].min(0), V[c_fit == k].max(0)
        over = np.maximum(v - high, 0) / np.maximum(np.abs(high), least)
        under = np.maximum(low - v, 0) / np.maximum(np.abs(low), least)
        out.append((over + under).mean())
    return np.array(out)


def test_gram_is_its_formula_and_streams():
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(6, 3),
        ).double()  # fmt: skip
    X = torch.randn(80, 1, 8, 8, generator=generator).double()
    Q = torch.randn(20, 1, 8, 8, generator=generator).double() * 2
    model = trustml.wrap(net, task="classification")
    det = Gram(model, orders=(1, 2, 4), layers=["1", "3"]).fit(X)
    seen, asked = (model.observe(rows, ["1", "3"]) for rows in (X, Q))
    c_fit, c = seen.logits.argmax(1).numpy(), asked.logits.argmax(1).numpy()
    known = np.isin(c, np.unique(c_fit))
    expected = sum(
        gram_excess(
            seen.layers[name].flatten(2).numpy(), c_fit,
            asked.layers[name].flatten(2).numpy()[known], c[known], (1, 2, 4), np.unique(c_fit),
        )
        for name in ("1", "3")
    )  # fmt: skip
    score = det.score(Q)[known.tolist()].numpy()
    out = expected > 0
    assert out.sum() > 5
    np.testing.assert_allclose(score[out], expected[out], rtol=1e-9)
    inside = det.score(X)
    assert (inside <= 0).all()
    assert (inside >= -1).all()
    parts = Gram(model, orders=(1, 2, 4), layers=["1", "3"])
    for rows in torch.randperm(80, generator=generator).split(23):
        parts.partial_fit(X[rows])
    torch.testing.assert_close(parts.score(Q), det.score(Q), rtol=1e-12, atol=1e-12)
    assert Gram(model).fit(X).layers_ == ["1", "4"]


def test_gram_sums_of_any_order_and_precision_in_blocks():
    maps = torch.randn(37, 5, 40, 50, generator=torch.Generator().manual_seed(0)).double()
    maps[3] = 0
    maps[:, 1] = maps[:, 1].abs() * 1e-5
    F = maps.flatten(2).numpy()
    for orders in ((1, 2, 3, 4, 5), (3,), (2, 9), (5, 1)):
        v = np.concatenate([((F**p) @ (F**p).transpose(0, 2, 1)).sum(2) for p in orders], 1)
        p = np.repeat(orders, 5)
        expected = np.sign(v) * np.abs(v) ** (1 / p)
        for dtype, rtol in ((torch.float64, 1e-11), (torch.float32, 1e-4)):
            found = gram_sums(maps.to(dtype), channels_first=True, orders=orders)
            assert found.dtype == torch.float64
            least = rtol * np.abs(expected).max(axis=1, keepdims=True) + 1e-60
            assert (np.abs(found.numpy() - expected) <= rtol * np.abs(expected) + least).all()
    alone = gram_sums(maps[5:6].float(), channels_first=True, orders=(1, 5))
    whole = gram_sums(maps.float(), channels_first=True, orders=(1, 5))
    torch.testing.assert_close(whole[5:6], alone, rtol=1e-6, atol=0)


def test_bad_settings_are_refused(clouds, digits):
    Z, y, _ = clouds
    for wrong, text in (
        (Gmm(FEATURES, shrinkage=2.0), "shrinkage must be"),
        (Gmm(FEATURES, shrinkage="oas"), "shrinkage must be"),
        (KMeans(FEATURES, n_clusters=301), "n_clusters must be at most the 300"),
        (KMeans(FEATURES, n_clusters=0), "n_clusters must be a positive"),
        (GaussianMixture(FEATURES, n_components=400), "n_components must be at most"),
        (GaussianMixture(FEATURES, ridge=0.0), "ridge must be"),
        (OneClassSvm(FEATURES, nu=0.0), "nu must be"),
        (IsolationForest(FEATURES, n_trees=0), "n_trees must be"),
        (Gram(FEATURES, orders=()), "orders must be"),
    ):
        with pytest.raises(ValueError, match=text):
            wrong.fit(Z, y)
    with pytest.raises(ValueError, match=r"'9'.*1, 2, 3"):
        Gmm(digits.model, layers=["9"]).fit(digits.X_train)
