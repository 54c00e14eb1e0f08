"""Detectors on gradients against dense Jacobians and eigendecompositions in float64."""

import copy

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import LinearRegression, LogisticRegression
from torch import nn
from torch.func import functional_call, jacrev, vmap

import trustml
from trustml.core.gradients import PerExampleGradients
from trustml.ihvp import Hessian, Objective
from trustml.ood import Suite
from trustml.ood._full_laplace import FullLaplace
from trustml.ood._leverage import Leverage
from trustml.ood._local_ensemble import LocalEnsemble
from trustml.ood._scod import Scod
from trustml.ood._self_influence import SelfInfluence
from trustml.ood._slu import SketchedLanczos

GRADIENTS = [FullLaplace, Scod, LocalEnsemble, SketchedLanczos, SelfInfluence]


def network(outputs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, outputs)).double()


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).normal(size=(60, 3))


CASES = ["softmax", "one output", "regression"]


def made(case):
    outputs = {"softmax": 3, "one output": 1, "regression": 2}[case]
    task = "regression" if case == "regression" else "classification"
    return trustml.wrap(network(outputs), task=task)


def roots(model, X, raw=False):
    """S'J of each row, shape (n, r, p), written out."""
    net, rows = model.module, torch.tensor(X)
    parameters = {name: p.detach() for name, p in net.named_parameters()}

    def outputs(parameters, x):
        return functional_call(net, parameters, (x[None],))[0]

    found = vmap(jacrev(outputs), (None, 0))(parameters, rows)
    J = torch.cat([part.flatten(2) for part in found.values()], dim=2).numpy()
    f = net(rows).detach().numpy()
    if raw:
        return J
    if model.task == "regression":
        return np.sqrt(2) * J
    if f.shape[1] == 1:
        p = 1 / (1 + np.exp(-f))
        return np.sqrt(p * (1 - p))[:, :, None] * J
    p = np.exp(f) / np.exp(f).sum(axis=1, keepdims=True)
    S = np.sqrt(p)[:, :, None] * np.eye(3) - p[:, :, None] * np.sqrt(p)[:, None, :]
    return np.einsum("nij,nip->njp", S, J)


def curvature(rows):
    flat = rows.reshape(-1, rows.shape[2])
    return flat.T @ flat / len(rows)


def eigen(G):
    values, vectors = np.linalg.eigh(G)
    return values[::-1], vectors[:, ::-1]


@pytest.mark.parametrize("case", CASES)
def test_full_laplace_is_the_dense_formula(X, case):
    model = made(case)
    R, Q = roots(model, X[:40]), roots(model, X[40:])
    H = curvature(R) + 1e-3 * np.eye(R.shape[2])
    expected = np.einsum("nrp,pq,nrq->n", Q, np.linalg.inv(H), Q) / 40
    score = FullLaplace(model, damping=1e-3).fit(X[:40]).score(X[40:])
    np.testing.assert_allclose(score, expected, rtol=1e-6)
    influence = SelfInfluence(model, damping=1e-3).fit(X[:40]).score(X[40:])
    np.testing.assert_allclose(influence, 40 * expected, rtol=1e-6)


def test_a_low_rank_keeps_its_complement(X):
    model = made("softmax")
    R, Q = roots(model, X[:40]), roots(model, X[40:])
    values, vectors = eigen(curvature(R))
    U, g = vectors[:, :5], values[:5]
    inverse = (U / (g + 0.01)) @ U.T + (np.eye(len(U)) - U @ U.T) / 0.01
    expected = np.einsum("nrp,pq,nrq->n", Q, inverse, Q) / 40
    score = FullLaplace(model, damping=0.01, rank=5).fit(X[:40]).score(X[40:])
    np.testing.assert_allclose(score, expected, rtol=1e-8)


def test_every_way_to_the_eigenpairs_gives_the_same(X, monkeypatch):
    model = made("softmax")

    def score(rank=31):
        return FullLaplace(model, damping=1e-3, rank=rank).fit(X[:40]).score(X[40:])

    dense = score()
    monkeypatch.setattr("trustml.ood._spectrum._DENSE", 0)
    np.testing.assert_allclose(score(), dense, rtol=1e-8)  # inner products of output rows
    monkeypatch.setattr("trustml.ood._spectrum._ROWS", 79)  # fewer than 2 x 40: one sample a row
    assert spearmanr(score(), dense)[0] > 0.7
    monkeypatch.setattr("trustml.ood._spectrum._ROWS", 0)  # products alone
    np.testing.assert_allclose(score(), dense, rtol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_scod_is_its_papers_formula(X, case):
    model = made(case)
    R, Q = roots(model, X[:40]), roots(model, X[40:])
    values, vectors = eigen(curvature(R))
    U, g = vectors[:, :6], values[:6]
    along = np.einsum("nrp,pk->nrk", Q, U)
    shrunk = along**2 * (g / (g + 1e-4))
    expected = (Q**2).sum(axis=(1, 2)) - shrunk.sum(axis=(1, 2))
    score = Scod(model, rank=6).fit(X[:40]).score(X[40:])
    np.testing.assert_allclose(score, expected, rtol=1e-7)
    laplace = FullLaplace(model, damping=1e-4, rank=6).fit(X[:40]).score(X[40:])
    np.testing.assert_allclose(score, 40 * 1e-4 * laplace, rtol=1e-9)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("kind", ["gauss_newton", "hessian"])
def test_local_ensembles_project_off_the_leading_eigenvectors(X, raw, kind):
    model = made("softmax")
    Q = roots(model, X[40:], raw)
    matrix = curvature(roots(model, X[:40]))
    if kind == "hessian":
        labels = torch.tensor(model.predict(X[:40]))
        data = (torch.tensor(X[:40]), labels)
        matrix = Hessian(Objective(model.module, model.loss_fn, data)).dense().numpy()
    U = eigen(matrix)[1][:, :4]
    expected = np.sqrt(((Q - Q @ U @ U.T) ** 2).sum(axis=(1, 2)))
    score = LocalEnsemble(model, rank=4, raw=raw, curvature=kind).fit(X[:40]).score(X[40:])
    np.testing.assert_allclose(score, expected, rtol=1e-6)


def test_sketched_lanczos_without_a_sketch_projects_off_a_krylov_space(X):
    model = made("softmax")
    G, Q = curvature(roots(model, X[:40])), roots(model, X[40:])
    start = torch.randn(31, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    krylov = [start.numpy()]
    for _ in range(5):
        krylov.append(G @ krylov[-1] / np.linalg.norm(krylov[-1]))
    U = np.linalg.qr(np.stack(krylov, axis=1))[0]
    expected = (Q**2).sum(axis=(1, 2)) - ((Q @ U) ** 2).sum(axis=(1, 2))
    score = SketchedLanczos(model, rank=6).fit(X[:40]).score(X[40:])
    np.testing.assert_allclose(score, expected, rtol=1e-5)


def test_a_sketch_estimates_the_same():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(20, 25), nn.Tanh(), nn.Linear(25, 4))
    model = trustml.wrap(net, task="classification")
    X = 3 * np.random.default_rng(0).normal(size=(100, 20)).astype(np.float32)
    pair = [
        SketchedLanczos(model, rank=10, sketch=size).fit(X[:60]).score(X[60:])
        for size in (200, 700)  # of 629 parameters: a sketch, and all of them
    ]
    # A squared norm from 200 signs has a relative standard error of a tenth: five of them.
    np.testing.assert_allclose(pair[0], pair[1], rtol=0.5)


def test_self_influence_is_an_expectation_over_labels(X):
    model = made("softmax")
    H = curvature(roots(model, X[:40])) + 1e-2 * np.eye(31)
    J = roots(model, X[40:], raw=True)
    p = model.predict_proba(X[40:])
    gradients = np.einsum("nyc,ncp->nyp", p[:, None] - np.eye(3), J)
    forms = np.einsum("nyp,pq,nyq->ny", gradients, np.linalg.inv(H), gradients)
    score = SelfInfluence(model, damping=1e-2).fit(X[:40]).score(X[40:])
    np.testing.assert_allclose(score, (p * forms).sum(axis=1), rtol=1e-6)


def test_weight_decay_is_part_of_the_curvature(X):
    net = network(3)
    decayed = trustml.wrap(net, train=(X, np.arange(60) % 3), weight_decay=0.02)
    plain = trustml.wrap(net, task="classification")
    one = FullLaplace(decayed, damping=0.0).fit(X).score(X)
    np.testing.assert_allclose(one, FullLaplace(plain, damping=0.02).fit(X).score(X), rtol=1e-9)


def test_a_suite_shares_one_gradient_pass_and_one_decomposition(X, monkeypatch):
    model = made("softmax")
    calls = []
    measure = PerExampleGradients.measure

    def counted(self, *args):
        calls.append(1)
        return measure(self, *args)

    kinds = [FullLaplace(model), SelfInfluence(model), Scod(model), LocalEnsemble(model)]
    kinds += [LocalEnsemble(model, raw=True)]
    suite = Suite(model, kinds).fit(X[:40])
    alone = [kind.fit(X[:40]) for kind in kinds]
    spectra = {id(d.spectrum_) for d in suite.detectors_.values()}
    assert len(spectra) == 2, "with rows held out for the damping, and without"
    monkeypatch.setattr(PerExampleGradients, "measure", counted)
    table = suite.score(X[40:])
    together = len(calls)
    np.testing.assert_allclose(
        table.values, np.stack([d.score(X[40:]) for d in alone], axis=1), rtol=1e-9
    )
    assert len(calls) == together * (1 + len(alone))


@pytest.mark.parametrize("kind", GRADIENTS)
def test_blocks_of_rows_do_not_change_the_scores(X, monkeypatch, kind):
    det = kind(made("softmax")).fit(X[:40])
    whole = det.score(X[40:])
    monkeypatch.setattr("trustml.ood._jacobian._NUMBERS", 1)
    np.testing.assert_allclose(det.score(X[40:]), whole, rtol=1e-9)


@pytest.mark.parametrize("kind", GRADIENTS)
def test_regression_models_and_fewer_parameters(X, kind):
    linear = trustml.wrap(LinearRegression().fit(X, X[:, 0]))
    far = np.array([[0.0, 9.0, 0.0], [8.0, -8.0, 8.0]])
    for model, chosen in ((linear, None), (made("regression"), "last_layer")):
        det = kind(model, parameters=chosen).fit(X)
        score = det.score(X)
        assert score.shape == (60,)
        assert np.isfinite(score).all()
    assert kind(linear).fit(X).score(far).min() > np.quantile(kind(linear).fit(X).score(X), 0.9)


def test_leverage_is_the_gaussian_last_layer_and_uncentred_mahalanobis():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(70, 4)) * [1e-3, 1.0, 10.0, 1e3] + 1.0
    model = trustml.wrap(LinearRegression(fit_intercept=False).fit(X, X[:, 0]))
    hat = np.einsum("ni,ij,nj->n", X, np.linalg.inv(X.T @ X), X)
    score = Leverage(model, shrinkage=0.0).fit(X).score(X)
    np.testing.assert_allclose(score, hat, rtol=1e-8)
    scaled = trustml.precomputed("features")
    one = Leverage(scaled).fit(X).score(X)
    for factor in (1e-4, 1e4):
        np.testing.assert_allclose(Leverage(scaled).fit(factor * X).score(factor * X), one, 1e-9)
    parts = Leverage(scaled).partial_fit(X[:20]).partial_fit(X[20:])
    np.testing.assert_allclose(parts.score(X), one, rtol=1e-9)


def test_fewer_rows_than_features_leave_directions_open():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(10, 30))
    det = Leverage(trustml.precomputed("features")).fit(X)
    assert det.score(X).max() <= 1
    assert det.score(rng.normal(size=(5, 30))).min() > 10


def test_bad_input_is_refused(X):
    model = made("softmax")
    with pytest.raises(ValueError, match="rank"):
        Scod(model, rank=0).fit(X)
    with pytest.raises(ValueError, match="damping must be"):
        FullLaplace(model, damping=-1.0).fit(X)
    with pytest.raises(ValueError, match="sketch must be above rank"):
        SketchedLanczos(model, sketch=10).fit(X)
    with pytest.raises(ValueError, match="curvature must be one of"):
        LocalEnsemble(model, curvature="kfac").fit(X)
    with pytest.raises(ValueError, match="shrinkage must be"):
        Leverage(model, shrinkage=-1.0).fit(X)
    with pytest.raises(ValueError, match="not all zero"):
        Leverage(trustml.precomputed("features")).fit(np.zeros((5, 2)))
    with pytest.raises(TypeError, match="all rows at once"):
        Scod(model).partial_fit(X)
    with pytest.raises(ValueError, match="gradients with respect to its parameters"):
        Scod(trustml.precomputed("logits")).fit(X)


def test_scikit_learn_models_work(X):
    model = LogisticRegression().fit(X, X[:, 0] > 0)
    for kind in GRADIENTS:
        assert np.isfinite(kind(model).fit(X).score(X)).all()


def test_gradients_that_overflow_are_an_error_not_a_nan(digits):
    det = SelfInfluence(digits.model, rank=5).fit(digits.X_train[:60], digits.y_train[:60])
    with pytest.raises(ValueError, match=r"overflow torch.float32; .*module.double\(\)"):
        det.score(digits.X_test[:3] * 1e30)
    double = trustml.wrap(copy.deepcopy(digits.net).double(), task="classification")
    det = SelfInfluence(double, rank=5).fit(digits.X_train[:60], digits.y_train[:60])
    assert np.isfinite(det.score(digits.X_test[:3] * 1e30)).all()
