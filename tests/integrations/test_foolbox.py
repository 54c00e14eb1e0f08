import numpy as np
import pytest
import torch
from torch import nn

from trustml.integrations.foolbox import FoolboxAttack
from trustml.model import wrap
from trustml.robustness import Pgd, attack

pytestmark = pytest.mark.peers
foolbox = pytest.importorskip("foolbox")


@pytest.fixture(scope="module")
def case():
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 3))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
        X = torch.rand(40, 6, generator=generator)
        net[2].bias -= net(X).mean(0)
    y = net(X).argmax(1)
    return wrap(net, task="classification", train=(X, y), bounds=(0.0, 1.0)), X, y


@pytest.mark.parametrize(
    ("kind", "norm", "eps"),
    [
        ("LinfPGD", "linf", 0.1),
        ("L2PGD", "l2", 0.2),
        ("LinfDeepFoolAttack", "linf", 0.1),
        ("L2DeepFoolAttack", "l2", 0.2),
        ("DDNAttack", "l2", 0.2),
    ],
)
def test_their_attacks_obey_our_judge(case, kind, norm, eps):
    model, X, y = case
    found = attack(model, X, y, FoolboxAttack(kind), norm, eps, random_state=0)
    delta = (found.x_adv - X).double().numpy()
    order = np.inf if norm == "linf" else 2
    assert (np.linalg.norm(delta, order, axis=1) <= eps).all()
    assert torch.equal(model.predict(found.x_adv) != y, found.success)
    assert torch.equal(found.x_adv[~found.success], X[~found.success])
    assert 0 < found.success.sum() < 40
    assert (found.forwards > 2).all()


def test_our_pgd_is_as_strong_as_theirs(case):
    model, X, y = case
    theirs = FoolboxAttack("LinfPGD", {"steps": 40, "rel_stepsize": 0.1})
    for eps in (0.05, 0.1):
        ours, other = (
            attack(model, X, y, m, "linf", eps, random_state=0).success.sum()
            for m in (Pgd(), theirs)
        )
        assert ours >= other - 1


def test_a_failed_attack_is_no_black_image(case):
    """foolbox's Carlini-Wagner returns zeros where it finds nothing, and may call them success."""
    model, X, y = case
    options = {"steps": 1, "binary_search_steps": 1, "stepsize": 1e-6, "initial_const": 1e-6}
    raw = foolbox.attacks.L2CarliniWagnerAttack(**options)
    fmodel = foolbox.PyTorchModel(model.module.eval(), bounds=(0, 1))
    black, _, claimed = raw(fmodel, X, y, epsilons=None)
    assert (black == 0).all()
    assert claimed.any()
    cw = FoolboxAttack("L2CarliniWagnerAttack", options)
    found = attack(model, X, y, cw, "l2", 0.1, random_state=0)
    assert torch.equal(model.predict(found.x_adv) != y, found.success)
    assert torch.equal(found.x_adv[~found.success], X[~found.success])
    assert not (found.x_adv == 0).all(1).any()
    assert found.success.sum() < claimed.sum()


def test_runs_repeat_and_leave_torch_alone(case):
    model, X, y = case
    state = torch.get_rng_state()
    runs = [attack(model, X, y, FoolboxAttack("L2PGD"), "l2", 0.1, random_state=3) for _ in "ab"]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(runs[0].x_adv, runs[1].x_adv)


def test_targets(case):
    model, X, y = case
    target = (y + 1) % 3
    found = attack(model, X, target, FoolboxAttack("LinfPGD"), "linf", 0.5, targeted=True)
    assert torch.equal(model.predict(found.x_adv) == target, found.success)
    assert found.success.any()


def test_bad_input(case, monkeypatch):
    model, X, y = case
    with pytest.raises(ValueError, match=r"no 'Best'; it has .*L2PGD"):
        attack(model, X, y, FoolboxAttack("Best"), eps=0.1)
    uneven = wrap(model.module, task="classification", train=(X, y),
                  bounds=(np.zeros(6), np.linspace(1, 2, 6)))  # fmt: skip
    with pytest.raises(ValueError, match="scalar bounds"):
        attack(uneven, X, y, FoolboxAttack("LinfPGD"), eps=0.1)
    monkeypatch.setitem(__import__("sys").modules, "foolbox", None)
    with pytest.raises(ImportError, match=r"trustml\[robustness\]"):
        attack(model, X, y, FoolboxAttack("LinfPGD"), eps=0.1)
