import pytest
import torch
from torch import nn

from trustml.ihvp import InputHessian


def losses(f, y):
    return nn.functional.cross_entropy(f, y, reduction="none")


def dense(net, X, y):
    return torch.stack(
        [
            torch.autograd.functional.hessian(
                lambda x, i=i: losses(net(x[None]), y[i : i + 1]).sum(), X[i]
            ).reshape(X[i].numel(), -1)
            for i in range(len(X))
        ]
    )


def test_products_and_gradient_against_dense(mlp, classification):
    X, y = classification(6)
    net = mlp()
    H = InputHessian(net, losses, X, y)
    V = X.flip(0)
    torch.testing.assert_close(H.product(V), torch.einsum("nij,nj->ni", dense(net, X, y), V))
    free = X.clone().requires_grad_()
    losses(net(free), y).sum().backward()
    torch.testing.assert_close(H.gradient, free.grad)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_top_eigenpairs_against_dense(k, mlp, classification):
    X, y = classification(7)
    net = mlp()
    H = InputHessian(net, losses, X, y)
    values, vectors = H.top_eigenpairs(k, tol=1e-8)
    reference = torch.linalg.eigvalsh(dense(net, X, y)).flip(1)[:, :k]
    torch.testing.assert_close(values, reference, atol=1e-7, rtol=1e-6)
    for j in range(k):
        v = vectors[:, j]
        torch.testing.assert_close(H.product(v), values[:, j, None] * v, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(v.norm(dim=1), torch.ones(7, dtype=v.dtype))


def test_largest_is_algebraic_not_in_magnitude():
    scale = torch.tensor([-5.0, 2.0, 1.0], dtype=torch.float64)
    H = InputHessian(
        lambda x: x, lambda f, y: 0.5 * (scale * f.square()).sum(1), torch.ones(2, 3).double(),
        torch.zeros(2),
    )  # fmt: skip
    values, vectors = H.top_eigenpairs(2)
    torch.testing.assert_close(values, torch.tensor([[2.0, 1.0]] * 2, dtype=torch.float64))
    assert vectors[:, 0, 1].abs().min() > 1 - 1e-6


def test_a_row_has_the_same_eigenvalue_alone(mlp, classification):
    X, y = classification(7)
    net = mlp()
    together = InputHessian(net, losses, X, y).top_eigenpairs()[0]
    for i in range(7):
        alone = InputHessian(net, losses, X[i : i + 1], y[i : i + 1]).top_eigenpairs()[0]
        torch.testing.assert_close(alone[0], together[i], rtol=1e-9, atol=1e-12)


def test_flat_and_repeated_spectra():
    flat = InputHessian(lambda x: x, lambda f, y: f.sum(1), torch.ones(2, 4), torch.ones(2))
    assert flat.top_eigenpairs(2)[0].abs().max() == 0
    same = InputHessian(
        lambda x: x, lambda f, y: f.flatten(1).square().sum(1), torch.ones(2, 2, 2), torch.ones(2)
    )
    values, vectors = same.top_eigenpairs(2)
    torch.testing.assert_close(values, torch.full((2, 2), 2.0))
    assert vectors.shape == (2, 2, 2, 2)
    gram = vectors[0].flatten(1) @ vectors[0].flatten(1).T
    torch.testing.assert_close(gram, torch.eye(2), atol=1e-5, rtol=1e-5)


def test_bad_input(mlp, classification):
    X, y = classification(4)
    net = mlp()
    with pytest.raises(ValueError, match="floating point"):
        InputHessian(net, losses, y[:, None], y)
    with pytest.raises(ValueError, match="no NaN"):
        InputHessian(net, losses, X * torch.nan, y)
    with pytest.raises(ValueError, match="targets has 3"):
        InputHessian(net, losses, X, y[:3])
    with pytest.raises(ValueError, match="one value a row"):
        InputHessian(net, nn.CrossEntropyLoss(), X, y)
    H = InputHessian(net, losses, X, y)
    with pytest.raises(ValueError, match="shape"):
        H.product(X[:2])
    for wrong in (0, 6, True):
        with pytest.raises(ValueError, match="k must be"):
            H.top_eigenpairs(wrong)
