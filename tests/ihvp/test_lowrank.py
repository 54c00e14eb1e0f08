import math

import pytest
import torch

from trustml import ihvp
from trustml.ihvp.lowrank import KINDS, LowRankApproximation, known_diagonal
from trustml.warnings import ConvergenceWarning


def decaying(size=60, smallest=-6, shift=0.0, seed=0, is_psd=True):
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    values = torch.logspace(1, smallest, size, dtype=torch.float64)
    return ihvp.Dense((basis * values) @ basis.T, is_psd=is_psd) + shift, values


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    def test_exact_at_full_rank(self, kind):
        A, _ = decaying(shift=0.01)
        low = LowRankApproximation(A, A.size, kind)
        torch.testing.assert_close(low.dense(), A.dense(), rtol=0, atol=1e-10)
        assert low.captured == pytest.approx(1)

    def test_near_the_best_of_its_rank(self, kind):
        A, values = decaying(smallest=-8)
        low = LowRankApproximation(A, 30, kind)
        error = torch.linalg.matrix_norm(low.dense() - A.dense(), 2)
        assert values[30] / 2 <= error <= 30 * values[30]
        assert values[30] / 3 <= low.error <= 1.01 * error  # an estimate from below

    def test_captured_share_is_of_the_trace(self, kind):
        A, _ = decaying(smallest=-1)
        low = LowRankApproximation(A, 20, kind)
        share = low.rows.square().sum() / A.dense().trace()
        assert low.captured == pytest.approx(float(share), abs=0.1)
        assert f"{low.captured:.1%}" in repr(low)

    def test_zero_rows_and_repeated_eigenvalues(self, kind):
        A = ihvp.Dense(torch.diag(torch.tensor([2.0] * 10 + [0.0] * 20).double()), is_psd=True)
        low = LowRankApproximation(A, 28, kind)
        assert low.rank == 10
        torch.testing.assert_close(low.dense(), A.dense(), rtol=0, atol=1e-9)
        nothing = LowRankApproximation(ihvp.Dense(torch.zeros(5, 5).double(), True), 3, kind)
        assert nothing.captured == 1
        assert nothing.dense().abs().max() == 0

    def test_same_twice_and_the_global_generator_is_left_alone(self, kind):
        A, _ = decaying()
        state = torch.get_rng_state()
        first, second = (LowRankApproximation(A, 10, kind).rows for _ in range(2))
        assert torch.equal(first, second)
        assert torch.equal(state, torch.get_rng_state())
        other = LowRankApproximation(A, 10, kind, random_state=1)
        assert not torch.equal(first, other.rows)

    def test_operator_laws(self, kind):
        A, _ = decaying(shift=0.1)
        low = LowRankApproximation(A, 10, kind)
        V = torch.randn(60, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        torch.testing.assert_close(low @ V, low.dense() @ V)
        torch.testing.assert_close(low.diagonal(), low.dense().diagonal())
        torch.testing.assert_close(low.factor_norms()[:, 0], low.rows.square().sum(1))
        assert low.double() is low
        single = LowRankApproximation(ihvp.Dense(A.dense().float(), True), 10, kind)
        assert single.double().dtype == torch.float64
        assert single.dtype == torch.float32


def test_the_complement_is_the_known_diagonal_and_not_zero():
    """captum and pyDVL (default) leave out (I − VV')/λ, all that matters outside the span."""
    A, _ = decaying(size=40, smallest=-12)
    lam = 1e-2
    low = LowRankApproximation(A, 25, "lanczos") + lam
    exact = torch.linalg.inv(A.dense() + lam * torch.eye(40))
    outside = torch.linalg.eigh(A.dense())[1][:, :3]  # the smallest eigenvalues
    found = ihvp.solve(low, outside, "dual").x
    torch.testing.assert_close(found, exact @ outside, rtol=1e-5, atol=1e-5)
    assert found.norm() == pytest.approx(math.sqrt(3) / lam, rel=1e-4)
    # without it the answer there is nearly nothing
    truncated = low.inner.rows.T @ torch.linalg.pinv((low.inner.rows @ low.inner.rows.T).square())
    assert (truncated @ low.inner.rows @ outside).norm() < found.norm()


@pytest.mark.parametrize("method", ["nystrom", "lanczos"])
def test_solver_says_what_it_leaves_out(method):
    A, _ = decaying(smallest=-6, shift=1e-2)
    b = torch.ones(60, dtype=torch.float64)
    found = ihvp.solve(A, b, method, tol=1e-6)
    torch.testing.assert_close(found.x, torch.linalg.solve(A.dense(), b), rtol=1e-4, atol=1e-4)
    with pytest.warns(ConvergenceWarning, match="of the trace"):
        small = ihvp.solve(A, b, method, tol=1e-6, max_iterations=5)
    assert small.status is ihvp.Status.APPROXIMATE
    assert "rank 5 of 60" in small.method_reason
    residual = (b - A @ small.x).norm() / b.norm()
    torch.testing.assert_close(small.relative_residual[0], residual)
    zero = ihvp.Dense(torch.zeros(4, 4).double(), True) + 0.5
    torch.testing.assert_close(ihvp.solve(zero, b[:4], method).x, 2 * b[:4])


def test_known_diagonals():
    objective = ihvp.Objective(
        torch.nn.Linear(2, 1, bias=False).double(),
        torch.nn.MSELoss(),
        (torch.eye(2).double(), torch.ones(2, 1).double()),
        weight_decay=0.5,
    )
    ones = torch.ones(2, dtype=torch.float64)
    for A in (ihvp.GaussNewton(objective), ihvp.Hessian(objective)):
        torch.testing.assert_close(known_diagonal(2 * (A + 1.0)), 3 * ones)
        torch.testing.assert_close(known_diagonal(A + ihvp.Diagonal(ones)), 1.5 * ones)
        torch.testing.assert_close(known_diagonal(A.restrict(slice(0, 1))), 0.5 * ones[:1])
    assert known_diagonal(ihvp.Dense(torch.eye(2))).abs().max() == 0


def test_negative_eigenvalues_are_left_out():
    values = torch.cat([torch.linspace(-1, -0.1, 5), torch.linspace(1, 3, 15)]).double()
    low = LowRankApproximation(ihvp.Dense(torch.diag(values)), 20, "lanczos")
    torch.testing.assert_close(low.dense(), torch.diag(values.clamp_min(0)))


def test_misuse():
    A, _ = decaying()
    with pytest.raises(ValueError, match="kind must be one of"):
        LowRankApproximation(A, 3, "arnoldi")
    for wrong in (0, 61):
        with pytest.raises(ValueError, match="rank"):
            LowRankApproximation(A, wrong)
    with pytest.raises(TypeError, match="operator must be"):
        LowRankApproximation(A.dense(), 3)
    broken = ihvp.MatrixFree(lambda v: v * math.nan, 4, torch.float64)
    with pytest.raises(ValueError, match="NaN or infinite"):
        LowRankApproximation(broken, 2)
