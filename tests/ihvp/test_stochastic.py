"""LiSSA, the Neumann series and ASTRA."""

import pytest
import torch
from torch import nn

from trustml import ihvp
from trustml.ihvp.solvers import SOLVERS
from trustml.ihvp.solvers.richardson import MiniBatches
from trustml.warnings import ConvergenceWarning, NegativeCurvatureWarning

METHODS = ["lissa", "neumann", "astra"]


def make(n=150, d=6, h=5, c=3, batch_size="auto", weight_decay=0.02, seed=0):
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(d, h), nn.Tanh(), nn.Linear(h, c)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) / 2)
    X = torch.randn(n, d, generator=generator, dtype=torch.float64)
    y = torch.randint(0, c, (n,), generator=generator)
    return ihvp.Objective(net, None, (X, y), weight_decay=weight_decay, batch_size=batch_size)


def sides(J, k=3):
    return J.per_example_gradients().T.contiguous()[:, :k]


@pytest.mark.parametrize("method", METHODS)
class TestEveryMethod:
    def test_agrees_with_dense_algebra(self, method):
        J = make()
        A, B = 2 * (ihvp.GaussNewton(J) + 0.05), sides(J)
        found = ihvp.solve(A, B, method, tol=1e-4)
        assert found.converged.all()
        exact = torch.linalg.solve(A.dense(), B)
        assert (found.x - exact).norm() <= 1e-2 * exact.norm()
        assert found.products > 0

    def test_the_same_on_every_run_and_for_every_batch_size(self, method):
        answers = []
        for batch_size in ("auto", 40):
            J = make(batch_size=batch_size)
            answers.append(ihvp.solve(ihvp.GaussNewton(J) + 0.1, sides(J), method, tol=1e-3).x)
        J = make()
        again = ihvp.solve(ihvp.GaussNewton(J) + 0.1, sides(J), method, tol=1e-3).x
        assert torch.equal(answers[0], again)
        for other in answers[1:]:
            torch.testing.assert_close(other, answers[0], rtol=1e-6, atol=1e-8)

    def test_too_few_passes_are_reported(self, method):
        J = make()
        with pytest.warns(ConvergenceWarning, match="raise max_iterations"):
            found = ihvp.solve(
                ihvp.GaussNewton(J) + 1e-4, sides(J), method, tol=1e-8, max_iterations=5
            )
        assert found.status is ihvp.Status.MAX_ITERATIONS
        assert found.iterations <= 5
        residual = (sides(J) - (ihvp.GaussNewton(J) + 1e-4) @ found.x).norm(dim=0)
        torch.testing.assert_close(found.relative_residual, residual / sides(J).norm(dim=0))
        assert (found.relative_residual <= 1).all()

    def test_a_scale_too_small_diverges_and_is_doubled(self, method):
        J = make()
        A, B = ihvp.GaussNewton(J) + 0.05, sides(J)
        inverse = SOLVERS[method](A, 1e-3)
        inverse._scale /= 30  # as a user of other libraries may set it
        found = inverse.solve(B)
        assert found.converged.all()
        assert torch.isfinite(found.x).all()

    def test_negative_curvature_is_named(self, method):
        J = make(weight_decay=0.0)
        H = ihvp.Hessian(J)
        assert torch.linalg.eigvalsh(H.dense())[0] < -1e-3
        with pytest.warns(NegativeCurvatureWarning):
            found = ihvp.solve(H, sides(J), method, tol=1e-6, max_iterations=100)
        assert found.status is ihvp.Status.NEGATIVE_CURVATURE
        assert torch.isfinite(found.x).all()
        assert (found.relative_residual <= 1).all()


@pytest.mark.parametrize("method", ["lissa", "astra"])
def test_mini_batches_need_an_objective(method):
    for A in (ihvp.Dense(torch.eye(4)), ihvp.MatrixFree(lambda v: v, 4)):
        with pytest.raises(ValueError, match=r'use method="cg", "minres", "neumann"'):
            ihvp.solve(A, torch.ones(4), method)


@pytest.mark.parametrize("kind", [ihvp.GaussNewton, ihvp.Hessian, ihvp.EmpiricalFisher])
def test_mini_batches_are_unbiased(kind):
    """Their mean is the matrix, weight decay and damping counted once, ragged parts too."""
    J = make(n=149)
    A = 3 * (kind(J) + 0.1)
    batches = MiniBatches(A, "lissa")
    assert batches.count == 8
    mean = sum(part.dense() for part in batches.parts) / batches.count
    torch.testing.assert_close(mean, A.dense(), rtol=1e-9, atol=1e-12)
    one_row_out = ihvp.GaussNewton(J.without([0])) + 0.1
    mean = sum(part.dense() for part in MiniBatches(one_row_out, "lissa").parts) / 8
    torch.testing.assert_close(mean, one_row_out.dense(), rtol=1e-9, atol=1e-12)


def test_a_scale_from_the_whole_data_would_not_do_for_a_mini_batch():
    """A part's largest eigenvalue exceeds the whole's: pyDVL and others leave it to the user."""
    J = make(n=150)
    A = ihvp.GaussNewton(J) + 1e-3
    whole = torch.linalg.eigvalsh(A.dense())[-1]
    parts = max(torch.linalg.eigvalsh(p.dense())[-1] for p in MiniBatches(A, "lissa").parts)
    scale = SOLVERS["lissa"](A, 1e-3)._scale
    assert parts > whole
    assert scale > parts


def test_labels_of_any_integer_type():
    """dattri's LiSSA casts every target to float, and cross-entropy refuses that."""
    J = make()
    for dtype in (torch.int32, torch.int64):
        other = ihvp.Objective(J.module, None, (J.data.inputs, J.data.targets.to(dtype)))
        found = ihvp.solve(ihvp.GaussNewton(other) + 0.1, sides(J), "lissa", tol=1e-2)
        assert found.converged.all()


def test_astra_needs_fewer_passes_than_lissa_where_layers_differ_in_scale():
    J = make(n=64)
    with torch.no_grad():
        J.module[0].weight *= 0.2
    J = ihvp.Objective(J.module, None, (J.data.inputs * 5, J.data.targets), weight_decay=0.01)
    A, B = ihvp.GaussNewton(J) + 0.05, sides(J)
    passes = {m: ihvp.solve(A, B, m, tol=1e-2).iterations for m in ("lissa", "astra")}
    assert passes["astra"] < passes["lissa"]
