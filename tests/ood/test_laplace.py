"""Last-layer Laplace against the dense formula."""

import copy
import pickle
from decimal import Decimal

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import spearmanr
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from torch import nn

import trustml
from trustml.core.losses import CrossEntropy
from trustml.ood import LastLayerLaplace
from trustml.ood._heldout_damping import holdout
from trustml.ood._output_curvature import rotated_curvature


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
def test_network_is_the_dense_formula(digits, damping):
    X, Q = digits.X_train[:120], digits.X_test[:25]
    (Z, p), (Zq, pq) = head(digits.model, X), head(digits.model, Q)
    det = LastLayerLaplace(digits.model, damping=damping).fit(X)
    assert det.structure_ == "full"
    expected = dense(
        Z, softmax_curvature(p), Zq, softmax_curvature(pq), np.zeros(10 * 33), det.damping_
    )
    np.testing.assert_allclose(det.score(Q), expected, rtol=1e-6)


def kronecker(features, curvature, queries, query_curvature, damping):
    """tr(Λ V) with G replaced by its diagonal in the eigenbasis of its partial traces."""
    Z, Zq = (np.c_[part, np.ones(len(part))] for part in (features, queries))
    U = np.linalg.eigh(np.einsum("nij,nk->ij", curvature, Z**2))[1]
    W = np.linalg.eigh(np.einsum("nii,nk,nl->kl", curvature, Z, Z))[1]
    Q = np.kron(U, W)
    G = np.mean([np.kron(L, np.outer(z, z)) for L, z in zip(curvature, Z, strict=True)], axis=0)
    inverse = (Q / (np.diag(Q.T @ G @ Q) + damping)) @ Q.T
    J = np.einsum("ij,nk->nijk", np.eye(len(U)), Zq).reshape(len(Zq), len(U), -1)
    return np.einsum("nij,njp,pq,niq->n", query_curvature, J, inverse, J) / len(Z)


def test_kronecker_structure_is_the_diagonal_in_its_basis(digits):
    X, Q = digits.X_train[:60], digits.X_test[:9]
    (Z, p), (Zq, pq) = head(digits.model, X), head(digits.model, Q)
    det = LastLayerLaplace(digits.model, damping=1e-4, structure="kronecker").fit(X)
    expected = kronecker(Z, softmax_curvature(p), Zq, softmax_curvature(pq), 1e-4)
    np.testing.assert_allclose(det.score(Q), expected, rtol=1e-6)


def test_kronecker_structure_is_exact_for_one_output_and_for_squared_error():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(70, 4))
    one = trustml.wrap(LogisticRegression().fit(X, X[:, 0] > 0))
    several = trustml.wrap(LinearRegression().fit(X, X[:, :3] ** 2))
    for model in (one, several):
        pair = [
            LastLayerLaplace(model, damping=1e-3, structure=structure).fit(X).score(X)
            for structure in ("full", "kronecker")
        ]
        np.testing.assert_allclose(pair[0], pair[1], rtol=1e-9)


def test_kronecker_structure_is_near_the_whole(digits):
    pair = [
        LastLayerLaplace(digits.model, damping=1e-4, structure=structure)
        .fit(digits.X_train)
        .score(digits.X_test)
        for structure in ("full", "kronecker")
    ]
    assert spearmanr(*pair)[0] > 0.98
    assert abs(np.log(pair[1].mean() / pair[0].mean())) < 0.3


def test_class_weights_and_smoothing_are_in_the_curvature():
    rng = np.random.default_rng(0)
    X, weight = rng.normal(size=(50, 4)).astype(np.float32), torch.tensor([1.0, 5.0, 0.3])
    y = np.arange(50) % 3
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Tanh(), nn.Linear(4, 3))
    loss = nn.CrossEntropyLoss(weight=weight, label_smoothing=0.1)
    model = trustml.wrap(net, train=(X, y), loss=loss)
    Z, p = head(model, X)
    own = 0.9 * weight.numpy() + 0.1 * weight.mean().item()
    L = softmax_curvature(p)
    scale, query = own[y], own[p.argmax(axis=1)]  # queries have their predicted labels
    scaled, asked = L * scale[:, None, None], L * query[:, None, None]
    for structure, reference in (
        ("full", dense(Z, scaled, Z, asked, np.zeros(15), 1e-3)),
        ("kronecker", kronecker(Z, scaled, Z, asked, 1e-3)),
    ):
        det = LastLayerLaplace(model, damping=1e-3, structure=structure).fit(X, y)
        np.testing.assert_allclose(det.score(X), reference, rtol=1e-5)


def test_sure_rows_keep_their_digits():
    # p (1 - p) of a probability near one, against the same number from the other side.
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3))
    net = nn.Linear(3, 4).double()
    with torch.no_grad():
        net.weight.copy_(torch.tensor(rng.normal(size=(4, 3)) * 15))
    model = trustml.wrap(nn.Sequential(nn.Identity(), net), task="classification")
    outputs = (torch.tensor(X) @ net.weight.T + net.bias).detach()
    p = [[Decimal(float(f)).exp() for f in row] for row in outputs]
    p = [[value / sum(row) for value in row] for row in p]
    curvature = np.array(
        [[[float((a if i == j else 0) - a * b) for j, b in enumerate(r)] for i, a in enumerate(r)]
         for r in p]
    )  # fmt: skip
    Q, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    found = rotated_curvature(
        CrossEntropy(), outputs, torch.zeros(40, dtype=torch.long), torch.tensor(Q)
    )
    exact = np.einsum("ij,nik,kj->nj", Q, curvature, Q)
    assert max(max(row) for row in p) > 1 - Decimal("1e-14")
    np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-20)
    assert np.isfinite(LastLayerLaplace(model).fit(X).score(X)).all()


def test_gaussian_last_layer_laplace_is_leverage_is_uncentred_mahalanobis():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 5)) * np.logspace(-2, 2, 5)
    net = nn.Sequential(nn.Identity(), nn.Linear(5, 2, bias=False)).double()
    model = trustml.wrap(net, task="regression", loss=nn.MSELoss())
    leverage = np.einsum("ni,ij,nj->n", X, np.linalg.inv(X.T @ X), X)
    for structure in ("full", "kronecker"):
        score = LastLayerLaplace(model, damping=0.0, structure=structure).fit(X).score(X)
        np.testing.assert_allclose(score, 2 * leverage, rtol=1e-10)  # one for each output


def test_held_out_likelihood_chooses_the_damping():
    # The reference writes the Gaussian likelihood out, and looks at a grid.
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 30))
    net = nn.Sequential(nn.Identity(), nn.Linear(30, 1, bias=False)).double()
    model = trustml.wrap(net, task="regression", loss=nn.MSELoss())
    chosen = LastLayerLaplace(model).fit(X).damping_
    held = holdout(torch.tensor(X).sum(dim=1)).numpy()
    assert held.sum() == 8
    G, H = (2 * part.T @ part / len(part) for part in (X[~held], X[held]))

    def loss(damping):
        A = G + damping * np.eye(30)
        return np.trace(np.linalg.solve(A, H)) + np.linalg.slogdet(A)[1]

    grid = np.geomspace(1e-6, 10, 2000)
    assert abs(np.log(chosen / grid[np.argmin([loss(value) for value in grid])])) < 0.02
    assert 0.05 < chosen < 2, "too few rows for their dimension: the damping matters"
    many = LastLayerLaplace(model).fit(rng.normal(size=(4000, 30))).damping_
    assert many < 0.1 * chosen, "with many rows it does not"


def test_large_heads_take_the_kronecker_structure_in_little_memory():
    # 400 classes x 256 features: the whole matrix would take 84 GB, one row of φ ⊗ I 330 MB.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.ReLU(), nn.Linear(256, 400))
    X = np.random.default_rng(0).normal(size=(600, 256)).astype(np.float32)
    det = LastLayerLaplace(trustml.wrap(net, task="classification")).fit(X)
    assert det.structure_ == "kronecker"
    score = det.score(X[:20])
    assert np.isfinite(score).all()
    assert (score > 0).all()
    assert len(pickle.dumps(det)) < 2**24


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


@pytest.mark.parametrize("structure", ["full", "kronecker"])
def test_blocks_do_not_change_the_scores(digits, monkeypatch, structure):
    def made():
        det = LastLayerLaplace(digits.model, damping=1e-4, structure=structure)
        return det.fit(digits.X_train[:100])

    whole = made().score(digits.X_test[:30])
    monkeypatch.setattr("trustml.ood._laplace._BLOCK", 430 * 4)
    monkeypatch.setattr("trustml.ood._last_layer._ROWS", 7)
    np.testing.assert_allclose(made().score(digits.X_test[:30]), whole, rtol=1e-6)


def test_more_rows_mean_less_variance(digits):
    few = LastLayerLaplace(digits.model, damping=1e-3).fit(digits.X_train[:100])
    many = LastLayerLaplace(digits.model, damping=1e-3).fit(digits.X_train)
    assert many.score(digits.X_test).mean() < 0.3 * few.score(digits.X_test).mean()


def test_rows_beyond_the_limit_are_thinned_evenly(digits):
    X, Q = digits.X_train[:301], digits.X_test[:20]
    thin = LastLayerLaplace(digits.model, damping=1e-3, max_rows=76).fit(X)
    same = LastLayerLaplace(digits.model, damping=1e-3).fit(X[::4])
    # The curvature of every fourth row, the certainty of all of them.
    np.testing.assert_allclose(thin.score(Q), same.score(Q) * 76 / 301, rtol=1e-9)


@pytest.mark.parametrize("max_rows", [5000, 40])
def test_learning_in_parts_is_learning_at_once(digits, max_rows):
    whole = LastLayerLaplace(digits.model, max_rows=max_rows).fit(digits.X_train[:200])
    parts = LastLayerLaplace(digits.model, max_rows=max_rows)
    for start in (0, 3, 70, 111):
        stop = {0: 3, 3: 70, 70: 111, 111: 200}[start]
        parts.partial_fit(digits.X_train[start:stop])
    Q = digits.X_test[:20]
    np.testing.assert_allclose(parts.score(Q), whole.score(Q), rtol=1e-5)


def test_bad_input_is_refused(digits):
    for damping in (-1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="damping must be 'auto' or a number"):
            LastLayerLaplace(digits.model, damping=damping).fit(digits.X_train)
    with pytest.raises(ValueError, match="structure must be one of"):
        LastLayerLaplace(digits.model, structure="diagonal").fit(digits.X_train)
    with pytest.raises(ValueError, match="max_rows"):
        LastLayerLaplace(digits.model, max_rows=0).fit(digits.X_train)
    with pytest.raises(ValueError, match="a differentiable last linear layer"):
        LastLayerLaplace(trustml.precomputed("features")).fit(np.zeros((5, 2)))
