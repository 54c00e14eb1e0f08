"""Detectors of the features and the last layer's weights: gradients, directions, boundaries."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from sklearn.decomposition import PCA
from torch import nn

import trustml
from trustml.ood import Dice, ExGrad, Fdbd, GradNorm, Nci, Neco, NnGuide, She, UnsuitableError

KINDS = [GradNorm, ExGrad, She, Fdbd, Nci, Neco, NnGuide]
every = pytest.mark.parametrize("kind", KINDS)


def linear(weight, bias):
    """A model whose features are its inputs."""
    head = nn.Linear(weight.shape[1], weight.shape[0]).double()
    with torch.no_grad():
        head.weight.copy_(torch.tensor(weight))
        head.bias.copy_(torch.tensor(bias))
    return trustml.wrap(head, task="classification")


@pytest.fixture(scope="module")
def shapes():
    """Weights of 5 classes and 12 features, features to fit with labels, features to score."""
    rng = np.random.default_rng(0)
    W, b, Z = rng.normal(size=(5, 12)), rng.normal(size=5) / 9, rng.normal(size=(200, 12)) + 0.2
    y = (Z @ W.T + b).argmax(1)
    wrong = rng.random(200) < 0.2
    y[wrong] = rng.integers(0, 5, wrong.sum())
    return W, b, Z, y, rng.normal(size=(30, 12)) * 2


def last_gradient_norm(net, x, loss):
    """L1 norm of the gradient of one row's loss with respect to the last layer's weight."""
    (gradient,) = torch.autograd.grad(loss(net(x[None])[0]), net[-1].weight)
    return float(gradient.abs().sum())


@pytest.fixture(scope="module")
def deep():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4)).double()
    return net, np.random.default_rng(0).normal(size=(25, 6)) * 3


def test_grad_norm_is_the_norm_of_each_rows_gradient(deep):
    net, X = deep

    def divergence_from_uniform(f):
        return -(f.log_softmax(0) / len(f)).sum()

    expected = [-last_gradient_norm(net, x, divergence_from_uniform) for x in torch.tensor(X)]
    score = GradNorm(trustml.wrap(net, task="classification")).fit(X).score(X)
    np.testing.assert_allclose(score, expected, rtol=1e-10)


def test_ex_grad_is_the_mean_norm_of_each_rows_gradients(deep):
    net, X = deep

    def mean_norm(x):
        p = net(x[None])[0].softmax(0).detach()
        norms = [
            last_gradient_norm(net, x, lambda f, c=c: -f.log_softmax(0)[c]) for c in range(len(p))
        ]
        return float(p @ torch.tensor(norms, dtype=torch.float64))

    score = ExGrad(trustml.wrap(net, task="classification")).fit(X).score(X)
    np.testing.assert_allclose(score, [mean_norm(x) for x in torch.tensor(X)], rtol=1e-10)


def test_ex_grad_tells_sure_rows_apart():
    # 1 - p rounds to zero beyond 36 nats: rows would tie.
    model = linear(np.array([[0.0], [1.0]]), np.zeros(2))
    f = np.array([[40.0], [50.0], [60.0]])
    score = ExGrad(model).fit(f).score(f)
    np.testing.assert_allclose(score, 4 * f[:, 0] * np.exp(-f[:, 0]), rtol=1e-12)


def she(W, b, Z, y, z):
    predicted = (Z @ W.T + b).argmax(1)
    pattern = {k: Z[(y == k) & (predicted == k)].mean(0) for k in np.unique(predicted)}
    return -z @ pattern[(W @ z + b).argmax()]


def fdbd(W, b, Z, y, z):
    f = W @ z + b
    best = f.argmax()
    distances = [
        (f[best] - f[k]) / np.linalg.norm(W[best] - W[k]) for k in range(len(f)) if k != best
    ]
    return -np.mean(distances) / np.linalg.norm(z - Z.mean(0))


def nci(W, b, Z, y, z):
    offset = z - Z.mean(0)
    along = W[(W @ z + b).argmax()] @ offset / np.linalg.norm(offset)
    return -along - 1e-4 * np.abs(z).sum()


def nnguide(W, b, Z, y, z):
    def confidence(v):
        return logsumexp(W @ v + b)

    cosines = [confidence(v) * v @ z / np.linalg.norm(v) / np.linalg.norm(z) for v in Z]
    return -confidence(z) * np.mean(np.sort(cosines)[-10:])


FORMULAE = {She: she, Fdbd: fdbd, Nci: nci, NnGuide: nnguide}


@pytest.mark.parametrize("kind", FORMULAE)
def test_formulae(shapes, kind):
    W, b, Z, y, Q = shapes
    score = kind(linear(W, b)).fit(Z, y).score(Q)
    np.testing.assert_allclose(score, [FORMULAE[kind](W, b, Z, y, z) for z in Q], rtol=1e-9)


@pytest.mark.parametrize("kind", FORMULAE)
def test_formulae_on_a_network(digits, kind):
    W, b = (part.double().numpy() for part in digits.model.head)
    Z, Q = (digits.model.features(X).astype(float) for X in (digits.X_train, digits.X_test[:20]))
    expected = [FORMULAE[kind](W, b, Z, digits.y_train, z) for z in Q]
    score = kind(digits.model).fit(digits.X_train, digits.y_train).score(digits.X_test[:20])
    np.testing.assert_allclose(score, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", [She, Fdbd, Nci, Neco, Dice])
def test_learnt_in_parts_is_learnt_at_once(shapes, kind):
    W, b, Z, y, Q = shapes
    whole = kind(linear(W, b)).fit(Z, y).score(Q)
    parts = kind(linear(W, b)).fit(Z[:70], y[:70])
    assert not np.allclose(parts.score(Q), whole, rtol=1e-6)
    parts.partial_fit(Z[70:71], y[70:71]).partial_fit(Z[71:], y[71:])
    np.testing.assert_allclose(parts.score(Q), whole, rtol=1e-10)


@every
@pytest.mark.parametrize("unit", [1e-4, 1e4])
def test_the_unit_of_the_features(shapes, kind, unit):
    """With weights that undo it, features in another unit give the same ranks."""
    W, b, Z, y, Q = shapes
    settings = {"alpha": 0.0} if kind is Nci else {}
    one = kind(linear(W, b), **settings).fit(Z, y).score(Q)
    other = kind(linear(W / unit, b), **settings).fit(unit * Z, y).score(unit * Q)
    power = {GradNorm: 1, ExGrad: 1, She: 2, Fdbd: 0, Nci: -1, Neco: 0, NnGuide: 0}[kind]
    np.testing.assert_allclose(other, unit**power * one, rtol=1e-9)


@pytest.mark.parametrize("kind", [GradNorm, ExGrad, Fdbd, Nci, NnGuide])
def test_one_logit_is_two(shapes, kind):
    W, b, Z, _, Q = shapes
    one = kind(linear(W[:1], b[:1])).fit(Z).score(Q)
    pair = np.concatenate([-W[:1], W[:1]]) / 2, np.concatenate([-b[:1], b[:1]]) / 2
    np.testing.assert_allclose(kind(linear(*pair)).fit(Z).score(Q), one, rtol=1e-10)


@every
def test_labels_may_have_gaps(shapes, kind):
    # A gap, or a class that the model knows and the rows of fit lack, is no error.
    W, b, Z, y, Q = shapes
    some = y != 2
    det = kind(linear(W, b)).fit(Z[some], y[some])
    assert np.isfinite(det.score(Q)).all()
    names = np.array([-3, 2, 17, 40, 41])
    model = trustml.wrap(linear(W, b).module, task="classification", train=(Z, names[y]))
    np.testing.assert_allclose(
        kind(model).fit(Z, names[y]).score(Q), kind(linear(W, b)).fit(Z, y).score(Q), rtol=1e-12
    )


def test_she_takes_the_likeliest_class_that_has_a_pattern(shapes):
    W, b, Z, y, Q = shapes
    some = y != 2
    det = She(linear(W, b)).fit(Z[some], y[some])
    assert det.classes_.tolist() == [0, 1, 3, 4]
    without = np.delete(W, 2, axis=0), np.delete(b, 2)
    right = some & ((Z @ W.T + b).argmax(1) == y)
    index = np.searchsorted([0, 1, 3, 4], y[right])
    expected = [she(*without, Z[right], index, z) for z in Q]
    np.testing.assert_allclose(det.score(Q), expected, rtol=1e-10)
    with pytest.raises(UnsuitableError, match="She needs rows that the model classifies right"):
        She(linear(W, b)).fit(Z, (Z @ W.T + b).argmin(1))


@every
def test_one_class(shapes, kind):
    W, b, Z, y, Q = shapes
    one = (y == 3) & ((Z @ W.T + b).argmax(1) == 3)
    assert np.isfinite(kind(linear(W, b)).fit(Z[one], y[one]).score(Q)).all()


def test_classes_of_equal_weights_have_no_boundary(shapes):
    W, b, Z, y, Q = shapes
    twice = np.concatenate([W, W[:1]]), np.concatenate([b, b[:1] + 0.1])
    score = Fdbd(linear(*twice)).fit(Z, y).score(Q)
    f = Q @ twice[0].T + twice[1]
    for z, row, found in zip(Q, f, score, strict=True):
        apart = np.linalg.norm(twice[0][row.argmax()] - twice[0], axis=1)
        distances = (row.max() - row)[apart > 0] / apart[apart > 0]
        assert found == pytest.approx(-distances.mean() / np.linalg.norm(z - Z.mean(0)))


@pytest.mark.parametrize("kind", [Fdbd, Nci, NnGuide])
def test_rows_at_the_centre_and_dead_features_are_finite(shapes, kind):
    W, b, Z, y, _ = shapes
    det = kind(linear(W, b)).fit(Z, y)
    assert np.isfinite(det.score(Z.mean(0, keepdims=True))).all()
    zeros = np.zeros((5, 12))
    assert np.isfinite(kind(linear(W, b)).fit(zeros).score(zeros)).all()


def test_nn_guide_in_blocks_is_the_same(shapes, monkeypatch):
    W, b, Z, _, Q = shapes
    whole = NnGuide(linear(W, b), k=3).fit(Z).score(Q)
    monkeypatch.setattr("trustml.ood._nnguide._BLOCK", 1000)  # five rows at a time
    np.testing.assert_allclose(NnGuide(linear(W, b), k=3).fit(Z).score(Q), whole, rtol=1e-12)


def test_bad_settings_are_refused(shapes):
    W, b, Z, _, _ = shapes
    with pytest.raises(ValueError, match="k must be at most the 4 rows of fit, got 5"):
        NnGuide(linear(W, b), k=5).fit(Z[:4])
    assert NnGuide(linear(W, b)).fit(Z[:4]).k_ == 4
    with pytest.raises(ValueError, match="alpha must be a number of at least 0"):
        Nci(linear(W, b), alpha=-1.0).fit(Z)
    with pytest.raises(ValueError, match="She needs class labels and logits"):
        She(trustml.precomputed("features")).fit(Z)


def test_neco_is_scikit_learns_pca(digits):
    Z, Q = (digits.model.features(X).astype(float) for X in (digits.X_train, digits.X_test))
    explained = np.cumsum(PCA().fit(Z).explained_variance_ratio_)
    for dim in (1, 5, "auto"):
        wanted = int((explained < 0.9).sum()) + 1 if dim == "auto" else dim
        pca = PCA(wanted).fit(Z)
        share = np.linalg.norm(pca.transform(Q), axis=1) / np.linalg.norm(Q - pca.mean_, axis=1)
        det = Neco(digits.model, dim=dim).fit(digits.X_train)
        np.testing.assert_allclose(det.score(digits.X_test), -share, rtol=1e-6)
        det = Neco(digits.model, dim=dim, max_logit=True).fit(digits.X_train)
        expected = -share * digits.model.logits(digits.X_test).max(1)
        np.testing.assert_allclose(det.score(digits.X_test), expected, rtol=1e-6)


def test_neco_of_directions_alone(shapes):
    _, _, Z, _, Q = shapes
    Z = Z * np.geomspace(1, 0.01, 12)
    one = Neco(trustml.precomputed("features"), dim=4).fit(Z).score(Q)
    assert (one >= -1).all()
    assert (one <= 0).all()
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(12, 12)))[0]
    for unit in (1e-4, 1e4):
        det = Neco(trustml.precomputed("features"), dim=4).fit(unit * Z @ rotation + 3 * unit)
        np.testing.assert_allclose(det.score(unit * Q @ rotation + 3 * unit), one, rtol=1e-7)


def test_neco_of_few_rows_and_dead_features(shapes):
    _, _, Z, _, Q = shapes
    det = Neco(trustml.precomputed("features")).fit(Z[:4])  # fewer rows than features
    assert np.isfinite(det.score(Q)).all()
    dead = np.c_[Z[:, :3], np.zeros((200, 9))]
    det = Neco(trustml.precomputed("features"), dim=3).fit(dead)
    awake = np.eye(12)[[5]] + dead.mean(0)  # a unit that never fired
    np.testing.assert_allclose(det.score(dead), -1, rtol=1e-12)
    np.testing.assert_allclose(det.score(awake), 0, atol=1e-12)
    with pytest.raises(UnsuitableError, match="rows of fit that differ"):
        Neco(trustml.precomputed("features")).fit(np.ones((9, 3)))
    with pytest.raises(ValueError, match="dim must be less than the 12 features"):
        Neco(trustml.precomputed("features"), dim=12).fit(Z)
    with pytest.raises(ValueError, match="at most the 3 directions"):
        Neco(trustml.precomputed("features"), dim=4).fit(dead)
    with pytest.raises(UnsuitableError, match="max_logit=True"):
        Neco(trustml.precomputed("features"), max_logit=True).fit(Z)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every
def test_on_a_gpu(shapes, kind):
    W, b, Z, y, Q = shapes
    model = trustml.wrap(linear(W, b).module.cuda(), task="classification")
    found = kind(model).fit(torch.tensor(Z).cuda(), torch.tensor(y).cuda()).score(torch.tensor(Q))
    np.testing.assert_allclose(found, kind(linear(W, b)).fit(Z, y).score(Q), rtol=1e-8)
