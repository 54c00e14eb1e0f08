"""Small models whose attributions are known or can be checked by force."""

import itertools

import pytest
import torch
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from torch import nn

from trustml.model import wrap


def network(activation, sizes, seed=0, dtype=torch.float64):
    """A randomly initialised feed-forward net, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for wide, narrow in itertools.pairwise(sizes):
        layers += [nn.Linear(wide, narrow), activation()]
    net = nn.Sequential(*layers[:-1]).to(dtype)
    with torch.no_grad():
        for p in net.parameters():
            width = p.shape[-1] if p.ndim > 1 else 4
            p.copy_(2 * torch.randn(p.shape, generator=generator, dtype=dtype) / width**0.5)
    return net


@pytest.fixture(scope="session")
def build():
    """Wrap a random net with random training rows."""

    def make(activation=nn.Tanh, sizes=(6, 12, 12, 3), seed=0, dtype=torch.float64, **options):
        net = network(activation, sizes, seed, dtype)
        generator = torch.Generator().manual_seed(seed + 1)
        X = torch.randn(60, sizes[0], generator=generator, dtype=dtype)
        y = torch.arange(60) % max(2, sizes[-1])
        options.setdefault("task", "classification")
        return wrap(net, train=(X, y), **options), X

    return make


@pytest.fixture(scope="session")
def ridge():
    X, y = load_diabetes(return_X_y=True)
    X, y = 20 * X[:70], y[:70]
    return wrap(Ridge(alpha=3.0).fit(X, y), train=(X, y)), X, y
