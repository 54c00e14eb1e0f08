"""Small problems that the engine's tests share."""

import pytest
import torch
from torch import nn

from trustml import ihvp


def make_mlp(d=5, h=6, c=3, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(d, h), nn.Tanh(), nn.Linear(h, c)).to(dtype)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=dtype) / 2)
    return net


def make_classification(n=43, d=5, c=3, dtype=torch.float64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype)
    return X, torch.randint(0, c, (n,), generator=generator)


@pytest.fixture
def mlp():
    """A function that makes a small MLP."""
    return make_mlp


@pytest.fixture
def classification():
    """A function that makes a small classification problem."""
    return make_classification


@pytest.fixture
def objective():
    """MLP with cross-entropy, p = 57, biases unpenalised, a ragged last batch."""
    return ihvp.Objective(
        make_mlp(),
        nn.CrossEntropyLoss(),
        make_classification(),
        weight_decay={"weight": 0.05},
        batch_size=10,
    )


@pytest.fixture
def columns(objective):
    """Right-hand sides of shape (p, 4)."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(objective.space.size, 4, generator=generator, dtype=torch.float64)
