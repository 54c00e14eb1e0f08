import pickle

import pytest
import torch

from trustml import ihvp
from trustml.ihvp.solvers.sketch import SKETCH


def decaying(dtype, p=400):
    """A matrix of decaying spectrum over a damping, and 200 right-hand sides."""
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(p, p, generator=generator, dtype=torch.float64))
    matrix = (basis * 0.9 ** torch.arange(p)) @ basis.T
    B = matrix @ torch.randn(p, 200, generator=generator, dtype=torch.float64)
    return ihvp.Dense(matrix.to(dtype), is_psd=True) + 1e-3, B.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_many_columns_of_cg_are_certified_by_fewer_products(dtype, monkeypatch):
    A, B = decaying(dtype)
    inverse = ihvp.factorize(A, "cg", tol=1e-3)
    found = inverse.solve(B)
    exact = A.dense()
    true = (exact @ found.x.double() - B.double()).norm(dim=0) / B.double().norm(dim=0)
    assert found.converged.all()
    assert bool((found.relative_residual <= 1e-3).all())
    assert bool((true <= found.relative_residual * (1 + 1e-4)).all())
    assert f"{SKETCH} random columns" in found.summary()
    monkeypatch.setattr("trustml.ihvp.solvers.conjugate_gradient._MANY", 1e9)
    without = ihvp.solve(A, B, "cg", tol=1e-3)
    assert "random columns" not in without.summary()
    assert found.products < 0.8 * without.products
    # A copy draws its own; a few columns are certified by products with themselves.
    again = pickle.loads(pickle.dumps(inverse)).solve(B)
    assert again.converged.all()


def test_columns_that_a_sketch_cannot_accept_go_on_as_without_one():
    A, B = decaying(torch.float64)
    found = ihvp.solve(A, B, "cg", tol=1e-11)
    torch.testing.assert_close(A.dense() @ found.x, B, rtol=0, atol=1e-9)
    assert found.converged.all()
