"""What a store tells apart: whatever changes a result changes the description."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from torch import nn

from trustml.core._described import described
from trustml.core.losses import as_loss


def test_functions_are_told_apart_by_what_they_do():
    def with_epochs(epochs):
        def train(rows, targets):
            return epochs

        return train

    assert described(with_epochs(3)) == described(with_epochs(3))
    assert described(with_epochs(3)) != described(with_epochs(4))
    assert described(Ridge(alpha=1.0)) != described(Ridge(alpha=2.0))
    assert described(np.ones(3)) != described(np.zeros(3))
    net = nn.Linear(2, 2)
    assert described([net, {"a": 1}]) == described([net, {"a": 1}])
    assert described({"b", "a"}) == described({"a", "b"})


def test_two_functions_on_one_line_are_told_apart():
    first, second = lambda f: f[:, 0], lambda f: f[:, 1]  # fmt: skip
    plus, minus = lambda a, b: a + b, lambda a, b: a - b  # fmt: skip
    assert described(first) == described(first)
    assert described(first) != described(second)
    assert described(plus) != described(minus)


def test_functions_without_a_source_are_told_apart():
    typed = [eval(f"lambda f: (lambda: f[:, {k}])()") for k in (0, 0, 1)]
    assert described(typed[0]) == described(typed[1])
    assert described(typed[0]) != described(typed[2])


def test_methods_are_told_apart_by_their_object():
    class Trainer:
        def __init__(self, epochs):
            self.epochs = epochs

        def train(self):
            return self.epochs

        def evaluate(self):
            return -self.epochs

    assert described(Trainer(3).train) == described(Trainer(3).train)
    assert described(Trainer(3).train) != described(Trainer(4).train)
    assert described(Trainer(3).train) != described(Trainer(3).evaluate)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (nn.HuberLoss(delta=1.0), nn.HuberLoss(delta=2.0)),
        (lambda f, y: (f - y).abs()[:, 0], lambda f, y: (f - y).square()[:, 0]),
        (nn.PoissonNLLLoss(full=True), nn.PoissonNLLLoss(full=False)),
    ],
    ids=["huber", "lambdas", "poisson"],
)
def test_losses_are_told_apart(one, other):
    assert described(as_loss(one, "regression")) == described(as_loss(one, "regression"))
    assert described(as_loss(one, "regression")) != described(as_loss(other, "regression"))
