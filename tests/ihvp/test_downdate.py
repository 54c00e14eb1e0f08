"""Rows taken out of a factorised matrix: the same answers as a fresh factorisation."""

import pytest
import torch
from torch import nn

from trustml import ihvp
from trustml.ihvp.solvers.downdate import DowndatedFactorization


def split_objective(n_removed: int, weight_decay: float = 0.1):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    X, y = torch.randn(60, 6, dtype=torch.float64), torch.randint(0, 3, (60,))
    whole = ihvp.Objective(module, nn.CrossEntropyLoss(), (X, y), weight_decay=weight_decay)
    gone = torch.arange(60) < n_removed
    return whole, whole.without(gone.nonzero()), whole.without((~gone).nonzero())


@pytest.mark.parametrize("method", ["cholesky", "dual"])
@pytest.mark.parametrize("n_removed", [1, 5, 19])
def test_equals_a_fresh_factorisation(method: str, n_removed: int) -> None:
    whole, kept, gone = split_objective(n_removed)
    inverse = ihvp.factorize(ihvp.GaussNewton(whole) + 1e-2, method)
    operator = ihvp.GaussNewton(kept) + 1e-2
    left = ihvp.downdate(inverse, operator, ihvp.GaussNewton(gone))
    fresh = ihvp.factorize(operator, "cholesky")
    assert isinstance(left, DowndatedFactorization)
    B = torch.randn(whole.space.size, 4, dtype=torch.float64)
    torch.testing.assert_close(left.solve(B).x, fresh.solve(B).x, rtol=1e-9, atol=1e-10)
    assert left.solve(B).relative_residual.max() < 1e-10
    form = left.quadratic_form(B)
    torch.testing.assert_close(form, fresh.quadratic_form(B), rtol=1e-9, atol=1e-10)
    assert left.logdet() == pytest.approx(fresh.logdet(), rel=1e-10)
    assert left.trace() == pytest.approx(fresh.trace(), rel=1e-9)


def test_many_rows_are_factorised_afresh() -> None:
    whole, kept, gone = split_objective(45)
    inverse = ihvp.factorize(ihvp.GaussNewton(whole) + 1e-2, "cholesky")
    left = ihvp.downdate(inverse, ihvp.GaussNewton(kept) + 1e-2, ihvp.GaussNewton(gone))
    assert not isinstance(left, DowndatedFactorization)
    assert bool(left.solve(torch.ones(whole.space.size, dtype=torch.float64)).converged)


def test_a_singular_whole_is_factorised_afresh() -> None:
    whole, kept, gone = split_objective(3, weight_decay=0.0)
    inverse = ihvp.factorize(ihvp.GaussNewton(whole), "cholesky")
    left = ihvp.downdate(inverse, ihvp.GaussNewton(kept), ihvp.GaussNewton(gone))
    assert not isinstance(left, DowndatedFactorization)


def test_the_certificate_is_of_the_rows_that_are_left() -> None:
    whole, kept, _ = split_objective(5)
    inverse = ihvp.factorize(ihvp.GaussNewton(whole) + 1e-2, "cholesky")
    wrong = whole.without(torch.arange(2, 60))
    left = ihvp.downdate(inverse, ihvp.GaussNewton(kept) + 1e-2, ihvp.GaussNewton(wrong))
    b = torch.ones(whole.space.size, dtype=torch.float64)
    with pytest.warns(match="relative residual"):
        solution = left.solve(b)
    assert not bool(solution.converged)
