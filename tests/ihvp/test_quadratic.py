import math

import pytest
import torch

from trustml.ihvp import Dense, MatrixFree, factorize, top_eigenpairs


def spectrum(values, seed=0):
    n = len(values)
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator))[0]
    return Dense((basis * values) @ basis.T)


@pytest.mark.parametrize("size", [40, 1200])
def test_top_eigenpairs(size):
    values = torch.linspace(-3, 1, size, dtype=torch.float64)
    values[-3:] = torch.tensor([2.0, 4.0, 5.0])
    A = Dense(torch.diag(values)) if size > 1000 else spectrum(values)
    found, vectors = top_eigenpairs(A, 3, tol=1e-10)
    torch.testing.assert_close(found, torch.tensor([5.0, 4.0, 2.0], dtype=torch.float64))
    torch.testing.assert_close(A @ vectors, vectors * found, atol=1e-6, rtol=1e-6)
    assert torch.equal(top_eigenpairs(A, 3, tol=1e-10)[0], found)


def test_eigenpairs_keep_the_dtype():
    values, vectors = top_eigenpairs(Dense(torch.eye(3)), 2)
    assert values.dtype == vectors.dtype == torch.float32
    for wrong in (0, 4, True, 1.5):
        with pytest.raises(ValueError, match="k must be"):
            top_eigenpairs(Dense(torch.eye(3)), wrong)


def test_logdet_and_trace_by_probes():
    values = torch.logspace(-2, 1, 300, dtype=torch.float64)
    A = spectrum(values)
    inverse = factorize(A, "cg", tol=1e-8)
    for found, exact, count in (
        (inverse.logdet(), values.log(), 30),
        (inverse.trace(), 1 / values, 60),
    ):
        standard_error = math.sqrt(2 / count) * exact.norm().item()
        assert abs(found - exact.sum().item()) < 3 * standard_error
        assert standard_error < 0.2 * abs(exact.sum().item())
    small = factorize(spectrum(values[:20]), "cg", tol=1e-10)
    assert small.trace() == pytest.approx((1 / values[:20]).sum().item(), rel=1e-6)


def test_a_singular_matrix_has_no_finite_logdet():
    values = torch.linspace(0, 1, 30, dtype=torch.float64)
    for method in ("cholesky", "cg"):
        inverse = factorize(spectrum(values), method)
        assert inverse.logdet() == -math.inf
        assert inverse.trace() == math.inf


def test_an_indefinite_matrix_has_none_at_all():
    values = torch.linspace(-1, 1, 30, dtype=torch.float64) + 0.01
    for method in ("cholesky", "cg"):
        with pytest.raises(ValueError, match="positive definite"):
            factorize(spectrum(values), method).logdet()


def test_products_are_enough():
    A = MatrixFree(lambda v: 2 * v, 1500, torch.float64, is_psd=True)
    assert top_eigenpairs(A, 1)[0].item() == pytest.approx(2)
    assert factorize(A, "cg").logdet() == pytest.approx(1500 * math.log(2))


@pytest.mark.parametrize("rank", [0, 1])
def test_top_eigenpairs_of_large_matrices_of_hardly_any_rank(rank):
    direction = rank * torch.ones(1200, 1, dtype=torch.float64)
    A = MatrixFree(lambda v: direction @ (direction.T @ v), 1200, dtype=torch.float64)
    values, vectors = top_eigenpairs(A, 2)
    expected = torch.tensor([1200.0 * rank, 0.0], dtype=torch.float64)
    torch.testing.assert_close(values, expected, rtol=1e-9, atol=1e-6)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(2, dtype=torch.float64))
