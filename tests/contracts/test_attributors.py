"""Laws that every attributor of the room obeys; a new one is here by being listed."""

import copy
import inspect

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import nn

from trustml import influence
from trustml.ihvp import Hessian
from trustml.influence import (
    Attributor,
    InfluenceFunctions,
    InfluenceScores,
    InRunShapley,
    RelatIF,
    RepresenterPoints,
    TrainingStep,
)
from trustml.model import wrap

N, Q = 40, 5
KINDS = [
    kind
    for kind in (getattr(influence, name) for name in influence.__all__)
    if inspect.isclass(kind)
    and issubclass(kind, Attributor | InfluenceFunctions)
    and not inspect.isabstract(kind)
]
each = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def network(outputs=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    net = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, outputs)
    ).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) / 2)
    X = torch.randn(N + Q, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(max(outputs, 2), (N + Q,), generator=generator)
    net.to(dtype).train()
    net[3].eval()  # flags of its own
    return net, X.to(dtype), y


def settle(net, X, y):
    """Train the last layer to its minimum, as representer points have it."""
    model = wrap(net, task="classification", train=(X, y), weight_decay=0.05)
    objective = model.objective.restrict("last_layer")
    vector = objective.space.vector()
    for _ in range(8):
        here = objective.at(vector)
        vector = vector - torch.linalg.solve(Hessian(here).dense(), here.gradient())
    objective.space.load(net, vector)


@pytest.fixture(scope="module")
def case():
    net, X, y = network()
    settle(net, X[:N], y[:N])
    return net, X, y


def wrapped(case, order=None, **options):
    net, X, y = case
    keep = torch.arange(N) if order is None else order
    return wrap(net, task="classification", train=(X[keep], y[keep]), weight_decay=0.05, **options)


def make(kind, model, order=None):
    """Construct an attributor with what its class needs, of rows in another order."""
    if kind is InfluenceFunctions:
        return kind(model, damping=0.1, correction="none")
    if kind is RelatIF:
        return kind(InfluenceFunctions(model, damping=0.1))
    if kind is InRunShapley:
        place = torch.arange(N) if order is None else torch.argsort(order)
        state = model.module.state_dict()
        moved = {k: v * 0.9 if v.is_floating_point() else v for k, v in state.items()}
        steps = [
            TrainingStep(state, place[:9], 0.05),
            TrainingStep(moved, place[torch.arange(5, N)], 0.02),
        ]
        return kind(model, steps, order=2)
    return kind(model)


@each
def test_one_result_for_all(case, kind):
    _, X, y = case
    found = make(kind, wrapped(case)).fit().scores(X[N:], y[N:])
    assert isinstance(found, InfluenceScores)
    assert found.values.shape == (Q, N)
    assert found.values.dtype == torch.float64
    assert torch.isfinite(found.values).all()
    assert found.method
    assert found.unit.startswith("nats")
    assert found.units.startswith("change of")
    assert found.method in repr(found)
    assert found.helpful(3).shape == (Q, 3)
    assert set(found._columns()) == {"query", "train_row", "score"}


@each
def test_the_scales_differ_by_n_or_not_at_all(case, kind):
    _, X, y = case
    made = make(kind, wrapped(case)).fit()
    raw = made.scores(X[N:], y[N:], scale="raw").values
    effect = made.scores(X[N:], y[N:]).values
    divisor = N if getattr(kind, "divided", True) else 1
    torch.testing.assert_close(effect * divisor, raw, rtol=1e-9, atol=1e-12)


@each
def test_batches_and_order_do_not_matter(case, kind):
    _, X, y = case
    want = make(kind, wrapped(case)).fit().scores(X[N:], y[N:]).values
    close = {"rtol": 1e-7, "atol": 1e-9 * float(want.abs().max())}
    small = make(kind, wrapped(case, batch_size=7)).fit()
    torch.testing.assert_close(small.scores(X[N:], y[N:]).values, want, **close)
    torch.testing.assert_close(small.scores(X[N : N + 1], y[N : N + 1]).values, want[:1], **close)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(2))
    mixed = make(kind, wrapped(case, order), order).fit()
    torch.testing.assert_close(mixed.scores(X[N:], y[N:]).values, want[:, order], **close)


@each
def test_self_influence_is_the_diagonal(case, kind):
    _, X, y = case
    made = make(kind, wrapped(case)).fit()
    for scale in ("raw", "effect"):
        whole = made.scores(X[:N], y[:N], scale=scale).values.diagonal().numpy()
        own = made.self_influence(scale)
        assert isinstance(own, np.ndarray)
        np.testing.assert_allclose(own, whole, rtol=1e-8, atol=1e-12)


@each
def test_a_copy_helps_and_a_mislabelled_one_harms(kind):
    net, X, y = network(outputs=1)
    settle(net, X[:N], y[:N])
    made = make(kind, wrapped((net, X, y))).fit()
    same = made.scores(X[:N], y[:N]).values.diagonal()
    flipped = made.scores(X[:N], 1 - y[:N]).values.diagonal()
    assert (same > 0).all()
    assert (flipped < 0).all()


@each
def test_numpy_in_numpy_out(case, kind):
    _, X, y = case
    made = make(kind, wrapped(case)).fit()
    tensors = made.scores(X[N:], y[N:]).values
    arrays = made.scores(X[N:].numpy(), y[N:].numpy()).values
    assert isinstance(tensors, torch.Tensor)
    assert isinstance(arrays, np.ndarray)
    # To rounding: matrix products may depend on how a block is aligned in memory.
    np.testing.assert_allclose(arrays, tensors.numpy(), rtol=1e-9, atol=1e-12)


@each
def test_a_measure_is_any_function_and_scores_are_linear_in_it(case, kind):
    _, X, y = case
    made = make(kind, wrapped(case)).fit()

    def loss(outputs, inputs, targets):
        return nn.functional.cross_entropy(outputs, targets, reduction="none")

    want = made.scores(X[N:], y[N:]).values
    torch.testing.assert_close(made.scores(X[N:], y[N:], measure=loss).values, want)
    first, second, both = (
        made.scores(X[N:], measure=measure).values
        for measure in (
            lambda out, *_: out[:, 0],
            lambda out, *_: out.square().sum(1),
            lambda out, *_: 2 * out[:, 0] + out.square().sum(1),
        )
    )
    torch.testing.assert_close(both, 2 * first + second)


@each
def test_the_model_and_the_generators_are_left_alone(case, kind):
    net, X, y = case
    before = copy.deepcopy(net.state_dict())
    flags = [part.training for part in net.modules()], [p.requires_grad for p in net.parameters()]
    state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    made = make(kind, wrapped(case)).fit()
    made.scores(X[N:], y[N:])
    made.self_influence()
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert flags[0] == [part.training for part in net.modules()]
    assert flags[1] == [p.requires_grad for p in net.parameters()]
    assert torch.equal(state[0], torch.get_rng_state())
    np.testing.assert_array_equal(state[1], np.random.get_state()[1])  # noqa: NPY002


@each
def test_estimator_manners(case, kind):
    _, X, y = case
    made = make(kind, wrapped(case))
    given = made.get_params(deep=False)
    assert set(given) == set(inspect.signature(kind).parameters)
    assert all(made.get_params(deep=False)[k] is v for k, v in given.items())
    with pytest.raises(NotFittedError, match="fit"):
        made.scores(X[N:], y[N:])
    with pytest.raises(NotFittedError, match="fit"):
        made.self_influence()
    assert made.fit() is made
    first = made.scores(X[N:], y[N:]).values
    again = made.fit().scores(X[N:], y[N:]).values
    other = clone(made).fit().scores(X[N:], y[N:]).values
    assert torch.equal(first, again)
    assert torch.equal(first, other)


@each
def test_bad_input_is_refused(case, kind):
    net, X, y = case
    made = make(kind, wrapped(case)).fit()
    with pytest.raises(ValueError, match="scale"):
        made.scores(X[N:], y[N:], scale="relative")
    with pytest.raises(ValueError, match="pass y="):
        made.scores(X[N:])
    with pytest.raises(TypeError, match="measure must be a callable"):
        made.scores(X[N:], measure=3)
    with pytest.raises(ValueError, match="NaN or infinite"):
        made.scores(X[N:] * torch.nan, y[N:])
    rowless = wrap(net, task="classification")
    with pytest.raises(ValueError, match="train"):
        make(kind, rowless).fit()
    callable_only = wrap(lambda x: x @ np.ones((4, 3)), task="classification")
    with pytest.raises(TypeError, match="gradients"):
        kind(callable_only).fit()


@each
def test_what_is_not_finite_is_not_silent(case, kind):
    net, X, y = case
    broken = copy.deepcopy(net)
    with torch.no_grad():
        broken[4].bias[0] = torch.inf  # NaN outputs look random to the objective
    with pytest.raises(ValueError, match=r"finite|NaN"):
        make(kind, wrapped((broken, X, y))).fit().scores(X[N:], y[N:])


@each
def test_float32_agrees_with_float64(case, kind):
    net, X, y = case
    want = make(kind, wrapped(case)).fit().scores(X[N:], y[N:]).values
    rough = copy.deepcopy(net).float(), X.float(), y
    got = make(kind, wrapped(rough)).fit().scores(X[N:].float(), y[N:]).values
    assert got.dtype == torch.float32
    assert float((got.double() - want).norm() / want.norm()) < 1e-3


@pytest.mark.filterwarnings("ignore::trustml.warnings.ApproximationWarning")  # bfloat16 rounds
@each
def test_half_precision_keeps_the_scores(case, kind):
    net, X, y = case
    want = make(kind, wrapped(case)).fit().scores(X[N:], y[N:]).values
    rough = copy.deepcopy(net).bfloat16(), X.bfloat16(), y
    got = make(kind, wrapped(rough)).fit().scores(X[N:].bfloat16(), y[N:]).values
    assert float((got.double() - want).norm() / want.norm()) < 0.1


@pytest.mark.filterwarnings("ignore::trustml.warnings.ConvergenceWarning")  # bfloat16 rounds
@pytest.mark.parametrize("how", [{"curvature": "ekfac"}, {"method": "cg"}, {"method": "dual"}])
def test_half_precision_goes_with_each_way_to_solve(case, how):
    net, X, y = case
    rough = copy.deepcopy(net).bfloat16(), X.bfloat16(), y
    fine, half = (
        InfluenceFunctions(wrapped(c), damping=0.1, correction="none", **how).fit()
        for c in (case, rough)
    )
    want, got = fine.scores(X[N:], y[N:]).values, half.scores(X[N:].bfloat16(), y[N:]).values
    assert float((got.double() - want).norm() / want.norm()) < 0.1
    for scale in ("effect", "raw"):
        own, rounded = fine.self_influence(scale), half.self_influence(scale)
        assert np.linalg.norm(rounded - own) < 0.1 * np.linalg.norm(own)


@each
def test_a_module_without_layers_to_hook_gives_the_same(case, kind):
    net, X, y = case

    class Opaque(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = copy.deepcopy(net)
            self.shift = nn.Parameter(torch.zeros(4, dtype=torch.float64))

        def forward(self, x):
            return self.net(x + self.shift)

    whole = wrapped((Opaque(), X, y))
    made = make(kind, whole).fit()
    values = made.scores(X[N:], y[N:]).values
    close = {"rtol": 1e-7, "atol": 1e-9 * float(values.abs().max())}
    own = made.scores(X[:N], y[:N], scale="raw").values.diagonal().numpy()
    np.testing.assert_allclose(made.self_influence("raw"), own, rtol=1e-7)
    if "parameters" in inspect.signature(kind).parameters:
        held = make(kind, whole).set_params(parameters="net").fit()
        want = make(kind, wrapped(case)).fit().scores(X[N:], y[N:]).values
        torch.testing.assert_close(held.scores(X[N:], y[N:]).values, want, **close)
    if kind is RepresenterPoints:
        want = make(kind, wrapped(case)).fit().scores(X[N:], y[N:]).values
        torch.testing.assert_close(values, want, **close)
