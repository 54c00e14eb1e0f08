"""Detectors of pytorch-ood's protocol under our face: the same scores, and verdicts."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from torch import nn

import trustml
from trustml.core.optional import require_submodule
from trustml.errors import MissingExtraError
from trustml.integrations.pytorch_ood import PytorchOod
from trustml.ood import Energy, Gmm, Mahalanobis, Suite, UnsuitableError, Vim


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    order = np.random.default_rng(0).permutation(150)
    return X[order].astype(np.float32), y[order]


@pytest.fixture(scope="module")
def model(iris):
    X, y = (torch.tensor(part) for part in iris)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
        optimizer = torch.optim.Adam(net.parameters(), 0.02)
        for _ in range(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(X), y).backward()
            optimizer.step()
        optimizer.zero_grad()
    return trustml.wrap(net, task="classification")


class Centres:
    """Of their protocol: learns from features, and writes into its arguments."""

    requires_fit = True

    def fit_features(self, x, y):
        self.centres = torch.stack([x[y == k].mean(0) for k in range(int(y.max()) + 1)])
        x.zero_()
        return self

    def predict_features(self, x):
        scores = torch.cdist(x, self.centres).min(1).values
        x.zero_()
        return scores


class Gradients:
    """Of their protocol: needs gradients of the inputs, and draws random numbers."""

    requires_fit = True

    def __init__(self, net):
        self.net = net

    def fit(self, data_loader):
        self.mean = torch.stack([x.mean() for x, _ in data_loader]).mean()

    def predict(self, x):
        x = x.clone().requires_grad_()
        self.net(x).logsumexp(1).sum().backward()
        return x.grad.norm(dim=1) + self.mean + 1e-9 * torch.rand(len(x))


def test_an_object_of_their_protocol_gets_verdicts(iris, model):
    X, y = iris
    theirs = Centres()
    det = PytorchOod(model, theirs).fit(X[:100], y[:100]).calibrate(X[100:])
    assert det.reads_ == "features"
    assert not hasattr(theirs, "centres"), "the user's object stays as it is"
    Z = model.features(X)
    centres = np.stack([Z[:100][y[:100] == k].mean(0) for k in range(3)])
    expected = np.linalg.norm(Z[:, None] - centres, axis=2).min(1)
    np.testing.assert_allclose(det.score(X), expected, atol=1e-3)
    assert det.score(X).dtype == np.float64
    assert det.alarm(X + 20, 0.05).all()
    again = det.score(X)
    det.fit(X[:50], y[:50])
    assert not np.allclose(det.score(X), again), "a second fit forgets the first"


def test_it_shares_the_pass_of_a_suite(iris, model):
    X, y = iris
    suite = Suite(model, [Mahalanobis, PytorchOod(model, Centres())]).fit(X, y)
    table = suite.score(X)
    assert table.columns == ("Mahalanobis", "PytorchOod")
    np.testing.assert_allclose(
        np.asarray(table.values)[:, 1], PytorchOod(model, Centres()).fit(X, y).score(X)
    )


def test_what_reads_the_inputs_gets_them_with_gradients(iris, model):
    X, y = iris
    state = torch.get_rng_state()
    det = PytorchOod(model, Gradients(model.module)).fit(X, y)
    assert det.reads_ == "inputs"
    leaf = torch.tensor(X, requires_grad=True)
    model.module(leaf).logsumexp(1).sum().backward()
    expected = leaf.grad.norm(dim=1).numpy() + X.mean()
    np.testing.assert_allclose(det.score(X), expected, rtol=1e-4)
    assert torch.equal(torch.get_rng_state(), state)
    for parameter in model.module.parameters():
        parameter.grad = None


def test_bad_objects_and_data_are_refused(iris, model):
    X, y = iris
    with pytest.raises(TypeError, match="name with its options"):
        PytorchOod(model, Centres).fit(X, y)
    with pytest.raises(TypeError, match="name with its options"):
        PytorchOod(model, Centres(), {"k": 3}).fit(X, y)
    with pytest.raises(UnsuitableError, match="neither logits"):
        PytorchOod(model, object()).fit(X, y)
    with pytest.raises(UnsuitableError, match="gaps"):
        PytorchOod(model, Centres()).fit(X[y != 1], y[y != 1])
    with pytest.raises(UnsuitableError, match="reads features"):
        PytorchOod(trustml.precomputed("logits"), Centres()).fit(X, y)

    class Wrong(Centres):
        def predict_features(self, x):
            return torch.full((len(x),), torch.nan)

    with pytest.raises(ValueError, match="NaN"):
        PytorchOod(model, Wrong()).fit(X, y).score(X)


@pytest.fixture(scope="module")
def theirs():
    try:
        return require_submodule("pytorch_ood.detector", "ood-anchors")
    except MissingExtraError:
        pytest.skip("pytorch-ood is an extra of its own: it brings torchvision")


NAMES = [
    ("EnergyBased", {}), ("MaxLogit", {}), ("MaxSoftmax", {}), ("Entropy", {}), ("GEN", {}),
    ("KLMatching", {}), ("TemperatureScaling", {}), ("Mahalanobis", {}), ("RMD", {}),
    ("KNN", {"k": 5}), ("GMM", {"reg": 1e-3}), ("ViM", {"d": 8}), ("SHE", {}), ("NNGuide", {}),
    ("fDBD", {}), ("NCI", {}), ("PNML", {}), ("DICE", {"p": 0.5}), ("LTS", {}),
    ("ODIN", {}), ("GradNorm", {}),
]  # fmt: skip


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "options"), NAMES, ids=[name for name, _ in NAMES])
def test_their_own_detectors(theirs, iris, model, name, options):
    X, y = iris
    det = PytorchOod(model, name, options).fit(X[:100], y[:100]).calibrate(X[100:])
    scores = det.score(X)
    assert scores.shape == (150,)
    assert len(np.unique(scores)) > 50
    assert (det.p_values(X) > 0).all()


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
def test_where_they_are_right_the_scores_are_ours(theirs, iris, model):
    X, y = iris
    np.testing.assert_allclose(
        PytorchOod(model, "EnergyBased").fit(X).score(X), Energy(model).fit(X).score(X), rtol=1e-5
    )
    vim = PytorchOod(model, "ViM", {"d": 3}).fit(X, y).score(X)
    ours = Vim(model, dim=3).fit(X, y).score(X)
    np.testing.assert_allclose(vim, ours, rtol=1e-3, atol=1e-3)


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
def test_their_mahalanobis_forgets_to_divide_by_the_number_of_rows(theirs, iris, model):
    X, y = iris
    half = PytorchOod(model, "Mahalanobis").fit(X[:75], y[:75])
    twice = PytorchOod(model, "Mahalanobis").fit(np.r_[X[:75], X[:75]], np.r_[y[:75], y[:75]])
    far = X + 3
    ratio = half.score(far) / twice.score(far)
    np.testing.assert_allclose(ratio, 2, rtol=0.1)
    ours = [Mahalanobis(model).fit(np.r_[X, X][:n], np.r_[y, y][:n]) for n in (150, 300)]
    np.testing.assert_allclose(ours[0].score(far), ours[1].score(far), rtol=1e-6)


@pytest.mark.peers
def test_unknown_names_and_cut_points_that_we_do_not_have(theirs, iris, model):
    X, y = iris
    with pytest.raises(ValueError, match=r"no 'Mahalanobi'.*KNN.*ViM"):
        PytorchOod(model, "Mahalanobi").fit(X, y)
    estimator = trustml.precomputed("features")
    with pytest.raises(UnsuitableError, match="last linear layer"):
        PytorchOod(estimator, "ViM", {"d": 2}).fit(X, y)
    identity = {"backbone": nn.Identity(), "head": nn.Identity()}
    with pytest.raises(UnsuitableError, match="feature maps"):
        PytorchOod(model, "ReAct", identity).fit(X, y)
    linear = LogisticRegression(max_iter=1000).fit(X, y)
    assert PytorchOod(linear, "KNN", {"k": 3}).fit(X, y).score(X).shape == (150,)
    assert Gmm(linear).fit(X, y).score(X).shape == (150,)
