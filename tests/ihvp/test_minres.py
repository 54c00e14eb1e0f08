import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trustml import ihvp
from trustml.warnings import ConvergenceWarning


def spectral(values, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = len(values)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    return ihvp.Dense((basis * values) @ basis.T)


def sides(size, k=6, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, k, generator=generator, dtype=torch.float64)


def indefinite(size=60):
    return torch.cat(
        [-torch.logspace(-2, 0, size // 4), torch.logspace(-2, 1, size - size // 4)]
    ).double()


def test_an_indefinite_matrix_is_solved():
    A, B = spectral(indefinite()), sides(60)
    found = ihvp.solve(A, B, "minres", tol=1e-9)
    assert found.converged.all()
    assert found.status is ihvp.Status.CONVERGED
    torch.testing.assert_close(found.x, torch.linalg.solve(A.matrix, B), rtol=1e-5, atol=1e-6)
    assert found.min_ritz == pytest.approx(-1, abs=1e-3)


def test_the_hessian_of_a_network_before_its_minimum(objective, columns):
    H = ihvp.Hessian(objective)
    matrix = H.dense()
    assert torch.linalg.eigvalsh(matrix)[0] < -1e-4
    columns = H @ columns  # the softmax's shift of the biases is out of reach
    found = ihvp.solve(H, columns, "minres", tol=1e-9)
    assert found.converged.all()
    assert (columns - matrix @ found.x).norm() <= 1e-8 * columns.norm()


def test_residuals_never_grow_with_more_iterations():
    A, B = spectral(indefinite()), sides(60, 3)
    norms = []
    for steps in range(1, 30, 4):
        with pytest.warns(UserWarning, match="raise max_iterations"):
            found = ihvp.solve(A, B, "minres", tol=1e-12, max_iterations=steps)
        assert found.status is ihvp.Status.MAX_ITERATIONS
        norms.append(found.relative_residual)
    assert all((b <= a + 1e-9).all() for a, b in itertools.pairwise(norms))
    assert (norms[0] <= 1).all()


@pytest.mark.parametrize("signs", [1, -1])
def test_least_squares_of_least_norm_for_a_singular_matrix(signs):
    values = torch.cat(
        [torch.zeros(10), torch.linspace(1, 2, 15), signs * torch.linspace(1, 3, 15)]
    )
    A, B = spectral(values.double()), sides(40)
    inverse = torch.linalg.pinv(A.matrix, hermitian=True)
    with pytest.warns(ConvergenceWarning):
        found = ihvp.solve(A, B, "minres", tol=1e-6)
    torch.testing.assert_close(found.x, inverse @ B, rtol=1e-5, atol=1e-6)
    assert found.status is ihvp.Status.RANK_DEFICIENT
    unreachable = (B - A.matrix @ inverse @ B).norm(dim=0) / B.norm(dim=0)
    torch.testing.assert_close(found.relative_residual, unreachable)
    consistent = ihvp.solve(A, A @ B, "minres", tol=1e-9)
    assert consistent.converged.all()
    torch.testing.assert_close(consistent.x, inverse @ (A @ B), rtol=1e-6, atol=1e-7)


def test_columns_that_need_different_numbers_of_iterations():
    values = indefinite()
    A, B = ihvp.Dense(torch.diag(values)), sides(60, 4)
    B[1:, 0] = 0  # an eigenvector: one iteration
    B[2:, 1] = 0
    B[:, 3] = 0
    found = ihvp.solve(A, B, "minres", tol=1e-9)
    torch.testing.assert_close(found.x, B / values[:, None], rtol=1e-5, atol=1e-6)
    assert found.products < 4 * found.iterations  # what has stopped is not multiplied


def test_a_zero_matrix():
    with pytest.warns(ConvergenceWarning):
        found = ihvp.solve(ihvp.Dense(torch.zeros(4, 4).double()), sides(4, 2), "minres")
    assert found.x.abs().max() == 0
    assert found.relative_residual.tolist() == [1, 1]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), negative=st.integers(0, 12), exponent=st.floats(0, 4))
def test_any_invertible_matrix(seed, negative, exponent):
    values = torch.logspace(-exponent, 0, 24, dtype=torch.float64)
    values[::2][:negative] *= -1
    A, B = spectral(values, seed), sides(24, 3, seed)
    found = ihvp.solve(A, B, "minres", tol=1e-6)
    assert found.converged.all()
    assert ((B - A @ found.x).norm(dim=0) <= 1.01e-6 * B.norm(dim=0)).all()
