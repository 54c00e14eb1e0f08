"""A small digits classifier, in-distribution splits of it, and foreign images."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from trustml.model import Model, wrap


@dataclass
class Digits:
    model: Model
    net: nn.Module
    X_train: np.ndarray
    y_train: np.ndarray
    X_test: np.ndarray  # 797 rows that neither the model nor a detector has seen
    y_test: np.ndarray
    foreign: np.ndarray


def train(X, y, n_classes, epochs=40, hidden=32):
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(X.shape[1], 64), nn.ReLU(), nn.Linear(64, hidden), nn.ReLU(),
            nn.Linear(hidden, n_classes),
        )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), 3e-3, weight_decay=1e-4)
    inputs, targets = torch.tensor(X), torch.tensor(y)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs), generator=generator).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(inputs[rows]), targets[rows]).backward()
            optimizer.step()
    return net


@pytest.fixture(scope="session")
def digits():
    X, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(X))  # the rows come ordered by writer
    X, y = (X[order] / 16).astype(np.float32), y[order]
    net = train(X[:1000], y[:1000], 10)
    test = X[1000:]
    foreign = np.concatenate(
        [
            rng.random((200, 64)),  # noise
            1 - test[:200],  # inverted
            rng.permuted(test[200:400], axis=1),  # right pixels, wrong places
        ]
    ).astype(np.float32)
    return Digits(
        wrap(net, train=(X[:1000], y[:1000])), net, X[:1000], y[:1000], test, y[1000:], foreign
    )
