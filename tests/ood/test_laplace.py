"""Last-layer Laplace against the dense formula."""

import copy

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression, Ridge
from torch import nn

import trustml
from trustml.ood import LastLayerLaplace


def jacobian(features, n_outputs, bias=True):
    """Rows of d outputs / d (weight, bias) for each example, shape (n, c, p)."""
    n, h = features.shape
    eye = np.eye(n_outputs)
    weight = np.einsum("ij,nh->nijh", eye, features).reshape(n, n_outputs, n_outputs * h)
    return np.concatenate([weight, np.tile(eye, (n, 1, 1))], axis=2) if bias else weight


def dense(features, curvature, queries, query_curvature, decay, damping, bias=True):
    """tr(Λ V) with V = J (G + λ)^-1 J' / n, written out."""
    c = curvature.shape[1]
    J, Jq = (jacobian(z, c, bias) for z in (features, queries))
    LJ = np.einsum("nij,njq->niq", curvature, J)
    G = np.tensordot(J, LJ, ((0, 1), (0, 1))) / len(features) + np.diag(decay)
    damping = 1e-3 * np.trace(G) / len(G) if damping == "auto" else damping
    inverse = np.linalg.inv(G + damping * np.eye(len(G)))
    V = Jq @ inverse @ Jq.transpose(0, 2, 1) / len(features)
    return np.einsum("nij,nji->n", query_curvature, V)


def softmax_curvature(p):
    return np.einsum("ni,ij->nij", p, np.eye(p.shape[1])) - p[:, :, None] * p[:, None, :]


def head(model, X):
    """Features and probabilities in float64: p (1 - p) of a sure row is lost in float32."""
    features = model.features(X).astype(np.float64)
    weight, bias = (part.double().numpy() for part in model.head)
    return features, softmax(features @ weight.T + bias, axis=1)


@pytest.mark.parametrize("damping", ["auto", 0.01])
@pytest.mark.parametrize("method", ["auto", "cholesky", "dual"])
def test_network_is_the_dense_formula(digits, damping, method):
    X, Q = digits.X_train[:120], digits.X_test[:25]
    (Z, p), (Zq, pq) = head(digits.model, X), head(digits.model, Q)
    decay = np.zeros(10 * 33)
    expected = dense(Z, softmax_curvature(p), Zq, softmax_curvature(pq), decay, damping)
    det = LastLayerLaplace(digits.model, damping=damping, method=method).fit(X)
    np.testing.assert_allclose(det.score(Q), expected, rtol=1e-6)


def test_binary_one_output_head_is_the_dense_formula():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 5))
    y = np.where(X[:, 0] + rng.normal(size=200) > 0, "yes", "no")
    fitted = LogisticRegression(C=0.5).fit(X, y)
    model = trustml.wrap(fitted, train=(X, y))
    Q = rng.normal(size=(30, 5)) * 2
    p, pq = fitted.predict_proba(X)[:, 1], fitted.predict_proba(Q)[:, 1]
    decay = np.r_[np.full(5, 1 / (0.5 * 200)), 0.0]  # the intercept is not penalised
    expected = dense(X, (p * (1 - p))[:, None, None], Q, (pq * (1 - pq))[:, None, None], decay, 0.0)
    score = LastLayerLaplace(model, damping=0.0).fit(X).score(Q)
    np.testing.assert_allclose(score, expected, rtol=1e-5)


def test_one_and_two_output_networks_agree():
    # σ(f) is the softmax of (0, f): the same model, the same variance of its loss.
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 3)).astype(np.float32)
    y = (X[:, 0] > 0).astype(np.int64)
    one, two = nn.Linear(3, 1), nn.Linear(3, 2)
    with torch.no_grad():
        two.weight.copy_(torch.cat([-one.weight / 2, one.weight / 2]))
        two.bias.copy_(torch.cat([-one.bias / 2, one.bias / 2]))
    scores = [
        LastLayerLaplace(trustml.wrap(net, train=(X, y)), damping=damping).fit(X).score(X)
        for net, damping in ((one, 1e-3), (two, 2e-3))
    ]
    # The difference direction of the two heads has twice the curvature, so twice the damping.
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-3)


def test_regression_is_the_leverage():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 4))
    fitted = Ridge(alpha=1e-9).fit(X, X[:, 0] + 1.0)
    model = trustml.wrap(fitted, train=(X, X[:, 0] + 1.0))
    design = np.c_[X, np.ones(80)]
    leverage = np.einsum("ni,ij,nj->n", design, np.linalg.inv(design.T @ design), design)
    # Squared error is unhalved: Λ = 2 here and in G cancels to the leverage.
    score = LastLayerLaplace(model, damping=0.0).fit(X).score(X)
    np.testing.assert_allclose(score, leverage, rtol=1e-5)


def test_head_without_bias():
    rng = np.random.default_rng(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3, bias=False))
    X = rng.normal(size=(90, 4)).astype(np.float32)
    model = trustml.wrap(net, task="classification")
    Z, p = head(model, X)
    L = softmax_curvature(p)
    expected = dense(Z, L, Z[:9], L[:9], np.zeros(18), 1e-3, bias=False)
    score = LastLayerLaplace(model, damping=1e-3).fit(X).score(X[:9])
    np.testing.assert_allclose(score, expected, rtol=1e-6)


def test_weight_decay_of_the_last_layer_is_in_the_curvature(digits):
    X = digits.X_train[:100]
    Z, p = head(digits.model, X)
    decayed = trustml.wrap(
        digits.net, train=(X, digits.y_train[:100]), weight_decay={"4.weight": 0.1, "0.weight": 9.0}
    )
    L, decay = softmax_curvature(p), np.r_[np.full(320, 0.1), np.zeros(10)]
    expected = dense(Z, L, Z[:20], L[:20], decay, 1e-3)
    score = LastLayerLaplace(decayed, damping=1e-3).fit(X).score(X[:20])
    np.testing.assert_allclose(score, expected, rtol=1e-6)


def test_reparametrised_heads_are_served(digits):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 3))
    normed = copy.deepcopy(plain)
    nn.utils.parametrizations.weight_norm(normed[2])
    X, y = digits.X_train[:90], digits.y_train[:90] % 3
    scores = [
        LastLayerLaplace(trustml.wrap(net, train=(X, y), weight_decay=decay)).fit(X).score(X)
        for net, decay in ((plain, {"2.bias": 0.1}), (normed, {"2.bias": 0.1, "original": 0.1}))
    ]
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-4)


def test_blocks_do_not_change_the_scores(digits, monkeypatch):
    det = LastLayerLaplace(digits.model).fit(digits.X_train[:200])
    whole = det.score(digits.X_test[:30])
    monkeypatch.setattr("trustml.ood._laplace._BLOCK", 330 * 10 * 4)
    np.testing.assert_allclose(det.score(digits.X_test[:30]), whole, rtol=1e-9)


def test_more_rows_mean_less_variance(digits):
    few = LastLayerLaplace(digits.model, damping=1e-3).fit(digits.X_train[:100])
    many = LastLayerLaplace(digits.model, damping=1e-3).fit(digits.X_train)
    assert many.score(digits.X_test).mean() < 0.3 * few.score(digits.X_test).mean()


def test_rows_beyond_the_limit_are_thinned_evenly(digits):
    thin = LastLayerLaplace(digits.model, damping=1e-3, max_rows=101).fit(digits.X_train[:301])
    same = LastLayerLaplace(digits.model, damping=1e-3).fit(digits.X_train[:301:3])
    # The curvature of every third row, the certainty of all of them.
    Q = digits.X_test[:20]
    np.testing.assert_allclose(thin.score(Q), same.score(Q) * 101 / 301, rtol=1e-9)


def test_heads_that_are_too_large_are_refused_not_begun(digits, monkeypatch):
    monkeypatch.setattr("trustml.ood._laplace._LARGEST_DIRECT", 300)
    with pytest.raises(ValueError, match="330 parameters is too large"):
        LastLayerLaplace(digits.model).fit(digits.X_train)
    few = digits.X_train[:20]  # 200 output rows: the dual solve is small
    insist = LastLayerLaplace(digits.model, damping=0.1, method="cg").fit(few)
    score = LastLayerLaplace(digits.model, damping=0.1).fit(few).score(few[:3])
    np.testing.assert_allclose(insist.score(few[:3]), score, rtol=0.02)


def test_bad_input_is_refused(digits):
    for damping in (-1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="damping must be 'auto' or a number"):
            LastLayerLaplace(digits.model, damping=damping).fit(digits.X_train)
    with pytest.raises(ValueError, match="a differentiable last linear layer"):
        LastLayerLaplace(trustml.precomputed("features")).fit(np.zeros((5, 2)))
