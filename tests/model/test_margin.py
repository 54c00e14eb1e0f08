"""Margin losses and class weights: closed forms against autodiff."""

import pytest
import torch

from trustml.core.losses import Autodiff, BinaryCrossEntropy
from trustml.model.margin import ClassWeighted, Margin

GENERATOR = torch.Generator().manual_seed(0)
WEIGHT = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)

LOSSES = [
    (Margin("squared_hinge"), 3),
    (Margin("squared"), 3),
    (Margin("squared_hinge", positive_weight=WEIGHT), 3),
    (Margin("squared_hinge"), 1),
    (Margin("squared"), 1),
    (ClassWeighted(BinaryCrossEntropy(), WEIGHT[:2]), 1),
    (ClassWeighted(Margin("squared"), WEIGHT), 3),
]


@pytest.mark.parametrize(("loss", "c"), LOSSES, ids=lambda v: getattr(v, "name", v))
def test_derivatives(loss, c):
    f = torch.randn(7, c, dtype=torch.float64, generator=GENERATOR)
    y = torch.randint(0, max(c, 2), (7,), generator=GENERATOR)
    v = torch.randn(7, c, dtype=torch.float64, generator=GENERATOR)
    reference = Autodiff(lambda outputs, targets: loss(outputs, targets))
    torch.testing.assert_close(loss.gradient(f, y), reference.gradient(f, y))
    torch.testing.assert_close(loss.hessian_product(f, y, v), reference.hessian_product(f, y, v))
    factor = loss.hessian_factor(f, y)
    product = (factor @ factor.mT @ v[:, :, None]).squeeze(2)
    torch.testing.assert_close(product, reference.hessian_product(f, y, v))


def test_margin_values():
    loss = Margin("squared_hinge")
    f = torch.tensor([[0.5], [0.5], [2.0]])
    torch.testing.assert_close(loss(f, torch.tensor([1, 0, 1])), torch.tensor([0.25, 2.25, 0.0]))


def test_margins_are_no_likelihood():
    with pytest.raises(TypeError, match="gauss_newton"):
        Margin("squared").sample(torch.zeros(2, 3), torch.Generator())


def test_class_weights_do_not_change_the_distribution():
    loss = ClassWeighted(BinaryCrossEntropy(), WEIGHT[:2])
    drawn = loss.sample(torch.full((50, 1), 20.0), torch.Generator().manual_seed(0))
    assert bool((drawn == 1).all())
