"""Detectors that read the outputs, against their formulae."""

import copy

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import entropy, weibull_min
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from torch import nn

import trustml
from trustml.ood import (
    Energy,
    Entropy,
    Gen,
    KlMatching,
    MaxLogit,
    Msp,
    Odin,
    OpenMax,
    RelativeMahalanobis,
    TemperatureScaling,
    UnsuitableError,
)


def test_formulae(digits):
    X = digits.X_test[:50]
    logits = digits.model.logits(X).astype(np.float64)
    p = np.exp(logits - logsumexp(logits, axis=1, keepdims=True))
    expected = {
        Msp: 1 - p.max(1),
        Entropy: entropy(p, axis=1),
        MaxLogit: -logits.max(1),
        Energy: -logsumexp(logits, axis=1),
    }
    for kind, value in expected.items():
        score = kind(digits.model).fit(digits.X_train).score(X)
        np.testing.assert_allclose(score, value, atol=1e-9, err_msg=kind.__name__)


def test_temperature(digits):
    X = digits.X_test[:20]
    logits = digits.model.logits(X).astype(np.float64)
    score = Energy(digits.model, temperature=5.0).fit(X).score(X)
    np.testing.assert_allclose(score, -5 * logsumexp(logits / 5, axis=1))


def test_confident_rows_do_not_tie_at_zero():
    net = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[-1.0], [1.0]]))
    X = np.array([[50.0], [60.0], [70.0]], dtype=np.float32)
    score = Msp(trustml.wrap(net, task="classification")).fit(X).score(X)
    np.testing.assert_allclose(score, np.exp(-2.0 * X[:, 0].astype(np.float64)), rtol=1e-6)


@pytest.mark.parametrize("kind", [MaxLogit, Energy])
def test_one_output_models_treat_both_classes_alike(kind):
    # In the gauge (0, f) a sure row of class 0 has energy 0, a sure row of class 1 has -f.
    net = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        net.weight.fill_(1.0)
    model = trustml.wrap(net, task="classification")
    X = np.array([[-8.0], [8.0], [0.0]], dtype=np.float32)
    sure_0, sure_1, unsure = kind(model).fit(X).score(X)
    assert sure_0 == pytest.approx(sure_1)
    assert unsure > sure_1
    if kind is Energy:
        assert sure_1 == pytest.approx(-np.log(2 * np.cosh(4.0)))


def test_prediction_only_models_are_served(digits):
    forest = RandomForestClassifier(20, random_state=0).fit(digits.X_train, digits.y_train)
    p = forest.predict_proba(digits.X_test[:30])
    score = Entropy(forest).fit(digits.X_train).score(digits.X_test[:30])
    np.testing.assert_allclose(score, entropy(p, axis=1), atol=1e-6)
    score = Msp(forest).fit(digits.X_train).score(digits.X_test[:30])
    np.testing.assert_allclose(score, 1 - p.max(1), atol=1e-6)


def test_detectors_that_do_not_fit_name_those_that_do(digits):
    forest = RandomForestClassifier(5, random_state=0).fit(digits.X_train, digits.y_train)
    with pytest.raises(ValueError, match=r"Energy needs logits.*these work: Msp, Entropy"):
        Energy(forest).fit(digits.X_train)
    regression = trustml.wrap(nn.Linear(2, 1), task="regression")
    with pytest.raises(ValueError, match=r"class probabilities.*Mahalanobis, Knn"):
        Msp(regression).fit(np.zeros((5, 2), dtype=np.float32))
    with pytest.raises(ValueError, match=r"class labels.*regression.*these work: .*Mahalanobis"):
        RelativeMahalanobis(regression).fit(np.zeros((5, 2), dtype=np.float32), np.zeros(5))


def test_logits_alone_serve_the_four():
    logits = np.random.default_rng(0).normal(size=(30, 4))
    model = trustml.precomputed("logits")
    for kind in (Msp, Entropy, MaxLogit, Energy):
        assert np.isfinite(kind(model).fit(logits).score(logits)).all()


def test_binary_scikit_learn_models_are_served(digits):
    y = (digits.y_train > 4).astype(int)
    model = LogisticRegression(max_iter=2000).fit(digits.X_train, y)
    p = model.predict_proba(digits.X_test)
    score = Msp(model).fit(digits.X_train).score(digits.X_test)
    np.testing.assert_allclose(score, 1 - p.max(1), atol=1e-6)


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan, np.inf])
def test_bad_temperature_is_refused(digits, temperature):
    with pytest.raises(ValueError, match="temperature must be a positive number"):
        Energy(digits.model, temperature=temperature).fit(digits.X_train)


@pytest.mark.parametrize(("gamma", "top"), [(0.1, 100), (0.5, 3), (0.9, 1)])
def test_gen_is_its_formula(digits, gamma, top):
    p = softmax(digits.model.logits(digits.X_test).astype(np.float64), axis=1)
    largest = -np.sort(-p, axis=1)[:, :top]
    complement = np.where(largest < 0.5, 1 - largest, p.sum(1, keepdims=True) - largest)
    expected = (largest**gamma * complement**gamma).sum(1)
    score = Gen(digits.model, gamma=gamma, top=top).fit(digits.X_train).score(digits.X_test)
    np.testing.assert_allclose(score, expected, rtol=1e-4)


def test_gen_tells_sure_rows_apart():
    # In single precision, and in double beyond 36 nats, 1 - p rounds to zero and rows tie.
    f = np.array([[0.0, 40.0], [0.0, 50.0], [0.0, 60.0]])
    score = Gen(trustml.precomputed("logits")).fit(f).score(f)
    np.testing.assert_allclose(score, 2 * np.exp(-0.1 * f[:, 1]), rtol=1e-12)


def test_gen_reads_probabilities_alone(digits):
    forest = RandomForestClassifier(20, random_state=0).fit(digits.X_train, digits.y_train)
    p = forest.predict_proba(digits.X_test[:30])
    score = Gen(forest, gamma=0.5).fit(digits.X_train).score(digits.X_test[:30])
    np.testing.assert_allclose(score, np.sqrt(p * (1 - p)).sum(1), atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 1.0, np.nan])
def test_bad_gamma_is_refused(digits, gamma):
    with pytest.raises(ValueError, match=r"gamma must be in \(0, 1\)"):
        Gen(digits.model, gamma=gamma).fit(digits.X_train[:9])
    with pytest.raises(ValueError, match="top must be a positive integer"):
        Gen(digits.model, top=0).fit(digits.X_train[:9])


def likeliest_temperature(logits, targets):
    def cross_entropy(log_t):
        return -(targets * log_softmax(logits / np.exp(log_t), axis=1)).sum()

    return np.exp(minimize_scalar(cross_entropy, (-1, 1), tol=1e-12).x)


def test_temperature_is_the_likeliest(digits):
    logits = digits.model.logits(digits.X_test).astype(np.float64)
    det = TemperatureScaling(digits.model).fit(digits.X_test, digits.y_test)
    best = likeliest_temperature(logits, np.eye(10)[digits.y_test])
    assert det.temperature_ == pytest.approx(best, rel=1e-6)
    expected = 1 - softmax(logits / best, axis=1).max(1)
    np.testing.assert_allclose(det.score(digits.X_test), expected, atol=1e-7)


def test_temperature_where_every_row_is_classified_right():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50, 3)) * 2
    right = np.eye(3)[logits.argmax(1)]
    det = TemperatureScaling(trustml.precomputed("logits")).fit(logits)
    best = likeliest_temperature(logits, np.where(right == 1, 51 / 52, 1 / 104))
    assert det.temperature_ == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("unit", [1e-4, 1e4])
def test_temperature_goes_with_the_unit_of_the_logits(unit):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(80, 4)), rng.integers(0, 4, 80)
    logits[np.arange(80), labels] += 1
    model = trustml.precomputed("logits")
    one = TemperatureScaling(model).fit(logits, labels)
    other = TemperatureScaling(model).fit(unit * logits, labels)
    assert other.temperature_ == pytest.approx(unit * one.temperature_, rel=1e-9)
    np.testing.assert_allclose(other.score(unit * logits), one.score(logits), rtol=1e-8)


def test_labels_that_contradict_the_model_have_no_temperature():
    logits = np.random.default_rng(0).normal(size=(40, 3))
    with pytest.raises(UnsuitableError, match="finds no temperature"):
        TemperatureScaling(trustml.precomputed("logits")).fit(logits, logits.argmin(1))
    with pytest.raises(UnsuitableError, match="finds no temperature"):
        TemperatureScaling(trustml.precomputed("logits")).fit(np.ones((5, 3)), np.arange(5) % 3)


def test_kl_matching_is_scipys(digits):
    p, q = (
        softmax(digits.model.logits(X).astype(np.float64), axis=1)
        for X in (digits.X_train, digits.X_test)
    )
    templates = [p[p.argmax(1) == k].mean(0) for k in range(10)]
    expected = np.min([entropy(q, t[None], axis=1) for t in templates], axis=0)
    det = KlMatching(digits.model).fit(digits.X_train, digits.y_train)
    np.testing.assert_allclose(det.score(digits.X_test), expected, rtol=1e-6, atol=1e-12)


def test_kl_matching_takes_predicted_classes_and_needs_not_all():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(60, 5))
    logits[:, 3] -= 100  # never predicted
    det = KlMatching(trustml.precomputed("logits")).fit(logits, rng.integers(0, 5, 60))
    assert det.log_templates_.shape == (4, 5)
    np.testing.assert_array_equal(
        det.score(logits), KlMatching(trustml.precomputed("logits")).fit(logits).score(logits)
    )
    only = trustml.precomputed("probabilities")
    sure = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    score = KlMatching(only).fit(sure).score(np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    assert score[0] == pytest.approx(0, abs=1e-12)
    assert 300 < score[1] < np.inf, "a class that no template has is far, not infinite"


def test_kl_matching_learns_in_parts(digits):
    whole = KlMatching(digits.model).fit(digits.X_train)
    parts = KlMatching(digits.model).fit(digits.X_train[:300])
    parts.partial_fit(digits.X_train[300:310]).partial_fit(digits.X_train[310:])
    np.testing.assert_allclose(
        parts.score(digits.X_test), whole.score(digits.X_test), rtol=1e-6, atol=1e-10
    )


@pytest.mark.parametrize("kind", [Gen, KlMatching, TemperatureScaling])
def test_a_shift_of_the_logits_does_not_matter(kind):
    rng = np.random.default_rng(0)
    logits, shift = rng.normal(size=(60, 4)) * 3, rng.normal(size=(60, 1)) * 50
    one, other = (
        kind(trustml.precomputed("logits")).fit(f).score(f) for f in (logits, logits + shift)
    )
    np.testing.assert_allclose(other, one, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", [Gen, KlMatching, TemperatureScaling, OpenMax, Odin])
def test_rows_of_one_class_are_enough(digits, kind):
    sevens = digits.X_train[digits.y_train == 7]
    det = kind(digits.model).fit(sevens, np.full(len(sevens), 7))
    assert np.isfinite(det.score(digits.X_test)).all()


def open_max(logits, labels, queries, tail, alpha):
    """Log odds of the unknown class, row by row and class by class, with scipy's Weibull."""
    right = logits.argmax(1) == labels
    known = {}
    for k in np.unique(labels[right]):
        rows = logits[right & (labels == k)]
        distances = np.sort(np.linalg.norm(rows - rows.mean(0), axis=1))
        if len(rows) > tail:
            start = distances[-tail - 1]
            shape, _, scale = weibull_min.fit(distances[-tail:] - start, floc=0)
            known[k] = rows.mean(0), start, weibull_min(shape, start, scale)
    odds = []
    for f in queries:
        v, unknown = f.copy(), 0.0
        for rank, k in enumerate(np.argsort(-f)[:alpha]):
            if k in known:
                mean, _, law = known[k]
                w = (alpha - rank) / alpha * law.cdf(np.linalg.norm(f - mean))
                v[k], unknown = f[k] * (1 - w), unknown + f[k] * w
        odds.append(unknown - logsumexp(v))
    return np.array(odds)


def test_open_max_is_its_algorithm(digits):
    F, Q = (digits.model.logits(X).astype(np.float64) for X in (digits.X_train, digits.X_test[:60]))
    det = OpenMax(digits.model, tail=20, alpha=4).fit(digits.X_train, digits.y_train)
    expected = open_max(F, digits.y_train, Q, 20, 4)
    np.testing.assert_allclose(det.score(digits.X_test[:60]), expected, atol=2e-3)
    assert (np.abs(det.score(digits.X_test[:60]) - expected) < 1e-4).mean() > 0.8
    law = det.tails_
    for k in range(10):
        rows = F[(F.argmax(1) == k) & (digits.y_train == k)]
        d = np.sort(np.linalg.norm(rows - rows.mean(0), axis=1))
        shape, _, scale = weibull_min.fit(d[-20:] - d[-21], floc=0)
        assert float(law.shape[k]) == pytest.approx(shape, rel=2e-3)
        assert float(law.scale[k]) == pytest.approx(scale, rel=2e-3)


@pytest.mark.parametrize("unit", [1e-4, 1e4])
def test_open_maxs_tails_go_with_the_unit_of_the_logits(unit):
    # libmr starts the tail one unit below its smallest distance: its tails do not.
    logits = np.random.default_rng(0).normal(size=(300, 3))
    model = trustml.precomputed("logits")
    one, other = (OpenMax(model).fit(s * logits).tails_ for s in (1, unit))
    np.testing.assert_allclose(other.shape, one.shape, rtol=1e-7)
    np.testing.assert_allclose(other.scale, unit * one.scale, rtol=1e-7)
    np.testing.assert_allclose(other.start, unit * one.start, rtol=1e-9)


def test_open_max_of_few_rows_ties_and_gaps():
    def fitted(logits, labels=None):
        return OpenMax(trustml.precomputed("logits")).fit(logits, labels)

    rng = np.random.default_rng(0)
    logits = rng.normal(size=(40, 6))
    labels = logits.argmax(1)
    keep = labels != 2  # a gap
    det = fitted(logits[keep], labels[keep])
    assert 2 not in det.classes_.tolist()
    assert np.isfinite(det.score(logits)).all()
    alone = np.eye(3) * 5  # one row a class: nothing is known of its distances
    expected = -logsumexp(alone, axis=1)
    np.testing.assert_allclose(fitted(alone).score(alone), expected)
    same = np.repeat(alone, 20, axis=0)  # all distances are zero
    score = (
        OpenMax(trustml.precomputed("logits"))
        .fit(same)
        .score(np.concatenate([alone, alone + np.eye(3)[0]]))
    )
    np.testing.assert_allclose(score[:3], expected)
    assert (score[3:] > score[:3]).all()
    with pytest.raises(UnsuitableError, match="classifies right, and there are none"):
        fitted(logits, logits.argmin(1))


def odin(net, X, temperature, eps):
    net, x = net.double(), torch.tensor(X, dtype=torch.float64, requires_grad=True)
    best = (net(x) / temperature).log_softmax(1).max(1).values
    (slope,) = torch.autograd.grad(best.sum(), x)
    with torch.no_grad():
        moved = x + eps * slope.sign()
        return 1 - (net(moved) / temperature).softmax(1).max(1).values.numpy()


@pytest.mark.parametrize(("temperature", "eps"), [(1000.0, 0.0014), (1.0, 0.05), (2.0, 0.0)])
def test_odin_is_its_formula(digits, temperature, eps):
    X = digits.X_test[:100]
    net = copy.deepcopy(digits.net).double()
    expected = odin(net, X, temperature, eps)
    model = trustml.wrap(net, task="classification")
    det = Odin(model, temperature=temperature, eps=eps).fit(digits.X_train[:10])
    np.testing.assert_allclose(det.score(X), expected, rtol=1e-8, atol=1e-12)
    single = Odin(digits.model, temperature=temperature, eps=eps).fit(digits.X_train[:10])
    np.testing.assert_allclose(single.score(X), expected, atol=1e-5)


def test_odins_step_makes_rows_surer(digits):
    still, moved = (
        Odin(digits.model, temperature=1.0, eps=eps).fit(digits.X_train[:10]).score(digits.X_test)
        for eps in (0.0, 0.01)
    )
    np.testing.assert_allclose(
        still, Msp(digits.model).fit(digits.X_train[:10]).score(digits.X_test), rtol=1e-9
    )
    assert (moved < still).all()


def test_odin_takes_layers_that_work_in_place():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3))
    X = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    before = X.copy()
    det = Odin(trustml.wrap(net, task="classification"), temperature=1.0).fit(X)
    plain = nn.Sequential(nn.ReLU(), copy.deepcopy(net[1]))
    np.testing.assert_allclose(det.score(X), odin(plain, before, 1.0, 0.0014), atol=1e-6)
    assert all(p.grad is None for p in net.parameters())


def test_odin_says_what_it_cannot_do(digits):
    forest = RandomForestClassifier(5, random_state=0).fit(digits.X_train, digits.y_train)
    with pytest.raises(UnsuitableError, match="Odin needs inputs that can be moved"):
        Odin(forest).fit(digits.X_train)
    tokens = nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(6, 2))
    with pytest.raises(UnsuitableError, match="Odin needs inputs that can be moved"):
        Odin(trustml.wrap(tokens, task="classification")).fit(np.zeros((5, 2), dtype=np.int64))
    det = Odin(digits.model).fit(digits.X_train[:10])
    with pytest.raises(UnsuitableError, match="does not hold them"):
        det.score_observation(digits.model.observe(digits.X_test[:5]))
    with pytest.raises(ValueError, match="eps must be a number of at least 0"):
        Odin(digits.model, eps=-1.0).fit(digits.X_train[:10])
    with pytest.raises(ValueError, match="temperature must be a positive number"):
        Odin(digits.model, temperature=0.0).fit(digits.X_train[:10])
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        det.score(digits.X_test[:5])
