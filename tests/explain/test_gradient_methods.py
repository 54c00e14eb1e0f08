import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from trustml.explain import InputXGradient, IntegratedGradients, Saliency, uncertainty
from trustml.model import wrap


def test_saliency_is_the_jacobian(build):
    model, X = build()
    found = Saliency(model).attribute(X[:5])
    jacobian = torch.func.vmap(torch.func.jacrev(model.module))(X[:5])
    torch.testing.assert_close(found.values, jacobian.transpose(1, 2))
    assert found.completeness is None
    assert found.base_values is None


def test_input_x_gradient_is_their_product(build):
    model, X = build()
    saliency, product = (kind(model).attribute(X, target=1) for kind in (Saliency, InputXGradient))
    torch.testing.assert_close(product.values, saliency.values * X)
    gap = model.logits(X)[:, 1] - product.base_values - product.values.sum(1)
    torch.testing.assert_close(product.completeness, gap.abs())
    assert product.completeness.max() > 0.1  # a curved model: it does not add up, and says so


def test_probabilities_and_losses(build):
    model, X = build()
    y = model.predict(X)
    leaf = X.clone().requires_grad_()
    torch.nn.functional.cross_entropy(model.module(leaf), y, reduction="sum").backward()
    found = Saliency(model, output="loss").attribute(X, y=y)
    torch.testing.assert_close(found.values, leaf.grad)
    summed = Saliency(model, output="probability").attribute(X).values.sum(-1)
    torch.testing.assert_close(summed, torch.zeros_like(X), rtol=0, atol=1e-12)


def test_raw_estimators_are_wrapped_when_they_are_used():
    X = np.random.default_rng(0).normal(size=(30, 4))
    fitted = LogisticRegression().fit(X, X[:, 1] > 0)
    np.testing.assert_allclose(Saliency(fitted).attribute(X[:2]).values, fitted.coef_.repeat(2, 0))


class WritesIntoItsInput(nn.Module):
    """Scales in place before its net."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        x *= 2
        return self.net(x)


@pytest.mark.parametrize("kind", [Saliency, InputXGradient, IntegratedGradients])
def test_modules_that_write_into_their_input(build, kind):
    model, X = build()
    X = X[:4]
    kept, y = X.clone(), torch.arange(4) % 3
    writer = wrap(WritesIntoItsInput(model.module), task="classification", train=(X, y))
    power = 0 if kind is Saliency else 1  # of the scale that the attributions take on
    expected = kind(model).attribute(2 * X, target=1).values * 2 ** (1 - power)
    torch.testing.assert_close(kind(writer).attribute(X, target=1).values, expected)
    assert uncertainty(kind(writer), X, target=1).shape == X.shape
    assert torch.equal(X, kept)


def test_tensors_with_gradients_come_back_without(build):
    model, X = build()
    X = X[:3].clone().requires_grad_()
    found = IntegratedGradients(model).attribute(X, target=1)
    assert not found.data.requires_grad
    assert not found.values.requires_grad
    assert uncertainty(IntegratedGradients(model), X, target=1).shape == (3, 6)
    assert X.grad is None


def test_inference_mode_is_refused(build):
    model, X = build()
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        IntegratedGradients(model).attribute(X[:2])


def test_an_unknown_target_is_called_by_its_name(build):
    model, X = build()
    with pytest.raises(ValueError, match="target must be a class of the model"):
        Saliency(model).attribute(X[:2], target=9)
