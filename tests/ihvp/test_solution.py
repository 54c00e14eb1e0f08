import warnings

import pytest
import torch

from trustml import ihvp
from trustml.ihvp.solvers.spectral import SpectralFactor


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
