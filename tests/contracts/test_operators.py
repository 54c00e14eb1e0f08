"""Laws of every operator in ``trustml.ihvp.__all__``: listing a new one puts it under test."""

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trustml import ihvp

KINDS = [
    getattr(ihvp, name)
    for name in ihvp.__all__
    if inspect.isclass(getattr(ihvp, name))
    and issubclass(getattr(ihvp, name), ihvp.LinearOperator)
    and not inspect.isabstract(getattr(ihvp, name))
]


def objective(dtype):
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)).to(dtype)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    X = torch.randn(11, 4, generator=generator, dtype=torch.float64).to(dtype)
    y = torch.randint(0, 3, (11,), generator=generator)
    return ihvp.Objective(net, None, (X, y), weight_decay=0.1, batch_size=4)


def symmetric(dtype, size=6):
    matrix = torch.randn(size, size, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return matrix @ matrix.T


def make(kind, dtype=torch.float64):
    """Return an instance of an operator kind; objectives are the default argument."""
    special = {
        ihvp.Dense: lambda: ihvp.Dense(symmetric(dtype), is_psd=True),
        ihvp.Diagonal: lambda: ihvp.Diagonal(torch.arange(1, 7, dtype=dtype)),
        ihvp.MatrixFree: lambda: ihvp.MatrixFree(lambda v: symmetric(v.dtype) @ v, 6, dtype),
        ihvp.Covariance: lambda: ihvp.Covariance(symmetric(torch.float64)),
        ihvp.LowRankApproximation: lambda: ihvp.LowRankApproximation(
            ihvp.GaussNewton(objective(dtype)) + 0.1, rank=5
        ),
    }
    return special[kind]() if kind in special else kind(objective(dtype))


def vectors(A, k=3, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(A.size, k, generator=generator, dtype=torch.float64).to(A.dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    def test_products_are_those_of_the_dense_matrix(self, kind, dtype):
        A = make(kind, dtype)
        V, matrix = vectors(A), A.dense()
        assert A.shape == (A.size, A.size) == tuple(matrix.shape)
        assert matrix.dtype == torch.float64
        close = (
            {"atol": 1e-9, "rtol": 1e-9}
            if A.dtype == torch.float64
            else {"atol": 1e-4, "rtol": 1e-4}
        )
        torch.testing.assert_close((A @ V).double(), matrix @ V.double(), **close)
        torch.testing.assert_close((A @ V[:, 0]), (A @ V)[:, 0])
        torch.testing.assert_close(A.diagonal().double(), matrix.diagonal(), **close)
        assert (A @ V).dtype == A.diagonal().dtype == A.dtype
        torch.testing.assert_close(matrix, matrix.T, atol=0, rtol=0)

    def test_double_is_the_same_matrix(self, kind, dtype):
        A = make(kind, dtype)
        twice = A.double()
        assert twice.dtype == torch.float64
        torch.testing.assert_close(twice @ vectors(twice), A.dense() @ vectors(twice),
                                   atol=1e-5, rtol=1e-5)  # fmt: skip

    def test_psd_is_kept_as_promised(self, kind, dtype):
        A = make(kind, dtype)
        if A.is_psd:
            values = torch.linalg.eigvalsh(A.dense())
            assert values[0] >= -1e-10 * values[-1]
        assert not (-A).is_psd
        assert (A + 1.0).is_psd == A.is_psd

    def test_algebra_is_that_of_matrices(self, kind, dtype):
        A = make(kind, dtype)
        V, matrix = vectors(A).double(), A.dense()
        B = ihvp.Diagonal(torch.linspace(1, 2, A.size, dtype=A.dtype))
        eye = torch.eye(A.size, dtype=torch.float64)
        cases = {
            A + np.float32(0.5): matrix + 0.5 * eye,
            np.float64(2) * A: 2 * matrix,
            A * torch.tensor(2): 2 * matrix,
            A + 0.5: matrix + 0.5 * eye,
            0.5 + A: matrix + 0.5 * eye,
            2 * A: 2 * matrix,
            A * 2: 2 * matrix,
            -A: -matrix,
            A + B: matrix + B.dense(),
            A - B: matrix - B.dense(),
            3 * (A + 0.5) - B: 3 * matrix + 1.5 * eye - B.dense(),
        }
        for combined, expected in cases.items():
            torch.testing.assert_close(combined.dense(), expected)
            torch.testing.assert_close(
                (combined @ V.to(A.dtype)).double(), expected @ V, atol=1e-3, rtol=1e-4
            )
            torch.testing.assert_close(
                combined.diagonal().double(), expected.diagonal(), atol=1e-4, rtol=1e-4
            )
            torch.testing.assert_close(combined.double().dense(), expected)

    def test_restrict_is_the_principal_block(self, kind, dtype):
        A = make(kind, dtype)
        matrix = A.dense()
        for where in (slice(1, 4), torch.tensor([3, 0])):
            block = A.restrict(where)
            expected = matrix[where][:, where]
            torch.testing.assert_close(block.dense(), expected, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(
                block.diagonal().double(), expected.diagonal(), atol=1e-5, rtol=1e-5
            )
            V = vectors(block)
            torch.testing.assert_close(
                (block @ V).double(), expected @ V.double(), atol=1e-4, rtol=1e-4
            )

    def test_scipy_sees_the_same_matrix(self, kind, dtype):
        A = make(kind, dtype)
        S = A.to_scipy()
        V = vectors(A)
        np.testing.assert_allclose(S @ V.numpy(), (A @ V).numpy(), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(S @ V[:, 0].numpy(), (A @ V[:, 0]).numpy(), rtol=1e-6, atol=1e-6)
        assert S.dtype == V.numpy().dtype

    def test_misuse_says_what_to_do(self, kind, dtype):
        A = make(kind, dtype)
        V = vectors(A)
        with pytest.raises(ValueError, match="V must have shape"):
            A @ V[:-1]
        with pytest.raises(TypeError, match=r"torch\.Tensor"):
            A @ V.numpy()
        other = torch.float32 if A.dtype == torch.float64 else torch.float64
        with pytest.raises(ValueError, match=r"use V\.to"):
            A @ V.to(other)
        with pytest.raises(ValueError, match="damping must be"):
            A + (-0.1)
        with pytest.raises(ValueError, match="damping must be"):
            A - 0.1
        with pytest.raises(ValueError, match="finite"):
            float("nan") * A
        for wrong in ("1", True, None, V):
            with pytest.raises(TypeError):
                A + wrong
            with pytest.raises(TypeError):
                A * wrong
        with pytest.raises(ValueError, match="only be added"):
            A + ihvp.Diagonal(torch.ones(A.size + 1, dtype=A.dtype))
        with pytest.raises(ValueError, match="indices must"):
            A.restrict(torch.tensor([0, A.size]))
        with pytest.raises(ValueError, match="repeat"):
            A.restrict(torch.tensor([0, 0]))


scalars = st.floats(-3, 3, allow_nan=False)
dampings = st.floats(0, 3, allow_nan=False)
seeds = st.integers(0, 1000)


def random_operator(seed):
    matrix = torch.randn(4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return ihvp.Dense(matrix + matrix.T)


@settings(max_examples=25, deadline=None)
@given(seeds, seeds, scalars, dampings)
def test_algebra_laws(seed, other, factor, damping):
    A, B = random_operator(seed), random_operator(other)
    V = torch.eye(4, dtype=torch.float64)
    close = {"atol": 1e-12, "rtol": 1e-10}
    torch.testing.assert_close((A + B) @ V, (B + A) @ V, **close)
    torch.testing.assert_close((factor * (A + B)) @ V, (factor * A + factor * B) @ V, **close)
    torch.testing.assert_close((A + damping) @ V, A @ V + damping * V, **close)
    torch.testing.assert_close(((A - B) + B) @ V, A @ V, **close)
    where = slice(1, 3)
    torch.testing.assert_close(
        (A + B).restrict(where).dense(), (A.restrict(where) + B.restrict(where)).dense(), **close
    )
