"""What every detector of the room owes its users."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from torch import nn

import trustml
from trustml.ood import Detector, UnsuitableError
from trustml.ood._detector import catalogue

DETECTORS = sorted(catalogue().items())
every = pytest.mark.parametrize("kind", [kind for _, kind in DETECTORS], ids=dict(DETECTORS))


@pytest.fixture(scope="module")
def X():
    images = load_digits().data[:400] / 16
    return np.random.default_rng(0).permutation(images).astype(np.float32)


@pytest.fixture(scope="module")
def net(X):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 4)
        )
        optimizer, targets = torch.optim.Adam(net.parameters(), 0.03), torch.arange(400) % 4
        for _ in range(30):  # labels mean nothing: enough that every class is predicted
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(torch.tensor(X)), targets).backward()
            optimizer.step()
        optimizer.zero_grad()
    return net.eval()


@pytest.fixture(scope="module")
def model(net, X):
    return trustml.wrap(net, train=(X, np.arange(400) % 4))


@pytest.fixture(scope="module")
def fitted(model, X):
    return {kind: kind(model).fit(X[:150]).calibrate(X[150:250]) for _, kind in DETECTORS}


def test_the_room_lists_its_detectors():
    assert len(DETECTORS) >= 9
    assert all(issubclass(kind, Detector) for _, kind in DETECTORS)


@every
def test_scores_are_finite_float64_vectors(fitted, X, kind):
    score = fitted[kind].score(X[250:])
    assert score.shape == (150,)
    assert score.dtype == np.float64
    assert np.isfinite(score).all()
    assert len(np.unique(score)) > 100, "a score tells rows apart"


@every
def test_far_rows_score_higher(kind):
    # The sign of every score: rows between two classes (for the outputs), or off the line on
    # which the data lie (for the features), are out of distribution.
    if kind.__name__ == "Vra":
        pytest.skip("suppresses the smaller of two features; its sign is tested on a network")
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200)
    X = np.c_[np.where(y == 1, 4, -4), np.zeros(200)] + rng.normal(size=(200, 2)) * [0.5, 0.2]
    det = kind(LogisticRegression().fit(X, y)).fit(X, y)
    strange = np.array([[0.0, 6.0], [0.0, -6.0]])
    assert det.score(strange).min() > np.quantile(det.score(X), 0.95)


@every
def test_a_row_scores_the_same_alone_and_in_any_batch(fitted, X, kind):
    det, Q = fitted[kind], X[250:290]
    whole = det.score(Q)
    close = {"rtol": 1e-4, "atol": 1e-6}
    alone = np.concatenate([det.score(row[None]) for row in Q[:8]])
    np.testing.assert_allclose(alone, whole[:8], **close)
    order = np.random.default_rng(1).permutation(len(Q))
    np.testing.assert_allclose(det.score(Q[order]), whole[order], **close)


@every
def test_the_models_batch_size_does_not_matter(net, X, kind):
    scores = [
        kind(trustml.wrap(net, task="classification", batch_size=size)).fit(X[:150]).score(X[250:])
        for size in ("auto", 7)
    ]
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-3, atol=1e-5)


@every
def test_the_order_of_the_rows_of_fit_does_not_matter(model, X, kind):
    if kind.__name__ == "Fused":
        pytest.skip("splits the rows of fit at random")
    first = kind(model).fit(X[:150]).score(X[250:])
    again = kind(model).fit(X[:150][::-1].copy()).score(X[250:])
    np.testing.assert_allclose(again, first, rtol=1e-4, atol=1e-6)


@every
def test_single_and_double_precision_agree(net, X, kind):
    double = trustml.wrap(copy.deepcopy(net).double(), task="classification")
    single = trustml.wrap(net, task="classification")
    pair = [kind(m).fit(X[:150]).score(X[250:]) for m in (single, double)]
    # Nearly singular directions of the features amplify the rounding of single precision.
    np.testing.assert_allclose(pair[0], pair[1], rtol=5e-3, atol=1e-5)


@every
def test_numpy_in_numpy_out_torch_in_torch_out(fitted, X, kind):
    det = fitted[kind]
    for result in (det.score, det.p_values, det.alarm, det.discoveries):
        array, tensor = result(X[:5]), result(torch.tensor(X[:5]))
        assert isinstance(array, np.ndarray)
        assert isinstance(tensor, torch.Tensor)
        np.testing.assert_allclose(tensor.numpy().astype(float), array.astype(float), rtol=1e-9)
        assert isinstance(result(X[:5].tolist()), np.ndarray)


@every
def test_nothing_of_the_user_is_changed(net, X, kind):
    net = copy.deepcopy(net).train()
    net[0].weight.requires_grad_(False)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    rows, labels = X[:100].copy(), np.arange(100) % 4
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    det = kind(trustml.wrap(net, task="classification")).fit(rows, labels)
    det.calibrate(rows)
    det.alarm(rows, 0.1)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert [p.requires_grad for p in net.parameters()][:2] == [False, True]
    assert all(p.grad is None for p in net.parameters())
    assert not any(module._forward_hooks for module in net.modules())
    np.testing.assert_array_equal(rows, X[:100])
    np.testing.assert_array_equal(labels, np.arange(100) % 4)
    assert torch.equal(torch.get_rng_state(), torch_before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


@every
def test_a_second_fit_forgets_the_first(model, X, kind):
    twice = kind(model).fit(X[150:300]).calibrate(X[:50]).fit(X[:150])
    once = kind(model).fit(X[:150])
    np.testing.assert_array_equal(twice.score(X[250:]), once.score(X[250:]))
    with pytest.raises(NotFittedError, match="not calibrated"):
        twice.p_values(X[:5])


@every
def test_scikit_learns_manners(model, X, kind):
    det = kind(model)
    assert set(det.get_params(deep=False)) == {
        name for name in vars(det) if not name.endswith("_")
    }, "the constructor stores its parameters and nothing else"
    assert det.fit(X[:60]) is det
    assert det.calibrate(X[60:120]) is det
    unfitted = clone(det)
    assert unfitted.model is model
    with pytest.raises(NotFittedError):
        unfitted.score(X[:5])


@every
def test_raw_estimators_are_wrapped_in_fit_and_left_as_they_are(X, kind):
    y = load_digits().target[:100] % 3
    estimator = LogisticRegression(max_iter=2000).fit(load_digits().data[:100] / 16, y)
    det = kind(estimator)
    assert det.model is estimator
    assert np.isfinite(det.fit(X[:100]).score(X[:9])).all()
    assert det.model is estimator


@every
def test_fit_without_labels_takes_the_predicted_ones(model, X, kind):
    labels = model.predict(X[:150])
    first = kind(model).fit(X[:150]).score(X[250:])
    np.testing.assert_array_equal(kind(model).fit(X[:150], labels).score(X[250:]), first)


@every
def test_use_before_fit_or_calibrate_says_what_to_do(model, X, kind):
    det = kind(model)
    for call in (det.score, det.calibrate, det.p_values, det.alarm, det.discoveries):
        with pytest.raises(NotFittedError, match=r"call fit\(X_in\) first"):
            call(X[:5])
    det.fit(X[:60])
    for call in (det.p_values, det.alarm, det.discoveries):
        with pytest.raises(NotFittedError, match=r"call calibrate\(X_cal\)"):
            call(X[:5])


@every
def test_bad_rows_are_refused(model, fitted, X, kind):
    broken = X[:60].copy()
    broken[3, 5] = np.nan
    for call in (kind(model).fit, fitted[kind].score, fitted[kind].calibrate):
        with pytest.raises(ValueError, match="NaN"):
            call(broken)
        with pytest.raises(ValueError, match=r"0 rows|empty|at least"):
            call(X[:0])
    with pytest.raises(ValueError, match="63"):
        fitted[kind].score(X[:5, :63])
    with pytest.raises(ValueError, match="does not know"):
        kind(model).fit(X[:60], np.full(60, 17))


@every
def test_a_model_that_overflows_is_refused(fitted, X, kind):
    with pytest.raises(ValueError, match="overflowed"):
        fitted[kind].score(X[:5] * 3e38)


@every
def test_a_shuffling_loader_is_refused(model, X, kind):
    data = torch.utils.data.TensorDataset(torch.tensor(X), torch.zeros(len(X)).long())
    with pytest.raises(ValueError, match="shuffle"):
        kind(model).fit(torch.utils.data.DataLoader(data, shuffle=True))


@every
def test_needs_are_honest(X, kind):
    """A detector that says it needs only predictions works on them; others refuse."""
    logits = trustml.precomputed("logits")
    rows = X[:80, :5]
    if kind.needs <= {"probabilities", "logits", "labels"}:  # labels are the predicted ones
        assert np.isfinite(kind(logits).fit(rows).score(rows)).all()
    else:
        with pytest.raises(UnsuitableError, match="these work: Msp, MaxLogit, Entropy, Energy"):
            kind(logits).fit(rows)


@every
@settings(max_examples=10, deadline=None)
@given(n_cal=st.integers(1, 60), seed=st.integers(0, 1000))
def test_p_values_are_ranks_and_verdicts_follow(fitted, X, kind, n_cal, seed):
    rng = np.random.default_rng(seed)
    det = copy.copy(fitted[kind])
    cal, new = X[rng.permutation(400)[:n_cal]], X[rng.permutation(400)[:20]]
    det.calibrate(cal)
    score, p = det.score(new), det.p_values(new)
    expected = [(1 + np.sum(det.calibration_.scores >= s)) / (n_cal + 1) for s in score]
    np.testing.assert_allclose(p, expected)
    assert p.min() >= 1 / (n_cal + 1)
    order = np.argsort(score)
    assert (np.diff(p[order]) <= 0).all(), "a higher score never has a higher p-value"
    if 0.5 * (n_cal + 1) >= 1:
        np.testing.assert_array_equal(det.alarm(new, 0.5), p <= 0.5)
