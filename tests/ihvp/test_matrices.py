import pytest
import torch

from trustml.ihvp import Dense, Diagonal, MatrixFree


def test_dense_refuses_what_is_no_symmetric_matrix():
    with pytest.raises(ValueError, match=r"shape \(p, p\)"):
        Dense(torch.ones(2, 3))
    with pytest.raises(ValueError, match="floating point"):
        Dense(torch.ones(2, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="NaN"):
        Dense(torch.full((2, 2), torch.nan))
    with pytest.raises(ValueError, match="not symmetric"):
        Dense(torch.tensor([[1.0, 0.1], [0.0, 1.0]]))


def test_dense_holds_no_graph_and_its_own_copy():
    matrix = torch.eye(2, requires_grad=True)
    A = Dense(matrix)
    assert not A.matrix.requires_grad
    with torch.no_grad():
        matrix += 1
    torch.testing.assert_close(A.dense(), torch.eye(2, dtype=torch.float64))


def test_diagonal_refuses_what_is_no_vector():
    with pytest.raises(ValueError, match=r"shape \(p,\)"):
        Diagonal(torch.ones(2, 2))
    with pytest.raises(ValueError, match="NaN"):
        Diagonal(torch.tensor([1.0, torch.inf]))
    assert not Diagonal(torch.tensor([1.0, -1.0])).is_psd


def test_double_products_of_a_float32_function():
    A = MatrixFree(lambda v: 3 * v, 4).double()
    product = A @ torch.ones(4, dtype=torch.float64)
    assert product.dtype == torch.float64
    torch.testing.assert_close(product, torch.full((4,), 3.0, dtype=torch.float64))


def test_arrays_are_refused():
    with pytest.raises(TypeError, match="as_tensor"):
        Dense([[1.0]])
