import warnings

import pytest
import torch

from trustml import ihvp
from trustml.ihvp.solvers import SOLVERS
from trustml.ihvp.solvers.spectral import SpectralFactor
from trustml.warnings import ConvergenceWarning


def hopeless():
    A = ihvp.Dense(torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64)))
    return A, torch.ones(2, dtype=torch.float64)


def test_the_warning_points_at_the_caller():
    A, b = hopeless()
    for ask in (
        lambda: ihvp.solve(A, b),
        lambda: ihvp.factorize(A).solve(b),
        lambda: ihvp.factorize(A, "cg").quadratic_form(b),
        lambda: ihvp.solve(A, b, "cg"),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ask()
        assert [w.filename for w in caught] == [__file__]


def test_summary_tells_the_bad_from_the_good():
    A, b = hopeless()
    with pytest.warns(match="1 of 2 right-hand sides"):
        found = ihvp.solve(A, torch.stack([b, torch.tensor([1.0, 0.0]).double()], dim=1))
    assert found.converged.tolist() == [False, True]
    assert "rank deficient" in found.summary()
    assert "RANK_DEFICIENT" in repr(found)
    with pytest.raises(AttributeError):
        found.damping = 1.0


@pytest.mark.parametrize("n_null", [0, 1, 5, 40])
def test_large_semidefinite_matrices_are_deflated(n_null, monkeypatch):
    monkeypatch.setattr("trustml.ihvp.solvers.spectral.DENSE", 10)
    generator = torch.Generator().manual_seed(0)
    values = torch.logspace(-5, 2, 120, dtype=torch.float64)
    values[:n_null] = 0
    basis = torch.linalg.qr(torch.randn(120, 120, generator=generator, dtype=torch.float64))[0]
    matrix = (basis * values) @ basis.T
    factor = SpectralFactor((matrix + matrix.T) / 2)
    b = matrix @ torch.randn(120, 3, generator=generator, dtype=torch.float64)
    inverse = torch.where(values > 0, 1 / values, 0.0)
    reference = (basis * inverse) @ (basis.T @ b)
    torch.testing.assert_close(factor.solve(b), reference, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(factor.quadratic_form(b), (b * reference).sum(0), rtol=1e-6, atol=0)
    assert factor.status.name == ("RANK_DEFICIENT" if n_null else "CONVERGED")
    assert (factor._eigen is not None) == (n_null == 40)
    assert (factor.logdet() == -torch.inf) == (n_null > 0)
    assert (factor.trace() == torch.inf) == (n_null > 0)


def test_a_factorisation_says_what_it_is():
    assert "p=2, tol=0.001; asked for" in repr(ihvp.factorize(hopeless()[0], "cholesky"))


@pytest.mark.parametrize("method", ["cholesky", "dual", "cg", "minres", "lanczos"])
@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_a_right_hand_side_may_be_of_any_size(objective, columns, method, size):
    A = ihvp.GaussNewton(objective) + 0.1
    inverse = ihvp.factorize(A, method, tol=1e-9)
    usual, odd = inverse.solve(columns), inverse.solve(size * columns)
    torch.testing.assert_close(odd.x / size, usual.x, rtol=0, atol=1e-7)
    assert bool(odd.converged.all())
    product = A.matmat(odd.x / size)
    true = (product - columns).norm(dim=0) / columns.norm(dim=0)
    torch.testing.assert_close(odd.relative_residual, true, rtol=1e-3, atol=1e-12)
    torch.testing.assert_close(inverse.apply(size * columns) / size, usual.x, rtol=0, atol=1e-7)


def test_tiny_columns_that_no_x_solves_are_not_called_solved():
    A = ihvp.Dense(torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64)), is_psd=True)
    with pytest.warns(ConvergenceWarning):
        solution = ihvp.solve(A, torch.full((2,), 1e-200, dtype=torch.float64), "cholesky")
    assert float(solution.relative_residual) == pytest.approx(0.5**0.5)


def test_an_answer_that_overflows_is_refused():
    with pytest.raises(ValueError, match="overflows"):
        ihvp.solve(ihvp.Dense(1e-30 * torch.eye(3)), torch.full((3,), 1e20))


@pytest.mark.parametrize("method", ["cholesky", "dual", "lanczos", "nystrom"])
def test_a_matrix_of_zeros_is_solved_by_zero(method):
    A = ihvp.Diagonal(torch.zeros(4)) if method == "dual" else ihvp.Dense(torch.zeros(4, 4))
    with pytest.warns(ConvergenceWarning):
        solution = ihvp.solve(A, torch.ones(4), method)
    assert solution.status is ihvp.Status.RANK_DEFICIENT
    assert torch.equal(solution.x, torch.zeros(4))


WORDS = {
    "cholesky": "rounding",
    "dual": "rounding",
    "compressed": "64 random columns",
    "ekfac": "distance from Gauss-Newton",
    "kfac": "distance from Gauss-Newton",
    "blocks": "couples the layers",
    "cg": "condition number",
    "minres": "least squares",
    "nystrom": "low-rank approximation",
    "lanczos": "low-rank approximation",
    "lissa": "random mini-batches",
    "neumann": "cut off",
    "astra": "random mini-batches",
}


@pytest.mark.parametrize("method", SOLVERS)
@pytest.mark.filterwarnings("ignore::trustml.warnings.ConvergenceWarning")
def test_every_summary_says_how_far_to_trust_its_method(method, objective, columns):
    A = ihvp.GaussNewton(objective) + 0.5
    inverse = ihvp.factorize(A, method, tol=1e-2)
    found = inverse.solve(columns[:, 0])
    assert WORDS[method] in found.trust
    assert found.summary().endswith(f"{found.trust}.")
    assert found.trust == SOLVERS[method].trust
