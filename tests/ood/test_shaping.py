"""Energies of shaped activations and weights: the cut, the percentile, the formula."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from torch import nn

import trustml
from trustml.ood import Ash, Dice, Energy, React, Scale, UnsuitableError, Vra
from trustml.ood.metrics import auroc


def linear(weight, bias):
    """A model whose features are its inputs."""
    head = nn.Linear(weight.shape[1], weight.shape[0]).double()
    with torch.no_grad():
        head.weight.copy_(torch.tensor(weight))
        head.bias.copy_(torch.tensor(bias))
    return trustml.wrap(head, task="classification")


@pytest.fixture(scope="module")
def shapes():
    """Weights of 5 classes and 20 features, features of at least 0 to fit and to score."""
    rng = np.random.default_rng(0)
    fit, query = (np.maximum(rng.normal(size=(n, 20)), 0) * 3 for n in (200, 40))
    return rng.normal(size=(5, 20)), rng.normal(size=5), fit, query


def react(W, b, Z, z, percentile=0.9):
    return -logsumexp(W @ np.minimum(z, np.percentile(Z, 100 * percentile)) + b)


def vra(W, b, Z, z, low=0.6, high=0.95):
    alpha, beta = np.percentile(Z, [100 * low, 100 * high])
    shaped = np.array([0 if v < alpha else v if v <= beta else beta for v in z])
    return -logsumexp(W @ shaped + b)


def ash(variant, W, b, z, percentile):
    k = len(z) - int(np.round(len(z) * percentile))
    kept = np.argsort(-z)[:k]
    shaped = np.zeros_like(z)
    if variant == "s":
        shaped[kept] = z[kept] * np.exp(z.sum() / z[kept].sum())
    elif variant == "b":
        shaped[kept[z[kept] > 0]] = z.sum() / k  # not some of the zeros that tie
    else:
        shaped[kept] = z[kept]
    return -logsumexp(W @ shaped + b)


def scale(W, b, z, percentile=0.85):
    k = len(z) - int(np.round(len(z) * percentile))
    return -logsumexp(W @ (z * np.exp(z.sum() / np.sort(z)[-k:].sum())) + b)


def dice(W, b, Z, z, sparsity=0.9):
    contributions = W * Z.mean(0)
    mask = contributions >= np.percentile(contributions, 100 * sparsity)
    return -logsumexp((W * mask) @ z + b)


FORMULAE = {
    "React": (React, {}, lambda W, b, Z, z: react(W, b, Z, z)),
    "React .7": (React, {"percentile": 0.7}, lambda W, b, Z, z: react(W, b, Z, z, 0.7)),
    "Vra": (Vra, {}, lambda W, b, Z, z: vra(W, b, Z, z)),
    "Vra .5 .8": (Vra, {"low": 0.5, "high": 0.8}, lambda W, b, Z, z: vra(W, b, Z, z, 0.5, 0.8)),
    "Ash": (Ash, {}, lambda W, b, Z, z: ash("s", W, b, z, 0.9)),
    "Ash b": (Ash, {"variant": "b"}, lambda W, b, Z, z: ash("b", W, b, z, 0.65)),
    "Ash p": (Ash, {"variant": "p"}, lambda W, b, Z, z: ash("p", W, b, z, 0.6)),
    "Ash s .7": (Ash, {"percentile": 0.7}, lambda W, b, Z, z: ash("s", W, b, z, 0.7)),
    "Scale": (Scale, {}, lambda W, b, Z, z: scale(W, b, z)),
    "Dice": (Dice, {}, lambda W, b, Z, z: dice(W, b, Z, z)),
    "Dice .5": (Dice, {"sparsity": 0.5}, lambda W, b, Z, z: dice(W, b, Z, z, 0.5)),
}
KINDS = {kind.__name__: kind for kind, _, _ in FORMULAE.values()}
every = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@pytest.mark.parametrize("name", FORMULAE)
def test_formulae(shapes, name):
    W, b, Z, Q = shapes
    kind, settings, formula = FORMULAE[name]
    score = kind(linear(W, b), **settings).fit(Z).score(Q)
    np.testing.assert_allclose(score, [formula(W, b, Z, z) for z in Q], rtol=1e-10)


@pytest.mark.parametrize("name", FORMULAE)
def test_formulae_on_a_network(digits, name):
    W, b = (part.double().numpy() for part in digits.model.head)
    Z, Q = (digits.model.features(X).astype(float) for X in (digits.X_train, digits.X_test[:50]))
    kind, settings, formula = FORMULAE[name]
    score = kind(digits.model, **settings).fit(digits.X_train).score(digits.X_test[:50])
    np.testing.assert_allclose(score, [formula(W, b, Z, z) for z in Q], rtol=1e-9)


class Pooled(nn.Module):
    """Maps, their means, a linear layer."""

    def __init__(self):
        super().__init__()
        self.maps = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU())
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.maps(x).mean((2, 3)))


@pytest.mark.parametrize("kind", [React, Vra])
def test_percentiles_are_those_of_the_pooled_features(kind):
    # Cutting the maps before pooling is another method, with other percentiles.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Pooled().double()
    X = np.random.default_rng(0).normal(size=(60, 1, 8, 8))
    with torch.no_grad():
        maps = net.maps(torch.tensor(X))
    det = kind(trustml.wrap(net, task="classification")).fit(X)
    found = det.threshold_ if kind is React else det.thresholds_
    shares = 90 if kind is React else [60, 95]
    np.testing.assert_allclose(found, np.percentile(maps.mean((2, 3)), shares), rtol=1e-12)
    assert not np.allclose(found, np.percentile(maps, shares), rtol=0.05)


def test_small_features_are_suppressed_not_lifted():
    # Clipping at the lower percentile from below would set them to it.
    W, Z = np.array([[2.0, 0, 0], [0, 0, 0]]), np.tile([[1.0, 2.0, 3.0]], (10, 1))
    det = Vra(linear(W, np.zeros(2)), low=0.5, high=0.9).fit(Z)
    score = det.score(np.array([[1.9, 0, 0], [2.1, 0, 0], [9.0, 0, 0]]))
    np.testing.assert_allclose(score, -np.logaddexp([0, 4.2, 6.0], 0), rtol=1e-12)


@every
@pytest.mark.parametrize("unit", [1e-4, 1e4])
def test_the_unit_of_the_features_does_not_matter(shapes, kind, unit):
    W, b, Z, Q = shapes
    one = kind(linear(W, b)).fit(Z).score(Q)
    other = kind(linear(W / unit, b)).fit(unit * Z).score(unit * Q)
    np.testing.assert_allclose(other, one, rtol=1e-10)


@pytest.mark.parametrize("name", FORMULAE)
def test_ties_do_not_depend_on_the_order_of_the_features(shapes, name):
    W, b, _, _ = shapes
    rng = np.random.default_rng(0)
    Z, order = rng.integers(0, 4, (100, 20)) * 1.0, rng.permutation(20)
    kind, settings, _ = FORMULAE[name]
    one = kind(linear(W, b), **settings).fit(Z).score(Z)
    other = kind(linear(W[:, order], b), **settings).fit(Z[:, order]).score(Z[:, order])
    np.testing.assert_allclose(other, one, rtol=1e-10)


@pytest.mark.parametrize("kind", [React, Vra, Ash, Scale])
def test_one_logit_is_two(shapes, kind):
    W, b, Z, Q = shapes
    one = kind(linear(W[:1], b[:1])).fit(Z).score(Q)
    pair = np.concatenate([-W[:1], W[:1]]) / 2, np.concatenate([-b[:1], b[:1]]) / 2
    np.testing.assert_allclose(kind(linear(*pair)).fit(Z).score(Q), one, rtol=1e-12)


@every
def test_one_logit_treats_both_classes_alike(shapes, kind):
    W, b, Z, Q = shapes
    one = kind(linear(W[:1], b[:1])).fit(Z).score(Q)
    swapped = kind(linear(-W[:1], -b[:1])).fit(Z).score(Q)
    np.testing.assert_allclose(swapped, one, rtol=1e-12)


@pytest.mark.parametrize("kind", [Vra, Ash, Scale])
def test_features_of_either_sign_count_by_size(shapes, kind):
    W, b, Z, Q = shapes
    signs = np.where(np.arange(20) % 2, 1.0, -1.0)
    for settings in [{}, {"variant": "b"}, {"variant": "p"}] if kind is Ash else [{}]:
        one = kind(linear(W, b), **settings).fit(Z).score(Q)
        other = kind(linear(W * signs, b), **settings).fit(Z * signs).score(Q * signs)
        np.testing.assert_allclose(other, one, rtol=1e-12)


@every
def test_rows_of_zeros_have_the_energy_of_the_bias(shapes, kind):
    W, b, Z, _ = shapes
    score = kind(linear(W, b)).fit(Z).score(np.zeros((1, 20)))
    assert score[0] == pytest.approx(-logsumexp(b))
    dead = kind(linear(W, b)).fit(np.zeros((5, 20)))
    assert np.isfinite(dead.score(Z)).all()


def test_nothing_is_cut_at_percentiles_beyond_the_data(shapes):
    W, b, Z, _ = shapes
    energy = Energy(linear(W, b)).fit(Z).score(Z)
    for det in (
        React(linear(W, b), percentile=1 - 1e-9),
        Ash(linear(W, b), "p", percentile=0.01),
        Vra(linear(W, b), low=1e-9, high=1 - 1e-9),
    ):
        np.testing.assert_allclose(det.fit(Z).score(Z), energy, rtol=1e-6)


def test_dice_keeps_its_share_and_learns_in_parts(shapes):
    W, b, Z, Q = shapes
    whole = Dice(linear(W, b)).fit(Z)
    assert int(whole.mask_.sum()) == 10
    parts = Dice(linear(W, b)).fit(Z[:50]).partial_fit(Z[50:51]).partial_fit(Z[51:])
    np.testing.assert_allclose(parts.score(Q), whole.score(Q), rtol=1e-10)


def test_more_than_sixteen_million_features_have_percentiles():
    # torch.quantile refuses so many.
    Z = np.tile(np.arange(8000, dtype=np.float32) / 8000, (2100, 1))
    model = trustml.wrap(nn.Linear(8000, 2), task="classification")
    assert React(model).fit(Z).threshold_ == pytest.approx(np.percentile(Z[0], 90), rel=1e-3)


def test_a_later_change_of_the_module_does_not_change_the_detector(shapes):
    W, b, Z, Q = shapes
    model = linear(W, b)
    dets = [kind(model).fit(Z) for kind in KINDS.values()]
    before = [det.score(Q) for det in dets]
    with torch.no_grad():
        model.module.weight.zero_()
    for det, score in zip(dets, before, strict=True):
        np.testing.assert_array_equal(det.score(Q), score)


@every
def test_noise_scores_higher_than_digits(digits, kind):
    det = kind(digits.model, **({"percentile": 0.5} if kind is Ash else {}))
    det.fit(digits.X_train)
    if kind is not Dice:  # a tenth of 320 weights leaves too little of this head
        assert auroc(det.score(digits.X_test), det.score(digits.foreign[:200])) > 0.6


@every
def test_bad_settings_are_refused(shapes, kind):
    W, b, Z, _ = shapes
    name = {Vra: "low", Dice: "sparsity"}.get(kind, "percentile")
    for value in (0.0, 1.0, 90, np.nan):
        with pytest.raises(ValueError, match=rf"{name} must be a share in \(0, 1\)"):
            kind(linear(W, b), **{name: value}).fit(Z)
    with pytest.raises(UnsuitableError, match="a differentiable last linear layer"):
        kind(trustml.precomputed("features")).fit(Z)


def test_more_bad_settings_are_refused(shapes):
    W, b, Z, _ = shapes
    with pytest.raises(ValueError, match=r"low must be less than high, got 0.9 and 0.5"):
        Vra(linear(W, b), low=0.9, high=0.5).fit(Z)
    with pytest.raises(ValueError, match="variant must be one of"):
        Ash(linear(W, b), variant="x").fit(Z)
