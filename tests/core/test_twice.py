"""What torch cannot differentiate twice is written out, with torch's values."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trustml.core._twice import _WrittenOut
from trustml.core.modes import evaluating
from trustml.ihvp import Hessian, Objective


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_weight_norm_keeps_its_values_and_gains_second_derivatives(dim):
    v = normal(3, 4, 2).requires_grad_()
    g = normal(
        *[k if axis == dim else 1 for axis, k in enumerate(v.shape)], seed=1
    ).requires_grad_()
    with _WrittenOut():
        found = torch._weight_norm(v, g, dim)
        assert torch.autograd.gradgradcheck(lambda v, g: torch._weight_norm(v, g, dim), (v, g))
    torch.testing.assert_close(
        found, v * g / v.norm(dim=[a for a in range(3) if a != dim], keepdim=True)
    )


def objective_of(module):
    return Objective(module.double(), None, (normal(6, 3), torch.tensor([0, 1, 1, 0, 1, 0])))


def test_hessian_of_a_weight_normed_module_is_the_difference_of_gradients():
    torch.manual_seed(0)
    objective = objective_of(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
    hessian, at = Hessian(objective).dense(), objective.space.vector()
    step = 1e-5 * torch.eye(len(at), dtype=torch.float64)
    differences = [
        (objective.at(at + e).gradient() - objective.at(at - e).gradient()) / 2e-5 for e in step
    ]
    torch.testing.assert_close(hessian, torch.stack(differences), rtol=1e-6, atol=1e-8)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_hessian_of_the_older_weight_norm_is_symmetric():
    torch.manual_seed(0)
    layer = nn.utils.weight_norm(nn.Linear(3, 2).double())
    objective = objective_of(layer)
    hessian = Hessian(objective) @ torch.eye(objective.space.size, dtype=torch.float64)
    assert float(hessian.norm()) > 0.1
    torch.testing.assert_close(hessian, hessian.T)


BAGS = {
    "sum": {"mode": "sum"},
    "mean": {"mode": "mean"},
    "max": {"mode": "max"},
    "sum padded": {"mode": "sum", "padding_idx": 1},
    "mean padded": {"mode": "mean", "padding_idx": 1},
    "max padded": {"mode": "max", "padding_idx": 1},
    "weighted": {"mode": "sum", "per_sample_weights": normal(4, 3, seed=2)},
}


@pytest.mark.parametrize("name", list(BAGS))
def test_bag_keeps_its_values_and_gains_second_derivatives(name):
    x = torch.tensor([[0, 1, 2], [1, 1, 1], [4, 4, 3], [2, 1, 0]])  # one row of padding alone
    table = normal(5, 2).requires_grad_()
    expected = F.embedding_bag(x, table, **BAGS[name])
    with _WrittenOut():
        found = F.embedding_bag(x, table, **BAGS[name])
        square = F.embedding_bag(x, table, **BAGS[name]).square().sum()
        (gradient,) = torch.autograd.grad(square, table, create_graph=True)
        assert gradient.sum().requires_grad
    torch.testing.assert_close(found, expected)
    reference = torch.autograd.grad(expected.square().sum(), table)[0]
    torch.testing.assert_close(gradient, reference)


def test_offsets_are_left_to_torch():
    table, x = normal(5, 2).requires_grad_(), torch.tensor([0, 1, 2, 4])
    with _WrittenOut():
        found = F.embedding_bag(x, table, torch.tensor([0, 2]))
    torch.testing.assert_close(found, F.embedding_bag(x, table, torch.tensor([0, 2])))


def test_recurrent_layers_run_without_cudnn():
    seen = SimpleNamespace(enabled=None)

    class Looking(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.GRU(2, 2)

        def forward(self, x):
            seen.enabled = torch.backends.cudnn.enabled
            return self.layer(x)[0]

    before, module = torch.backends.cudnn.enabled, Looking()
    with evaluating(module):
        module(torch.ones(1, 1, 2))
    assert seen.enabled is False
    assert torch.backends.cudnn.enabled == before
