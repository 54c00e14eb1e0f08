"""Every solver agrees with dense float64 linear algebra, or says that it does not."""

import pytest
import torch
from torch import nn

from trustml import ihvp
from trustml.warnings import ConvergenceWarning, NegativeCurvatureWarning

N, D, P = 24, 40, 40
# What inverts the matrix itself to any tolerance, whatever its condition.
EXACT = ["cholesky", "dual", "compressed", "cg", "minres", "nystrom", "lanczos"]


def spectral(values, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = len(values)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    return ihvp.Dense((basis * values) @ basis.T)


def right_hand_sides(size, k=6, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, k, generator=generator, dtype=torch.float64)


def network(d=6, h=8, c=3, n=20, seed=0, weight_decay=0.05, dtype=torch.float64, **kwargs):
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(d, h), nn.Tanh(), nn.Linear(h, c)).to(dtype)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) / 2)
    X = torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype)
    y = torch.randint(0, c, (n,), generator=generator)
    return ihvp.Objective(net, nn.CrossEntropyLoss(), (X, y), None, weight_decay, **kwargs)


@pytest.mark.parametrize("method", ["auto", "cholesky", "cg"])
@pytest.mark.parametrize("condition", [1e2, 1e6, 1e10])
def test_ill_conditioned(method, condition):
    values = torch.logspace(0, torch.tensor(condition).log10().item(), 60, dtype=torch.float64)
    A, B = spectral(values / condition), right_hand_sides(60)
    found = ihvp.solve(A, B, method, tol=1e-4)
    reference = torch.linalg.solve(A.matrix, B)
    assert found.converged.all()
    assert (B - A.matrix @ found.x).norm() <= 1e-4 * B.norm()
    error = (found.x - reference).norm() / reference.norm()
    assert error < (1e-4 if method != "cg" else min(1e-4 * condition, 0.1))


@pytest.mark.parametrize("method", EXACT)
def test_ill_conditioned_low_rank_plus_tiny_diagonal(method):
    S = ihvp.Covariance(right_hand_sides(N, D) * torch.logspace(0, -3, D, dtype=torch.float64))
    A = 0.5 * S + 1e-7
    B = right_hand_sides(D)
    found = ihvp.solve(A, B, method, tol=1e-6)
    torch.testing.assert_close(found.x, torch.linalg.solve(A.dense(), B), rtol=1e-3, atol=1e-3)
    assert found.converged.all()


def test_indefinite_is_solved_directly_and_named():
    values = torch.cat([-torch.logspace(-2, 0, 10), torch.logspace(-3, 1, 50)]).double()
    A, B = spectral(values), right_hand_sides(60)
    found = ihvp.solve(A, B, "cholesky", tol=1e-8)
    torch.testing.assert_close(found.x, torch.linalg.solve(A.matrix, B))
    assert found.converged.all()
    assert found.status is ihvp.Status.INDEFINITE
    assert found.min_ritz == pytest.approx(-1)
    assert "indefinite" in found.summary()


def test_negative_curvature_is_told_apart_by_column():
    values = torch.cat([torch.linspace(-1, -0.1, 10), torch.linspace(0.1, 2, 30)]).double()
    A, B = ihvp.Dense(torch.diag(values)), right_hand_sides(40)
    B[:10, 0] = 0
    B[10:, 1] = 0
    B[:, 2] = 0
    B[:10, 5] = 0
    with pytest.warns(NegativeCurvatureWarning, match="1.1 times the most negative Ritz value"):
        found = ihvp.solve(A, B, "cg", tol=1e-6)
    assert found.status is ihvp.Status.NEGATIVE_CURVATURE
    assert found.converged.tolist() == [True, False, True, False, False, True]
    torch.testing.assert_close(found.x[:, 0], B[:, 0] / values, rtol=1e-4, atol=1e-4)
    assert found.min_ritz < 0
    assert torch.isfinite(found.x).all()
    assert (found.relative_residual <= 1 + 1e-12).all()
    remedy = ihvp.solve(A + 1.1, B, "cg", tol=1e-6)
    assert remedy.converged.all()


@pytest.mark.parametrize("method", ["auto", "cholesky", "cg"])
def test_rank_deficient(method):
    values = torch.cat([torch.zeros(20), torch.logspace(-2, 1, 40)]).double()
    A, B = spectral(values), right_hand_sides(60)
    consistent = A @ B
    found = ihvp.solve(A, consistent, method, tol=1e-8)
    assert found.converged.all()
    expected = torch.linalg.pinv(A.matrix, hermitian=True) @ consistent
    torch.testing.assert_close(found.x, expected, rtol=1e-4, atol=1e-5)
    with pytest.warns(ConvergenceWarning):
        found = ihvp.solve(A, B, method, tol=1e-8)
    assert not found.converged.any()  # b has a part that no x can reach, and the residual says so
    part = (B - A.matrix @ torch.linalg.pinv(A.matrix, hermitian=True) @ B).norm(dim=0)
    assert (found.relative_residual >= part / B.norm(dim=0) - 1e-9).all()
    assert (found.relative_residual <= 1 + 1e-9).all()
    if method != "cg":
        assert found.status is ihvp.Status.RANK_DEFICIENT


def test_a_float32_matrix_hides_its_null_space_in_rounding():
    values = torch.cat([torch.zeros(20), torch.logspace(-2, 1, 40)]).double()
    A = ihvp.Dense(spectral(values).matrix.float())
    B = A @ right_hand_sides(60).float()
    found = ihvp.solve(A, B)
    assert found.status is ihvp.Status.RANK_DEFICIENT
    assert found.converged.all()
    assert (
        found.x.norm()
        < 1.01 * (torch.linalg.pinv(A.matrix.double(), rtol=1e-5) @ B.double()).norm()
    )


def test_too_few_iterations_are_reported():
    A, B = spectral(torch.logspace(-6, 0, 60, dtype=torch.float64)), right_hand_sides(60, 2)
    with pytest.warns(ConvergenceWarning, match="raise max_iterations"):
        found = ihvp.solve(A, B, "cg", tol=1e-8, max_iterations=3)
    assert found.iterations == 3
    assert not found.converged.any()
    assert found.status is ihvp.Status.MAX_ITERATIONS


def test_a_tolerance_below_float32_is_reported():
    A = ihvp.Dense(spectral(torch.logspace(-5, 0, 60, dtype=torch.float64)).matrix.float())
    for method in ("cholesky", "cg"):
        with pytest.warns(ConvergenceWarning):
            found = ihvp.solve(A + 1e-6, right_hand_sides(60).float(), method, tol=1e-12)
        assert not found.converged.any()
        assert torch.isfinite(found.x).all()
        assert found.relative_residual.max() < 0.1
        assert found.status is ihvp.Status.INACCURATE
    A = ihvp.Dense(spectral(torch.logspace(-3, 0, 300, dtype=torch.float64)).matrix.float())
    with pytest.warns(ConvergenceWarning, match="in its arithmetic"):
        found = ihvp.solve(A, right_hand_sides(300).float(), "cg", tol=1e-9)
    assert found.iterations <= 100  # it does not grind on against rounding
    assert found.relative_residual.max() < 1e-4


@pytest.mark.parametrize("weight_decay", [0.05, {"weight": 0.05}, 0.0])
def test_dual_is_cholesky_on_an_overparameterised_network(weight_decay):
    J = network(d=20, h=30, n=9, weight_decay=weight_decay)
    G = ihvp.GaussNewton(J)
    assert G.n_factors < J.space.size / 10
    B = J.per_example_gradients().T.contiguous()
    dual, cholesky = ihvp.factorize(G, "dual"), ihvp.factorize(G, "cholesky")
    x, reference = dual.solve(B), cholesky.solve(B)
    assert x.relative_residual.max() < 1e-8
    assert x.status is reference.status
    torch.testing.assert_close(G @ x.x, G @ reference.x)
    torch.testing.assert_close(dual.quadratic_form(B), cholesky.quadratic_form(B))
    assert dual.logdet() == pytest.approx(cholesky.logdet())
    assert dual.trace() == pytest.approx(cholesky.trace())
    assert ihvp.solve(G, B).method == "dual"
    barely = G + 1e-10
    assert ihvp.solve(barely, B, "dual").relative_residual.max() < 1e-8


def test_dual_eliminates_unpenalised_intercepts_exactly():
    J = network(n=40, weight_decay={"weight": 0.05})
    G = ihvp.GaussNewton(J.restrict(["weight", "0.bias"]))  # full rank: no softmax shift
    B = right_hand_sides(G.size)
    dual, reference = ihvp.factorize(G, "dual"), torch.linalg.solve(G.dense(), B)
    torch.testing.assert_close(dual.solve(B).x, reference)
    assert dual.solve(B).status is ihvp.Status.CONVERGED
    assert dual.logdet() == pytest.approx(torch.logdet(G.dense()).item())
    assert dual.trace() == pytest.approx(torch.linalg.inv(G.dense()).trace().item())


def test_dual_refuses_what_it_cannot_do():
    J = network()
    B = right_hand_sides(J.space.size)
    for A in (
        ihvp.Hessian(J),
        ihvp.GaussNewton(J) - ihvp.Diagonal(torch.ones(J.space.size).double()),
    ):
        with pytest.raises(ValueError, match='method "dual" cannot'):
            ihvp.solve(A, B, "dual")
    per_parameter = ihvp.Diagonal(torch.linspace(0.1, 1, J.space.size, dtype=torch.float64))
    A = 2 * (ihvp.GaussNewton(J) + 0.1) + per_parameter
    torch.testing.assert_close(ihvp.solve(A, B, "dual").x, torch.linalg.solve(A.dense(), B))


@pytest.mark.parametrize("method", EXACT)
def test_batch_size_row_order_and_dtype_do_not_matter(method):
    J = network(n=23)
    B = J.per_example_gradients().T.contiguous()[:, :5]
    reference = ihvp.solve(ihvp.GaussNewton(J), B, method, tol=1e-10).x
    for batch_size in (1, 7, 22, 23):
        A = ihvp.GaussNewton(network(n=23, batch_size=batch_size))
        torch.testing.assert_close(ihvp.solve(A, B, method, tol=1e-10).x, reference)
    shuffled = torch.randperm(23, generator=torch.Generator().manual_seed(0))
    other = ihvp.Objective(
        J.module, J.loss, (J.data.inputs[shuffled], J.data.targets[shuffled]), weight_decay=0.05
    )
    found = ihvp.solve(ihvp.GaussNewton(other), B, method, tol=1e-10).x
    torch.testing.assert_close(found, reference)
    single = network(n=23, dtype=torch.float32)
    found = ihvp.solve(ihvp.GaussNewton(single), B.float(), method, tol=1e-5).x
    torch.testing.assert_close(found.double(), reference, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("backend", ["hooks", "vmap", "loop"])
def test_the_backend_of_the_gradients_does_not_matter(backend):
    from trustml.core.gradients import PerExampleGradients

    J, other = network(), network()
    other._gradients = PerExampleGradients(other.module, other.space, backend=backend)
    torch.testing.assert_close(other.per_example_gradients(), J.per_example_gradients())
    torch.testing.assert_close(ihvp.GaussNewton(other).dense(), ihvp.GaussNewton(J).dense())
    assert other.gradients.backend == backend


def test_a_diagonal_matrix_is_solved_whatever_its_size():
    entries = torch.linspace(0, 2, 200_001, dtype=torch.float64)
    b = torch.ones_like(entries)
    damped = ihvp.Diagonal(entries) + 0.5
    found = ihvp.solve(damped, b, tol=1e-12)
    torch.testing.assert_close(found.x, 1 / (entries + 0.5))
    assert "diagonal" in found.method_reason
    inverse = ihvp.factorize(2 * damped)
    assert inverse.logdet() == pytest.approx((2 * entries + 1).log().sum().item())
    assert inverse.trace() == pytest.approx((1 / (2 * entries + 1)).sum().item())
    b[0] = 0
    found = ihvp.solve(ihvp.Diagonal(entries), b, tol=1e-12)
    assert found.converged.all()
    assert found.x[0] == 0
    assert found.status is ihvp.Status.RANK_DEFICIENT
    assert ihvp.solve(ihvp.Diagonal(0 * entries), 0 * b).converged.all()


@pytest.mark.parametrize(
    "method", ["auto", "cholesky", "dual", "cg", "minres", "nystrom", "lanczos"]
)
@pytest.mark.parametrize("weight_decay", [0.0, {"2": 0.1}])
def test_dead_units_are_left_alone(method, weight_decay):
    J = network(d=20, h=30, n=9)
    net = J.module
    with torch.no_grad():
        net[0].weight[:4] = 0
        net[2].weight[:, :4] = 0  # neither learnt nor heard
    J = ihvp.Objective(net, None, (J.data.inputs, J.data.targets), weight_decay=weight_decay)
    G = ihvp.GaussNewton(J.restrict(["0.weight", "2"]))
    B = J.restrict(["0.weight", "2"]).per_example_gradients().T.contiguous()
    found = ihvp.solve(G, B, method, tol=1e-6)
    assert found.converged.all()
    assert found.x[:80].abs().max() < 1e-12


def test_auto_chooses_by_size_and_says_why():
    wide, tall = network(d=40, h=40, n=5), network(n=60)
    for J, method in ((wide, "dual"), (tall, "cholesky")):
        B = J.per_example_gradients().T.contiguous()
        found = ihvp.solve(ihvp.GaussNewton(J), B)
        assert found.method == method
        assert f"p = {J.space.size}" in found.method_reason
    huge = ihvp.MatrixFree(lambda v: 2 * v, 300_000, torch.float64, is_psd=True)
    found = ihvp.solve(huge, torch.ones(300_000, dtype=torch.float64))
    assert found.method == "cg"
    assert "fits into" in found.method_reason
    assert found.iterations == 1


@pytest.mark.parametrize("method", ["cholesky", "dual"])
def test_a_copy_that_differs_by_rounding_does_not_certify(method, monkeypatch):
    J = network()
    G = ihvp.GaussNewton(J)
    factors = ihvp.GaussNewton.factors
    monkeypatch.setattr(
        ihvp.GaussNewton,
        "factors",
        lambda self, *part: ((i, K * (1 + 1e-4)) for i, K in factors(self, *part)),
    )
    B = right_hand_sides(J.space.size)
    found = ihvp.solve(G, B, method)
    expected = (B - G @ found.x).norm(dim=0) / B.norm(dim=0)
    torch.testing.assert_close(found.relative_residual, expected)
    assert expected.min() > 1e-7


def test_a_random_matrix_is_refused():
    A = ihvp.MatrixFree(lambda v: v * torch.rand(1, dtype=v.dtype), 5, torch.float64)
    with pytest.raises(ValueError, match="change from call to call"):
        ihvp.solve(A, torch.ones(5, dtype=torch.float64), "cholesky")


def test_a_saturated_float32_softmax_is_no_cause_for_alarm():
    generator = torch.Generator().manual_seed(0)
    net = nn.Linear(8, 2)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) / 3)
    X = 3000 * torch.randn(50, 8, generator=generator)
    J = ihvp.Objective(net, None, (X, torch.randint(0, 2, (50,), generator=generator)))
    G = ihvp.GaussNewton(J).double()
    V = right_hand_sides(G.size)
    assert 0 < G.dense().norm() < 1e-3
    torch.testing.assert_close(G @ V, G.dense() @ V, rtol=1e-9, atol=0)
    for method in ("cholesky", "dual"):
        found = ihvp.solve(ihvp.GaussNewton(J) + 1e-3, J.gradient(), method)
        assert found.converged.all()


def test_a_matrix_that_disagrees_with_its_products_is_refused():
    skew = torch.triu(torch.ones(5, 5, dtype=torch.float64))
    A = ihvp.MatrixFree(lambda v: skew @ v, 5, torch.float64)
    with pytest.raises(ValueError, match="linear, symmetric and deterministic"):
        ihvp.solve(A, torch.ones(5, dtype=torch.float64), "cholesky")
