import copy
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from trustml import ihvp
from trustml.ihvp.preconditioners import (
    PRECONDITIONERS,
    Preconditioner,
    build_preconditioner,
)
from trustml.ihvp.solvers.conjugate_gradient import ConjugateGradientFactorization


def spectral(values, is_psd=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = len(values)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    return ihvp.Dense((basis * values) @ basis.T, is_psd)


def sides(size, k=6, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, k, generator=generator, dtype=torch.float64)


def cg(A, tol=1e-8, preconditioner="none", max_iterations=None):
    return ConjugateGradientFactorization(A, tol, max_iterations, "asked for", preconditioner)


@pytest.fixture
def curvature(objective):
    return ihvp.GaussNewton(objective) + 1e-2


@pytest.mark.parametrize("name", ["auto", *PRECONDITIONERS])
class TestEveryPreconditioner:
    def test_the_answer_stays_the_same(self, name, curvature, columns):
        found = cg(curvature, preconditioner=name).solve(columns)
        assert found.converged.all()
        exact = torch.linalg.solve(curvature.dense(), columns)
        torch.testing.assert_close(found.x, exact, rtol=1e-5, atol=1e-6)
        residual = (columns - curvature @ found.x).norm(dim=0) / columns.norm(dim=0)
        torch.testing.assert_close(found.relative_residual, residual, rtol=1e-3, atol=1e-14)

    def test_in_float32(self, name, curvature, columns):
        objective = curvature.inner.objective
        model = copy.deepcopy(objective.module).float()
        rows = objective.data.rows(0, len(objective.data))
        single = ihvp.Objective(model, objective.loss, (rows.inputs.float(), rows.targets))
        A = ihvp.GaussNewton(single) + 1e-2
        found = cg(A, tol=1e-4, preconditioner=name).solve(columns.float())
        assert found.converged.all()
        exact = torch.linalg.solve(A.dense(), columns)
        torch.testing.assert_close(
            found.x.double(), exact, rtol=1e-2, atol=1e-3 * exact.abs().max()
        )

    def test_symmetric_positive_definite(self, name, curvature):
        if name == "auto":
            pytest.skip("it is one of the others")
        made = build_preconditioner(name, curvature)
        matrix = made.apply(torch.eye(curvature.size, dtype=torch.float64))
        torch.testing.assert_close(matrix, matrix.T, rtol=1e-8, atol=1e-8)
        assert torch.linalg.eigvalsh(matrix)[0] > 0
        assert made.name == name
        assert name in repr(made)

    def test_it_can_be_pickled(self, name, curvature, columns):
        inverse = cg(curvature, preconditioner=name)
        inverse.solve(columns)
        again = pickle.loads(pickle.dumps(inverse)).solve(columns)
        torch.testing.assert_close(again.x, inverse.solve(columns).x, rtol=1e-5, atol=1e-6)


def test_nystrom_needs_far_fewer_iterations_on_a_decaying_spectrum():
    A = spectral(torch.logspace(3, -6, 300, dtype=torch.float64)) + 1e-3
    b = sides(300, 1)
    plain, helped = (cg(A, 1e-8, name).solve(b) for name in ("none", "nystrom"))
    assert helped.iterations < plain.iterations / 5
    made = build_preconditioner("nystrom", A)
    assert made.rank < 300
    assert made.products < 300


def test_jacobi_undoes_bad_units():
    scales = torch.logspace(-3, 3, 100, dtype=torch.float64)
    A = ihvp.Dense(scales[:, None] * spectral(torch.linspace(1, 2, 100).double()).matrix * scales)
    b = sides(100, 1)
    assert cg(A, 1e-6, "jacobi").solve(b).iterations < cg(A, 1e-6).solve(b).iterations / 3


def test_a_preconditioner_of_your_own():
    A = spectral(torch.logspace(-4, 0, 50, dtype=torch.float64))

    class Exact(Preconditioner):
        name = "exact"

        def apply(self, residual):
            return torch.linalg.solve(A.matrix, residual)

    found = cg(A, 1e-8, Exact()).solve(sides(50))
    assert found.iterations <= 2
    assert found.converged.all()


def test_auto_keeps_what_its_probes_say():
    hard = spectral(torch.logspace(3, -6, 300, dtype=torch.float64)) + 1e-3
    inverse = cg(hard, 1e-8, "auto")
    found = inverse.solve(sides(300, 40))
    assert inverse.preconditioner.name == "nystrom"
    assert "predicted by probes: none" in found.method_reason
    assert found.products < cg(hard, 1e-8, "none").solve(sides(300, 40)).products * 1.5
    easy = cg(spectral(torch.linspace(1, 2, 80).double()), 1e-3, "auto")
    easy.solve(sides(80))
    assert easy.preconditioner.name == "none"
    twice = [cg(hard, 1e-8, "auto").solve(sides(300, 40)) for _ in range(2)]
    assert torch.equal(twice[0].x, twice[1].x)
    assert twice[0].method_reason == twice[1].method_reason


class TestRecycling:
    A = spectral(torch.logspace(2, -5, 200, dtype=torch.float64)) + 1e-2

    def test_a_second_question_needs_fewer_products(self):
        inverse = cg(self.A, 1e-6)
        first = inverse.solve(sides(200, 8))
        second = inverse.solve(sides(200, 8, seed=2))
        alone = cg(self.A, 1e-6).solve(sides(200, 8, seed=2))
        assert second.converged.all()
        assert second.products < 0.7 * alone.products
        assert second.products < 0.7 * first.products
        torch.testing.assert_close(second.x, alone.x, rtol=1e-3, atol=1e-3)

    def test_the_same_question_again_is_cheap(self):
        inverse = cg(self.A, 1e-6)
        first = inverse.solve(sides(200, 8))
        assert inverse.solve(sides(200, 8)).products < first.products / 3

    def test_memory_is_bounded(self, monkeypatch):
        from trustml.ihvp.solvers import conjugate_gradient

        monkeypatch.setattr(conjugate_gradient, "_HISTORY", 16 * 200 * 30)
        monkeypatch.setattr(conjugate_gradient, "_WORK", 64 * 200 * 3)  # blocks of three columns
        inverse = cg(self.A, 1e-6)
        for seed in range(3):
            found = inverse.solve(sides(200, 5, seed=seed))
            assert found.converged.all()
            assert inverse._history.count <= 30 + 5

    def test_it_survives_negative_curvature(self):
        values = torch.cat([torch.linspace(-1, -0.1, 5), torch.linspace(0.5, 2, 35)]).double()
        A = ihvp.Dense(torch.diag(values))
        inverse = cg(A, 1e-6)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            inverse.solve(sides(40))
        good = sides(40)
        good[:5] = 0
        torch.testing.assert_close(
            inverse.solve(good).x, good / values[:, None], rtol=1e-4, atol=1e-4
        )


def test_float32_is_refined_to_a_float64_certificate():
    A = spectral(torch.logspace(-3, 0, 300, dtype=torch.float64))
    single = ihvp.Dense(A.matrix.float(), True)
    b = sides(300, 20)
    found = cg(single, 1e-5).solve(b.float())
    assert found.converged.all()
    true = (b.float().double() - single.matrix.double() @ found.x.double()).norm(dim=0)
    torch.testing.assert_close(
        found.relative_residual, true / b.float().double().norm(dim=0), rtol=1e-3, atol=1e-9
    )


def test_every_residual_is_taken_over_parameters():
    """pyDVL takes the norm of its CG's tolerance over queries, not over parameters."""
    A, B = spectral(torch.logspace(-3, 0, 30, dtype=torch.float64)), sides(30, 50)
    B *= torch.logspace(-8, 8, 50, dtype=torch.float64)
    found = cg(A, 1e-6).solve(B)
    assert found.relative_residual.shape == (50,)
    assert ((B - A @ found.x).norm(dim=0) <= 1e-6 * B.norm(dim=0)).all()


def test_the_default_tolerance_means_something():
    """curvlinops inherits a CG tolerance of 1: it stops at any residual below 100 %."""
    A, B = spectral(torch.logspace(-6, 0, 80, dtype=torch.float64)), sides(80)
    found = ihvp.solve(A, B, "cg")
    assert (B - A @ found.x).norm(dim=0).div(B.norm(dim=0)).max() <= 1e-3


def test_misuse(curvature):
    with pytest.raises(ValueError, match="preconditioner must be 'auto', one of"):
        cg(curvature, preconditioner="ilu")
    bare = spectral(torch.ones(5, dtype=torch.float64))
    for name in ("kfac", "ekfac", "blocks"):
        with pytest.raises(ValueError, match="needs the curvature of an objective"):
            build_preconditioner(name, bare)


def test_layers_without_kronecker_structure_are_no_candidate():
    class Shift(nn.Module):
        def __init__(self):
            super().__init__()
            self.b = nn.Parameter(torch.zeros(3, dtype=torch.float64))

        def forward(self, x):
            return x + self.b

    X = sides(40, 3)
    J = ihvp.Objective(Shift(), nn.CrossEntropyLoss(), (X, torch.arange(40) % 3))
    with pytest.raises(ValueError, match="no layer has Kronecker factors"):
        build_preconditioner("ekfac", ihvp.GaussNewton(J) + 1e-2)
    found = ihvp.solve(ihvp.GaussNewton(J) + 1e-2, sides(3), "astra", tol=1e-6)
    assert found.converged.all()
    assert "Nystrom" in found.method_reason


def test_threads_that_share_a_factorisation_take_turns():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(60, 60, generator=generator, dtype=torch.float64)
    A = ihvp.Dense(root @ root.T / 60 + torch.diag(torch.linspace(0.1, 2, 60, dtype=torch.float64)))
    inverse = ihvp.factorize(A, "cg", tol=1e-8)
    B = torch.randn(8, 60, 5, generator=generator, dtype=torch.float64)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(inverse.solve, B))
    for b, solution in zip(B, found, strict=True):
        assert solution.converged.all()
        torch.testing.assert_close(
            solution.x, torch.linalg.solve(A.dense(), b), rtol=1e-5, atol=1e-6
        )
