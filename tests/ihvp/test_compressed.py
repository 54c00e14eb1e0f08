import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from trustml import ihvp
from trustml.ihvp.solvers.compressed import select_rows


@pytest.fixture(scope="module")
def task():
    """A perceptron trained to fit digits, where most output curvatures are tiny."""
    X, y = load_digits(return_X_y=True)
    X, y = torch.tensor(X[:150] / 16), torch.tensor(y[:150])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10)).double()
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(X), y).backward()
        optimiser.step()
    J = ihvp.Objective(net, None, (X, y), weight_decay={"weight": 1e-3})
    return J, J.per_example_gradients().T.contiguous()


@pytest.mark.parametrize("kind", [ihvp.GaussNewton, ihvp.EmpiricalFisher])
def test_norms_and_rows_are_those_of_the_factors(task, kind):
    G = kind(task[0])
    rows = torch.cat([factor for _, factor in G.factors()])
    torch.testing.assert_close(G.factor_norms(), rows.square().sum(2))
    examples, columns = torch.tensor([3, 149, 3, 0]), torch.tensor([0, 0, 0, 0])
    if kind is ihvp.GaussNewton:
        columns = torch.tensor([2, 8, 0, 5])
    torch.testing.assert_close(G.factor_rows(examples, columns), rows[examples, columns])


@pytest.mark.parametrize("tol", [1e-2, 1e-3, 1e-6, 1e-10])
def test_agrees_with_the_dense_solve_to_the_tolerance_and_says_so(task, tol):
    J, B = task
    A = ihvp.GaussNewton(J) + 1e-2
    inverse = ihvp.factorize(A, "compressed", tol=tol)
    found = inverse.solve(B)
    true = (A.dense() @ found.x - B).norm(dim=0) / B.norm(dim=0)
    assert found.converged.all()
    assert bool((true <= found.relative_residual * (1 + 1e-6) + 1e-14).all())
    assert bool((found.relative_residual <= tol).all())
    assert inverse.n_kept < A.inner.n_factors
    assert f"{inverse.n_kept} of {A.inner.n_factors} output rows" in found.method_reason


def test_looser_tolerances_keep_fewer_rows(task):
    A = ihvp.GaussNewton(task[0]) + 1e-2
    kept = [len(select_rows(A, tol).examples) for tol in (1e-9, 1e-6, 1e-4, 1e-3)]
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] < kept[0]


def test_what_is_left_out_is_refined_until_the_exact_operator_agrees(task, monkeypatch):
    J, B = task
    A = ihvp.GaussNewton(J) + 1e-2
    # Too few rows on purpose: tr(R) is ten times the damping, yet the answers are right.
    monkeypatch.setattr("trustml.ihvp.solvers.compressed._CONTRACTION", 0.9)
    monkeypatch.setattr("trustml.ihvp.solvers.compressed._SLACK", 1e9)
    found = ihvp.solve(A, B[:, :20], "compressed", tol=1e-6)
    assert found.iterations > 0
    assert found.products > 0
    torch.testing.assert_close(A.dense() @ found.x, B[:, :20], rtol=0, atol=1e-5)
    stopped = ihvp.factorize(A, "compressed", tol=1e-12, max_iterations=1)
    with pytest.warns(UserWarning, match="MAX|max_iterations"):
        assert not stopped.solve(B[:, :20]).converged.all()


def test_the_sketched_certificate_is_an_upper_bound(task):
    # ‖b − A x‖ is below the bound but for a probability of 1e-9 a column, and above a half of it
    # as a rule: 64 Gaussian columns know it to 10 %.
    J, B = task
    A = ihvp.GaussNewton(J) + 1e-2
    inverse = ihvp.factorize(A, "compressed", tol=1e-3)
    generator = torch.Generator().manual_seed(1)
    x = inverse.apply(B) + 1e-2 * torch.randn(B.shape, generator=generator, dtype=B.dtype)
    true = (B - A.dense() @ x).norm(dim=0) / B.norm(dim=0)
    bound = inverse._sketch.bound(x, B)
    assert bool((true <= bound).all())
    assert float((true / bound).mean()) > 0.4


def test_determinant_trace_and_quadratic_forms(task):
    J, B = task
    A = ihvp.GaussNewton(J) + 1e-2
    inverse = ihvp.factorize(A, "compressed", tol=1e-3)
    dense = A.dense()
    assert inverse.logdet() == pytest.approx(float(torch.logdet(dense)), abs=0.02)
    assert inverse.trace() == pytest.approx(float(torch.trace(torch.linalg.inv(dense))), rel=1e-3)
    exact = (B * torch.linalg.solve(dense, B)).sum(0)
    torch.testing.assert_close(inverse.quadratic_form(B), exact, rtol=2e-3, atol=1e-12)


def test_float32_and_batches(task):
    J, B = task
    net = nn.Sequential(*(type(m)(*m.weight.shape[::-1]) if isinstance(m, nn.Linear) else m
                          for m in J.module))  # fmt: skip
    net.load_state_dict(J.module.state_dict())
    data = J.data.inputs.float(), J.data.targets
    dense = torch.linalg.solve((ihvp.GaussNewton(J) + 1e-2).dense(), B)
    for size in (150, 64, 7):
        K = ihvp.Objective(net, None, data, weight_decay={"weight": 1e-3}, batch_size=size)
        found = ihvp.solve(ihvp.GaussNewton(K) + 1e-2, B.float(), "compressed")
        assert found.x.dtype == torch.float32
        assert found.converged.all()
        assert float((found.x - dense).norm() / dense.norm()) < 5e-3


def test_refuses_what_has_no_small_remainder(task):
    J, B = task
    with pytest.raises(ValueError, match="add damping"):
        ihvp.solve(ihvp.GaussNewton(J), B, "compressed")  # biases without weight decay
    with pytest.raises(ValueError, match="GaussNewton"):
        ihvp.solve(ihvp.Hessian(J) + 1.0, B, "compressed")


def test_no_row_matters_beside_a_large_damping(task):
    J, B = task
    A = ihvp.GaussNewton(J) + 1e4
    inverse = ihvp.factorize(A, "compressed")
    assert inverse.n_kept == 0
    solution = inverse.solve(B[:, :5])
    assert bool(solution.converged.all())
    torch.testing.assert_close(
        solution.x, torch.linalg.solve(A.dense(), B[:, :5]), rtol=0, atol=1e-7
    )
    assert inverse.logdet() == pytest.approx(float(torch.logdet(A.dense())), rel=1e-6)
