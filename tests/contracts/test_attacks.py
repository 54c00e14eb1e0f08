"""Laws that every attack of the room obeys; a new one is here by being listed in ``__all__``."""

import numpy as np
import pytest
import torch
from torch import nn

from trustml import robustness
from trustml.model import wrap
from trustml.robustness import Attack, attack

KINDS = [
    kind
    for kind in (getattr(robustness, name) for name in robustness.__all__)
    if isinstance(kind, type) and issubclass(kind, Attack) and kind is not Attack
]
EPS = {"linf": 0.12, "l2": 0.3}
each = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
norms = pytest.mark.parametrize("norm", ["linf", "l2"])


@pytest.fixture(scope="module")
def case():
    generator = torch.Generator().manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(36, 3),
    ).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) / 2)
    net.eval()
    X = torch.rand(24, 1, 5, 5, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        net[-1].bias -= net(X).mean(0)
    y = net(X).argmax(1)
    y[:3] = (y[:3] + 1) % 3  # three rows are wrong before any attack
    net.train()
    net[3].eval()  # flags of its own
    return wrap(net, task="classification", train=(X, y), bounds=(0.0, 1.0)), X, y


@each
@norms
def test_points_stay_in_ball_and_box_and_the_judge_is_right(case, kind, norm):
    model, X, y = case
    r = attack(model, X, y, kind(), norm, EPS[norm], random_state=0)
    delta = (r.x_adv - X).flatten(1).numpy()
    measured = np.linalg.norm(delta, np.inf if norm == "linf" else 2, axis=1)
    assert (measured <= EPS[norm]).all()
    assert (r.x_adv >= 0).all()
    assert (r.x_adv <= 1).all()
    np.testing.assert_allclose(r.distance.numpy(), measured, rtol=1e-12)
    np.testing.assert_array_equal((model.predict(r.x_adv) != y).numpy(), r.success.numpy())
    assert torch.equal(r.x_adv[~r.success], X[~r.success])
    assert r.success[:3].all()
    assert (r.distance[:3] == 0).all()
    assert r.success[3:].any()


@each
@norms
def test_a_row_does_not_depend_on_its_batch(case, kind, norm):
    model, X, y = case
    whole = attack(model, X, y, kind(), norm, EPS[norm], random_state=5)
    for i in (4, 11, 20):
        alone = attack(model, X[i : i + 1], y[i : i + 1], kind(), norm, EPS[norm], random_state=5)
        assert bool(alone.success) == bool(whole.success[i])
        torch.testing.assert_close(alone.x_adv[0], whole.x_adv[i], rtol=0, atol=1e-8)
        assert int(alone.forwards) == int(whole.forwards[i])


@each
def test_nothing_of_the_users_changes(case, kind):
    model, X, y = case
    module = model.module
    before = {name: value.clone() for name, value in module.state_dict().items()}
    flags = [part.training for part in module.modules()]
    rows, labels = X.clone(), y.clone()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    attack(model, X, y, kind(), "linf", 0.1, random_state=None)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert flags == [part.training for part in module.modules()]
    assert all(p.grad is None and p.requires_grad for p in module.parameters())
    assert torch.equal(X, rows)
    assert torch.equal(y, labels)
    assert not X.requires_grad
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


@each
def test_kinds_are_kept(case, kind):
    model, X, y = case
    arrays = attack(model, X.numpy(), y.numpy(), kind(), eps=0.1, random_state=0)
    tensors = attack(model, X, y, kind(), eps=0.1, random_state=0)
    for name in ("x_adv", "success", "distance", "forwards", "backwards"):
        array, tensor = getattr(arrays, name), getattr(tensors, name)
        assert isinstance(array, np.ndarray)
        assert isinstance(tensor, torch.Tensor)
        np.testing.assert_array_equal(array, tensor.numpy())
    assert arrays.x_adv.shape == X.shape


@each
@norms
def test_more_budget_finds_more(case, kind, norm):
    model, X, y = case
    small, large = (
        attack(model, X, y, kind(), norm, share * EPS[norm], random_state=0).success.sum()
        for share in (0.3, 3.0)
    )
    assert small <= large
    assert large > 10


@each
def test_targeted_runs_reach_their_target(case, kind):
    model, X, _ = case
    target = (model.predict(X) + 1) % 3
    r = attack(model, X, target, kind(), "l2", 2.0, targeted=True, random_state=0)
    np.testing.assert_array_equal((model.predict(r.x_adv) == target).numpy(), r.success.numpy())
    assert r.success.any()


@each
def test_passes_are_counted(case, kind):
    model, X, y = case
    seen = []
    handle = model.module.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    try:
        r = attack(model, X, y, kind(), eps=0.05, random_state=0)
    finally:
        handle.remove()
    assert int(r.forwards.sum()) == sum(seen)
