"""What networks that mitigate share: modules, losses, devices, seeds."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from trustml.fairness import AdversarialDebiasing, GroupDRO, RegularisedClassifier
from trustml.warnings import TrustmlWarning

KINDS = [AdversarialDebiasing, GroupDRO, RegularisedClassifier]
every = pytest.mark.parametrize("kind", KINDS)


def problem(n=400, seed=0):
    rng = np.random.default_rng(seed)
    s = rng.integers(0, 2, n)
    X = np.column_stack([rng.normal(size=n) + s, rng.normal(size=n)]).astype(np.float32)
    y = (X.sum(1) + rng.logistic(size=n) > 0.5).astype(int)
    return X, y, s


def network(outputs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, outputs)
        )


def test_the_plain_training_is_logistic_regression():
    X, y, s = problem()
    plain = RegularisedClassifier(
        strength=0, hidden=(), weight_decay=0.0, tol=0.0, max_epochs=1000, random_state=0
    )
    with pytest.warns(TrustmlWarning, match="as the unmitigated model"):
        plain.fit(X, y, sensitive_features=s)
    expected = LogisticRegression(C=np.inf, tol=1e-8).fit(X, y).predict_proba(X)
    np.testing.assert_allclose(plain.predict_proba(X), expected, atol=1e-3)


@every
@pytest.mark.parametrize("outputs", [1, 2])
def test_a_users_module_is_copied_and_trained_in_its_precision(kind, outputs):
    X, y, s = problem()
    module = network(outputs)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    fair = kind(module, max_epochs=15, batch_size=100, random_state=0)
    fair.fit(torch.tensor(X), y, sensitive_features=s)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, before[name])
    assert next(fair.network_.parameters()).dtype == torch.float32
    p = fair.predict_proba(X)
    np.testing.assert_allclose(fair.predict_proba(torch.tensor(X)), p, rtol=1e-6)
    np.testing.assert_allclose(fair.predict_proba(X[:7]), p[:7], rtol=1e-4)
    assert (fair.predict(X) == y).mean() > 0.6
    again = kind(module, max_epochs=15, batch_size=100, random_state=0)
    np.testing.assert_array_equal(again.fit(X, y, sensitive_features=s).predict_proba(X), p)


@every
def test_a_loss_of_the_user_is_minimised(kind):
    X, y, s = problem(200)
    seen = []

    def brier(outputs, labels):
        seen.append(set(labels.unique().tolist()))
        return (torch.sigmoid(outputs) - labels).square()

    kind(loss_fn=brier, max_epochs=3, random_state=0).fit(X, y, sensitive_features=s)
    assert seen
    assert set.union(*seen) == {0.0, 1.0}


@every
@pytest.mark.parametrize(
    ("outputs", "loss"), [(1, nn.BCEWithLogitsLoss()), (2, nn.CrossEntropyLoss())]
)
def test_the_reduction_of_a_torch_loss_is_set_aside(kind, outputs, loss):
    X, y, s = problem(200)
    given, ours = (
        kind(network(outputs), loss_fn=fn, max_epochs=15, random_state=0).fit(
            X, y, sensitive_features=s
        )
        for fn in (loss, None)
    )
    np.testing.assert_allclose(given.predict_proba(X), ours.predict_proba(X), atol=1e-5)
    assert loss.reduction == "mean"


@every
def test_a_loss_that_is_not_one_a_row_is_refused(kind):
    X, y, s = problem(100)
    mean = nn.functional.binary_cross_entropy_with_logits
    with pytest.raises(ValueError, match=r"one loss a row.*reduction='none'"):
        kind(loss_fn=mean).fit(X, y, sensitive_features=s)
    with pytest.raises(TypeError, match="callable"):
        kind(loss_fn="mse").fit(X, y, sensitive_features=s)


@every
@pytest.mark.parametrize(("hidden", "error"), [((0,), ValueError), (5, TypeError)])
def test_widths_of_layers_are_positive(kind, hidden, error):
    X, y, s = problem(100)
    with pytest.raises(error, match="hidden"):
        kind(hidden=hidden).fit(X, y, sensitive_features=s)


@pytest.mark.parametrize("kind", [AdversarialDebiasing, RegularisedClassifier])
def test_a_group_without_a_label_that_is_compared_is_refused(kind):
    X, y, s = problem(100)
    kept = (s == 0) | (y == 1)
    X, y, s = X[kept], y[kept], s[kept]
    with pytest.raises(ValueError, match="negative label"):
        kind(constraints="equalized_odds").fit(X, y, sensitive_features=s)
    fair = kind(constraints="demographic_parity", max_epochs=20, random_state=0)
    assert fair.fit(X, y, sensitive_features=s).predict(X).shape == y.shape


@every
def test_weights_are_copies_of_rows(kind):
    X, y, s = problem(150)
    times = np.random.default_rng(1).integers(0, 3, 150)
    rows = np.repeat(np.arange(150), times)
    weighted, repeated = (kind(max_epochs=20, random_state=0) for _ in range(2))
    weighted.fit(X, y, sensitive_features=s, sample_weight=times)
    repeated.fit(X[rows], y[rows], sensitive_features=s[rows])
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), atol=1e-6)


def test_the_favourable_label_may_be_the_first():
    X, y, s = problem(200)
    names = np.array(["yes", "zero"])[1 - y]
    fair = GroupDRO(pos_label="yes", max_epochs=20, random_state=0)
    fair.fit(X, names, sensitive_features=s)
    plain = GroupDRO(max_epochs=20, random_state=0).fit(X, y, sensitive_features=s)
    np.testing.assert_allclose(fair.predict_proba(X)[:, 0], plain.predict_proba(X)[:, 1])
    np.testing.assert_array_equal(fair.predict(X) == "yes", plain.predict(X) == 1)


def test_wrong_modules_name_the_fix():
    X, y, s = problem(100)
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        GroupDRO("mlp").fit(X, y, sensitive_features=s)
    with pytest.raises(ValueError, match="one margin or two logits"):
        GroupDRO(nn.Linear(2, 3)).fit(X, y, sensitive_features=s)
    with pytest.raises(ValueError, match="lower learning_rate"):
        GroupDRO(nn.Linear(2, 1), loss_fn=lambda o, t: o[:, 0] * torch.nan).fit(
            X, y, sensitive_features=s
        )


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every
def test_training_stays_on_the_modules_device(kind):
    X, y, s = problem()
    fair = kind(network(1).cuda(), max_epochs=5, batch_size=100, random_state=0)
    fair.fit(X, y, sensitive_features=s)
    assert next(fair.network_.parameters()).is_cuda
    p = fair.predict_proba(X)
    assert isinstance(p, np.ndarray)
    np.testing.assert_allclose(fair.predict_proba(torch.tensor(X).cuda()), p, rtol=1e-5)
