"""EK-FAC: the best eigenvalues in K-FAC's basis, whatever the layers; exact closed forms."""

import math

import pytest
import torch
from torch import nn

from trustml import ihvp
from trustml.ihvp import BlockDiagonal, Ekfac, GaussNewton, Kfac, Objective
from trustml.warnings import ConvergenceWarning

PROBLEMS = {
    "mlp": lambda layered: Objective(
        layered.randomised(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))),
        None,
        (layered.draw(13, 4), layered.labels(13)),
        batch_size=5,
    ),
    "convolution": lambda layered: layered.convolution(),
    "no bias": lambda layered: layered.convolution(bias=False),
    "groups": lambda layered: layered.convolution(groups=2),
    "positions": lambda layered: layered.positions(),
    "transposed": lambda layered: layered.positions(layered.Conv1D(5, 4)),
    "wide positions": lambda layered: layered.positions(width=13),
    "tied and twice": lambda layered: layered.tied(),
}


def exact_blocks(J, A):
    """The Gauss-Newton matrix without weight decay, cut to the blocks of A."""
    matrix = GaussNewton(J).dense() - torch.diag(J.weight_decay)
    for block in A.blocks:
        where = block.where.reshape(-1)
        yield block, matrix[where][:, where]


@pytest.mark.parametrize("shared", ["expand", "reduce"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_eigenvalues_are_gauss_newtons_along_the_eigenvectors(name, shared, layered):
    # Squares of each position's gradient, another peer's mistake, would not pass.
    J = PROBLEMS[name](layered)
    A = Ekfac(J, shared=shared)
    for block, exact in exact_blocks(J, A):
        basis = torch.kron(block.outer, block.inner)
        expected = (basis.T @ exact @ basis).diagonal().reshape(block.values.shape)
        torch.testing.assert_close(block.values, expected)
        torch.testing.assert_close(basis.T @ basis, torch.eye(len(basis), dtype=basis.dtype))


@pytest.mark.parametrize("name", PROBLEMS)
def test_it_is_nearer_to_gauss_newton_than_kfac(name, layered):
    J = PROBLEMS[name](layered)
    exact, wd = GaussNewton(J).dense(), torch.diag(J.weight_decay)
    ekfac, kfac = Ekfac(J), Kfac(J)
    torch.testing.assert_close(ekfac.dense().trace(), exact.trace())
    for (block, truth), other in zip(exact_blocks(J, ekfac), kfac.blocks, strict=True):
        where = block.where.reshape(-1)
        torch.testing.assert_close(other.where, block.where)
        near, far = (((A.dense() - wd)[where][:, where] - truth).norm() for A in (ekfac, kfac))
        assert near <= far * (1 + 1e-12)


def test_eigenvectors_belong_to_their_own_sides(layered):
    # Transposed eigenvectors, a peer's mistake, would leave the product as far off as no rotation.
    net = layered.randomised(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)))
    J = Objective(net, nn.MSELoss(), (layered.draw(12, 4), layered.draw(12, 2, seed=1)))
    torch.testing.assert_close(Ekfac(J).dense(), BlockDiagonal(J).dense())


def test_kept_sides_and_a_second_pass_agree(monkeypatch, layered):
    J = layered.convolution()
    kept = Ekfac(J).dense()
    monkeypatch.setattr("trustml.ihvp._kronecker_factors._KEPT", 0)
    torch.testing.assert_close(Ekfac(J).dense(), kept)


def test_float32_is_near_float64(mlp, classification):
    single = Objective(mlp(dtype=torch.float32), None, classification(dtype=torch.float32))
    A, B = Ekfac(single), Ekfac(single.double())
    assert A.double().dtype == torch.float64
    torch.testing.assert_close(A.dense(), B.dense(), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("damping", [1e-2, 1e-5])
@pytest.mark.parametrize("decay", [0.0, {"weight": 0.3, "bias": 0.05}], ids=str)
def test_float32_answers_tell_their_residual(damping, decay, mlp, classification, columns):
    single = Objective(
        mlp(dtype=torch.float32), None, classification(dtype=torch.float32), weight_decay=decay
    )
    A, b = Ekfac(single) + damping, columns.float()
    found = ihvp.solve(A, b, tol=1e-2)
    left = (b.double() - A.dense() @ found.x.double()).norm(dim=0) / b.double().norm(dim=0)
    # The certificate rounds by a tenth of the tolerance at most.
    torch.testing.assert_close(found.relative_residual, left, rtol=0, atol=1e-3)
    alone = ihvp.solve(A, columns[:, 0].float() * 1e30, tol=1e-2).x / 1e30
    torch.testing.assert_close(alone, found.x[:, 0], rtol=1e-3, atol=1e-3 * float(alone.norm()))


def test_float32_is_as_near_to_exact_blocks_as_float64_is(mlp, classification):
    J = Objective(mlp(dtype=torch.float32), None, classification(dtype=torch.float32))
    wide = J.double()
    exact = wide.dot(ihvp.solve(BlockDiagonal(wide) + 1e-2, wide.rows().T).x)

    def error(J):
        found = J.dot(ihvp.solve(Ekfac(J, fisher="exact") + 1e-2, J.rows().T).x)
        return float((found.double() - exact).norm() / exact.norm())

    assert error(wide) > 1e-3
    assert error(J) == pytest.approx(error(wide), rel=1e-2)


DECAYS = [0.0, 0.1, {"weight": 0.1}, {"bias": 0.2}, {"weight": 0.3, "bias": 0.05}]


@pytest.mark.parametrize("kind", [Kfac, Ekfac])
@pytest.mark.parametrize("decay", DECAYS, ids=str)
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_the_damped_inverse_is_exact(kind, decay, scale, mlp, classification, columns):
    A = scale * kind(Objective(mlp(), None, classification(), weight_decay=decay)) + 0.01
    matrix = A.dense()
    inverse = ihvp.factorize(A, tol=1e-10)
    assert inverse.method == kind.__name__.lower()
    found = inverse.solve(columns)
    expected = torch.linalg.solve(matrix, columns)
    torch.testing.assert_close(found.x, expected)
    assert found.converged.all()
    assert "approximation" in found.summary()
    torch.testing.assert_close(inverse.quadratic_form(columns), (columns * expected).sum(0))
    assert inverse.logdet() == pytest.approx(float(torch.logdet(matrix)), rel=1e-10)
    assert inverse.trace() == pytest.approx(float(torch.linalg.inv(matrix).trace()), rel=1e-9)
    torch.testing.assert_close(A @ found.x, columns)


def test_unfactored_parameters_are_inverted_too(layered):
    J = layered.tied()
    A = Ekfac(J) + 0.1
    B = layered.draw(J.space.size, 3)
    found = ihvp.solve(A, B, "ekfac", tol=1e-10)
    torch.testing.assert_close(A.dense() @ found.x, B)
    inverse = ihvp.factorize(A)
    assert inverse.logdet() == pytest.approx(float(torch.logdet(A.dense())), rel=1e-10)


def test_a_singular_matrix_is_solved_on_its_range(mlp, classification):
    A = Ekfac(Objective(mlp(), None, classification()))
    matrix = A.dense()
    b = matrix @ torch.ones(A.size, dtype=torch.float64)
    inverse = ihvp.factorize(A)
    found = inverse.solve(b)
    assert found.status is ihvp.Status.RANK_DEFICIENT
    torch.testing.assert_close(matrix @ found.x, b)
    torch.testing.assert_close(
        found.x, torch.linalg.pinv(matrix, rtol=1e-10) @ b, rtol=1e-4, atol=1e-6
    )
    assert inverse.logdet() == -math.inf
    assert inverse.trace() == math.inf
    lone = Ekfac(Objective(mlp(), None, classification(), weight_decay={"bias": 0.1}))
    with pytest.raises(ValueError, match="add damping"):
        ihvp.factorize(lone)


@pytest.mark.parametrize("method", ["kfac", "ekfac", "blocks"])
def test_another_matrix_gets_the_approximate_inverse_and_its_true_residual(
    method, objective, columns
):
    G = GaussNewton(objective) + 0.05
    kind = {"kfac": Kfac, "ekfac": Ekfac, "blocks": BlockDiagonal}[method]
    with pytest.warns(ConvergenceWarning, match="approximation"):
        found = ihvp.solve(G, columns, method)
    expected = torch.linalg.solve((kind(objective) + 0.05).dense(), columns)
    torch.testing.assert_close(found.x, expected)
    left = (columns - G.dense() @ found.x).norm(dim=0) / columns.norm(dim=0)
    torch.testing.assert_close(found.relative_residual, left)
    assert found.status is ihvp.Status.APPROXIMATE
    assert found.method == method


def test_what_has_no_objective_is_refused(objective):
    with pytest.raises(ValueError, match="Objective"):
        ihvp.factorize(ihvp.Dense(torch.eye(3)), "ekfac")
    with pytest.raises(ValueError, match="Objective"):
        ihvp.factorize(GaussNewton(objective).restrict(slice(0, 5)) + 1.0, "kfac")
