"""Laws of every solver in the register: listing a new one puts it under test."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trustml import ihvp
from trustml.ihvp.solvers import SOLVERS

# They invert another matrix than the one asked about, and say so: no tolerance is promised.
APPROXIMATE = {"kfac", "ekfac"}
METHODS = ["auto", *(name for name in SOLVERS if name not in APPROXIMATE)]
# Their log-determinant and trace are estimates from random signs.
PROBED = {"cg", "minres", "lissa", "neumann", "astra"}
# Their number of products grows with the condition number.
FIRST_ORDER = {"lissa", "neumann", "astra"}
SIZE = 30


def tight(method):
    return 1e-5 if method in FIRST_ORDER else 1e-10


def operator(dtype=torch.float64, damping=0.05, seed=0):
    """A low-rank sum plus a diagonal: what every solver takes."""
    generator = torch.Generator().manual_seed(seed)
    net = nn.Linear(9, 3).to(dtype)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    X = torch.randn(20, 9, generator=generator, dtype=torch.float64).to(dtype)
    y = torch.randint(0, 3, (20,), generator=generator)
    return ihvp.GaussNewton(ihvp.Objective(net, None, (X, y))) + damping


def columns(k=5, dtype=torch.float64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SIZE, k, generator=generator, dtype=torch.float64).to(dtype)


def residuals(A, x, B):
    return (B - A.double().dense() @ x.double()).norm(dim=0) / B.double().norm(dim=0)


@pytest.mark.parametrize("method", METHODS)
class TestEverySolver:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_certificate_is_the_true_residual(self, method, dtype):
        A, B = operator(dtype), columns(dtype=dtype)
        for tol in (1e-2, 1e-4):
            found = ihvp.solve(A, B, method, tol=tol)
            expected = residuals(A, found.x, B.double())
            assert (found.relative_residual >= expected * (1 - 1e-3) - 2e-6).all()
            if found.method != "compressed":  # it adds a bound of what it leaves out
                assert (found.relative_residual <= expected * (1 + 1e-3) + 2e-6).all()
            assert found.converged.tolist() == [True] * 5
            assert found.relative_residual.max() <= tol
            assert found.status is ihvp.Status.CONVERGED
            assert found.x.dtype == dtype
            assert found.tol == tol

    def test_one_vector_is_one_column(self, method):
        A, B = operator(), columns()
        found = ihvp.solve(A, B[:, 0], method, tol=tight(method))
        assert found.x.shape == (SIZE,)
        assert found.relative_residual.shape == found.converged.shape == (1,)
        together = ihvp.solve(A, B, method, tol=tight(method)).x[:, 0]
        error = max(20 * tight(method), 1e-7)
        torch.testing.assert_close(found.x, together, rtol=error, atol=error)

    def test_zero_equal_and_dependent_columns(self, method):
        A, B = operator(), columns(6)
        B[:, 1] = 0
        B[:, 2] = B[:, 0]
        B[:, 3] = -2 * B[:, 0] + B[:, 4]
        B[:, 5] *= 1e-200
        found = ihvp.solve(A, B, method, tol=max(tight(method), 1e-8))
        assert found.converged.all()
        assert found.x[:, 1].abs().max() == 0
        assert found.relative_residual[1] == 0
        torch.testing.assert_close(found.x[:, 2], found.x[:, 0], rtol=1e-5, atol=1e-6)
        assert found.x[:, 5].abs().max() > 0
        nothing = ihvp.solve(A, torch.zeros(SIZE, 2, dtype=torch.float64), method)
        assert nothing.converged.all()
        assert nothing.x.abs().max() == 0
        assert ihvp.solve(A, B[:, :0], method).x.shape == (SIZE, 0)

    def test_more_columns_than_rows(self, method):
        A, B = operator(), columns(100)
        assert ihvp.solve(A, B, method, tol=max(tight(method), 1e-8)).converged.all()

    def test_solution_speaks(self, method):
        A, B = operator(), columns()
        found = ihvp.solve(A, B, method)
        assert found.damping == 0.05
        assert "caller" in found.damping_reason
        assert found.method in SOLVERS
        assert 0 < found.min_ritz < 1
        text = found.summary()
        assert "5 of 5" in text
        assert found.method in text
        assert found.method in repr(found)
        assert method == "auto" or found.method_reason.startswith("asked for")
        assert found.iterations >= (1 if found.method in PROBED else 0)
        assert found.products >= 5

    def test_factorize_once_ask_often(self, method):
        A, B = operator(), columns()
        inverse = ihvp.factorize(A, method, tol=tight(method))
        matrix = A.dense()
        exact = torch.linalg.solve(matrix, B)
        form = (B * exact).sum(0)
        error = dict.fromkeys(("rtol", "atol"), max(1e2 * tight(method), 1e-7))
        torch.testing.assert_close(inverse.solve(B).x, exact, **error)
        torch.testing.assert_close(inverse.apply(B), exact, **error)
        torch.testing.assert_close(inverse.apply(B[:, 0]), exact[:, 0], **error)
        torch.testing.assert_close(inverse.quadratic_form(B), form, **error)
        torch.testing.assert_close(inverse.quadratic_form(B[:, 0]), form[:1], **error)
        loose = {"rel": 0.2 if inverse.method in PROBED else 1e-9}
        assert inverse.logdet() == pytest.approx(torch.logdet(matrix).item(), **loose)
        assert inverse.trace() == pytest.approx(torch.linalg.inv(matrix).trace().item(), **loose)

    def test_nothing_is_changed(self, method):
        A, B = operator(), columns()
        kept, random = B.clone(), torch.get_rng_state()
        ihvp.solve(A, B, method)
        assert torch.equal(B, kept)
        assert torch.equal(random, torch.get_rng_state())

    def test_the_same_twice(self, method):
        A, B = operator(), columns()
        assert torch.equal(ihvp.solve(A, B, method).x, ihvp.solve(A, B, method).x)

    def test_misuse(self, method):
        A, B = operator(), columns()
        with pytest.raises(ValueError, match="B must have shape"):
            ihvp.solve(A, B[:-1], method)
        with pytest.raises(ValueError, match="B must have shape"):
            ihvp.solve(A, B[:, :, None], method)
        with pytest.raises(ValueError, match="columns \\[2\\]"):
            ihvp.solve(A, B.index_fill(1, torch.tensor(2), math.nan), method)
        with pytest.raises(ValueError, match=r"use B\.to"):
            ihvp.solve(A, B.float(), method)
        with pytest.raises(ValueError, match=r"use B\.to"):
            ihvp.solve(A, B.to("meta"), method)
        with pytest.raises(TypeError, match=r"torch\.Tensor"):
            ihvp.solve(A, B.numpy(), method)
        with pytest.raises(TypeError, match=r"ihvp\.Dense"):
            ihvp.solve(A.dense(), B, method)
        for wrong in (0, 1, -1e-3, math.nan):
            with pytest.raises(ValueError, match="tol must be"):
                ihvp.solve(A, B, method, tol=wrong)
        for wrong in (0, 2.5, True):
            with pytest.raises((TypeError, ValueError), match="max_iterations must be"):
                ihvp.solve(A, B, method, max_iterations=wrong)

    def test_a_matrix_that_is_not_finite_is_refused(self, method):
        class Broken(nn.Linear):
            def forward(self, x):
                return super().forward(x) / 0.0

        J = ihvp.Objective(Broken(9, 3).double(), None, (torch.ones(4, 9), torch.arange(4) % 3))
        with pytest.raises(ValueError, match="NaN or infinite"):
            ihvp.solve(ihvp.GaussNewton(J) + 0.1, columns(), method)


def test_unknown_methods_list_the_known():
    A, B = operator(), columns()
    for ask in (lambda: ihvp.solve(A, B, "lu"), lambda: ihvp.factorize(A, "lu")):
        with pytest.raises(ValueError, match=r"'cg', 'minres'.*got 'lu'"):
            ask()


@settings(max_examples=25, deadline=None)
@given(
    method=st.sampled_from([name for name in METHODS[1:] if name not in FIRST_ORDER]),
    seed=st.integers(0, 500),
    damping=st.floats(1e-3, 10),
    scale=st.floats(1e-6, 1e6),
)
def test_solving_undoes_multiplying(method, seed, damping, scale):
    A = operator(damping=damping, seed=seed)
    x = scale * columns(3, seed=seed)
    found = ihvp.solve(A, A @ x, method, tol=1e-9)
    assert found.converged.all()
    torch.testing.assert_close(found.x, x, rtol=1e-4, atol=1e-4 * scale)
