"""Small problems that the engine's tests share."""

from types import SimpleNamespace

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


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(n, c=3, seed=9):
    return torch.randint(0, c, (n,), generator=torch.Generator().manual_seed(seed))


def randomised(net, seed=3):
    for j, p in enumerate(net.double().parameters()):
        p.data = draw(*p.shape, seed=seed + j) / 2
    return net


class Conv1D(nn.Module):
    """GPT-2's linear layer: the weight is (in, out)."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.weight, self.bias = nf, nn.Parameter(torch.empty(nx, nf)), None
        self.bias = nn.Parameter(torch.empty(nf))

    def forward(self, x):
        return x @ self.weight + self.bias


class Positions(nn.Module):
    """A layer that is shared over positions, then averaged."""

    def __init__(self, layer, head):
        super().__init__()
        self.layer, self.head = layer, head

    def forward(self, x):
        return self.head(torch.tanh(self.layer(x)).mean(1))


def positions(layer=None, width=5, n=9):
    net = Positions(layer or nn.Linear(4, width), nn.Linear(width, 3))
    return ihvp.Objective(randomised(net), None, (draw(n, 6, 4), labels(n)), batch_size=4)


def convolution(groups=1, bias=True, n=7):
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, groups=groups, bias=bias),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    data = (draw(n, 2, 4, 4), labels(n))
    return ihvp.Objective(randomised(net), None, data, weight_decay=0.03, batch_size=3)


class Tied(nn.Module):
    """One weight in two layers whose biases differ; a table, a norm, and a layer called twice."""

    def __init__(self):
        super().__init__()
        self.table, self.norm = nn.Embedding(6, 4), nn.LayerNorm(4)
        self.first, self.second, self.twice = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.head = nn.Linear(4, 3)

    def forward(self, tokens):
        x = self.norm(self.table(tokens).mean(1))
        x = torch.tanh(self.second(torch.tanh(self.first(x))))
        return self.head(torch.tanh(self.twice(torch.tanh(self.twice(x)))))


def tied(n=11):
    tokens = torch.randint(0, 6, (n, 5), generator=torch.Generator().manual_seed(4))
    return ihvp.Objective(randomised(Tied()), None, (tokens, labels(n)), batch_size=4)


@pytest.fixture
def layered():
    """Networks with shared, grouped, transposed, tied and unfactored layers."""
    return SimpleNamespace(
        draw=draw,
        labels=labels,
        randomised=randomised,
        positions=positions,
        convolution=convolution,
        tied=tied,
        Conv1D=Conv1D,
    )
