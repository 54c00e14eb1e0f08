import pytest
import torch

from trustml import ihvp
from trustml.ihvp import BlockDiagonal, GaussNewton, Hessian


@pytest.mark.parametrize("kind", [GaussNewton, Hessian])
@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_blocks_are_those_of_the_matrix(kind, damping, objective):
    full = kind(objective) + damping
    A = BlockDiagonal(full)
    matrix = full.dense()
    first = slice(0, 36)  # 0.weight and 0.bias
    expected = torch.zeros_like(matrix)
    expected[first, first], expected[36:, 36:] = matrix[first, first], matrix[36:, 36:]
    torch.testing.assert_close(A.dense(), expected)
    assert list(A.blocks) == ["0", "2"]


def test_an_objective_stands_for_its_gauss_newton_matrix(objective):
    by_name = ihvp.curvature("block_diagonal", objective)
    torch.testing.assert_close(by_name.dense(), BlockDiagonal(GaussNewton(objective)).dense())


def test_each_block_is_solved_exactly(objective, columns):
    A = 2 * BlockDiagonal(objective) + 0.01
    inverse = ihvp.factorize(A, tol=1e-10)
    assert inverse.method == "blocks"
    found = inverse.solve(columns)
    matrix = A.dense()
    torch.testing.assert_close(found.x, torch.linalg.solve(matrix, columns))
    forms = inverse.quadratic_form(columns)
    torch.testing.assert_close(forms, (columns * found.x).sum(0))
    assert inverse.logdet() == pytest.approx(float(torch.logdet(matrix)), rel=1e-10)
    assert inverse.trace() == pytest.approx(float(torch.linalg.inv(matrix).trace()), rel=1e-9)


def test_misuse(objective, monkeypatch):
    with pytest.raises(TypeError, match="Objective or a LinearOperator"):
        BlockDiagonal(objective.module)
    with pytest.raises(ValueError, match="one Objective"):
        BlockDiagonal(ihvp.Dense(torch.eye(3)))
    with pytest.raises(ValueError, match="one Objective"):
        BlockDiagonal(GaussNewton(objective).restrict(slice(0, 4)))
    monkeypatch.setattr("trustml.ihvp.blocks._BUDGET", 100)
    with pytest.raises(ValueError, match=r"36 parameters\); use ihvp\.Ekfac"):
        BlockDiagonal(objective)
