import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from trustml.explain import InputXGradient, Saliency


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
