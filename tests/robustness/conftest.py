"""Small classifiers with known geometry."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from torch import nn

from trustml.model import wrap


@pytest.fixture(scope="session")
def iris():
    X, y = load_iris(return_X_y=True)
    return X, y


@pytest.fixture(scope="session")
def linear(iris):
    X, y = iris
    return wrap(LogisticRegression(max_iter=2000).fit(X, y), train=(X, y), bounds=(0.0, 10.0))


@pytest.fixture(scope="session")
def binary(iris):
    X, y = iris
    return wrap(LogisticRegression().fit(X, y > 0), train=(X, y > 0), bounds=(-50.0, 50.0))


@pytest.fixture(scope="session")
def smooth():
    """A float64 tanh net on points of the square [0, 1]^5 with its own labels."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    X = torch.rand(40, 5, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        net[2].bias -= net(X).mean(0)  # every class gets its share of the rows
    y = net(X).argmax(1).detach()
    return wrap(net, task="classification", train=(X, y), bounds=(0.0, 1.0)), X, y


@pytest.fixture
def rng():
    return np.random.default_rng(0)
