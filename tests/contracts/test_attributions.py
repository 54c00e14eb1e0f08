"""Laws that every explainer of the room obeys; a new one is here by being listed."""

import inspect

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from trustml import explain
from trustml.explain import Explainer, Explanation
from trustml.model import wrap

KINDS = [
    kind
    for kind in (getattr(explain, name) for name in explain.__all__)
    if isinstance(kind, type) and issubclass(kind, Explainer) and not inspect.isabstract(kind)
]
each = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


@pytest.fixture(scope="module")
def case():
    generator = torch.Generator().manual_seed(2)
    net = nn.Sequential(
        nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
    ).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    net.train()
    net[3].eval()  # flags of its own
    X = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    return wrap(net, task="classification", train=(X, torch.arange(12) % 3)), X


def make(kind, model, X, **options):
    """Construct an explainer with what its class needs."""
    needs_background = "background" in inspect.signature(kind).parameters
    return kind(model, background=X[:3], **options) if needs_background else kind(model, **options)


@each
def test_shapes_and_names(case, kind):
    model, X = case
    found = make(kind, model, X).attribute(X)
    assert isinstance(found, Explanation)
    assert found.values.shape == (12, 5, 3)
    assert found.output_names == ["0", "1", "2"]
    assert found.feature_names == [f"x{j}" for j in range(5)]
    assert found.method == kind.method
    assert torch.equal(found.data, X)
    one = make(kind, model, X).attribute(X, target=1)
    assert one.values.shape == (12, 5)
    assert one.output_names is None
    torch.testing.assert_close(one.values, found.values[..., 1], rtol=1e-5, atol=1e-6)


@each
@pytest.mark.parametrize("output", ["logit", "probability", "loss"])
def test_what_adds_up_adds_up_to_the_model(case, kind, output):
    model, X = case
    y = model.predict(X)
    asked = {"y": y} if output == "loss" else {"target": 2}
    found = make(kind, model, X, output=output).attribute(X, **asked)
    answer = {
        "logit": lambda: model.logits(X)[:, 2],
        "probability": lambda: model.predict_proba(X)[:, 2],
        "loss": lambda: model.loss(X, y),
    }[output]()
    if found.completeness is None:
        assert not kind.adds_up
        return
    gap = (answer - found.base_values - found.values.sum(1)).abs()
    torch.testing.assert_close(found.completeness, gap, rtol=0, atol=1e-10)
    if kind.adds_up:
        assert gap.max() < 1e-6


@each
def test_a_row_does_not_depend_on_its_batch(case, kind):
    model, X = case
    explainer = make(kind, model, X)
    whole, alone = explainer.attribute(X), explainer.attribute(X[4:5])
    torch.testing.assert_close(whole.values[4:5], alone.values, rtol=0, atol=1e-10)
    assert int(whole.passes[4]) == int(alone.passes[0])


@each
def test_kinds_are_kept(case, kind):
    model, X = case
    tensors = make(kind, model, X).attribute(X[:3])
    arrays = make(kind, model, X.numpy()).attribute(X[:3].numpy())
    for name in ("values", "base_values", "data", "completeness", "passes"):
        tensor, array = getattr(tensors, name), getattr(arrays, name)
        if tensor is None:
            assert array is None
            continue
        assert isinstance(tensor, torch.Tensor)
        assert isinstance(array, np.ndarray)
        np.testing.assert_allclose(array, tensor.numpy(), atol=1e-12)


@each
def test_nothing_of_the_users_changes(case, kind):
    model, X = case
    module = model.module
    before = {name: value.clone() for name, value in module.state_dict().items()}
    flags = [part.training for part in module.modules()]
    rows = X.clone()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    make(kind, model, X).attribute(X, target=0)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert flags == [part.training for part in module.modules()]
    assert all(p.grad is None and p.requires_grad for p in module.parameters())
    assert torch.equal(X, rows)
    assert not X.requires_grad
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


@each
def test_sklearn_manners(case, kind):
    model, X = case
    explainer = make(kind, model, X)
    assert explainer.get_params()["model"] is model
    twin = clone(explainer)
    assert twin.model is model
    torch.testing.assert_close(twin.attribute(X[:2]).values, explainer.attribute(X[:2]).values)


@each
def test_regressions_have_no_output_axis(kind):
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    X = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    model = wrap(net, task="regression", train=(X, X[:, 0]))
    found = make(kind, model, X).attribute(X)
    assert found.values.shape == (9, 4)
    assert found.output_names is None
    two = wrap(nn.Linear(4, 2), task="regression", train=(X, X[:, :2]))
    assert make(kind, two, X).attribute(X).values.shape == (9, 4, 2)
    assert make(kind, two, X).attribute(X, target=1).values.shape == (9, 4)


@each
def test_doors_refuse(case, kind):
    model, X = case
    explainer = make(kind, model, X)
    with pytest.raises(ValueError, match="NaN"):
        explainer.attribute(X / 0)
    with pytest.raises(ValueError, match="target"):
        explainer.attribute(X, target=[0, 1])
    with pytest.raises(ValueError, match="5"):
        explainer.attribute(X, target=5)
    with pytest.raises(ValueError, match="output must be one of"):
        make(kind, model, X, output="odds").attribute(X)
