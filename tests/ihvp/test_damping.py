import math

import pytest
import torch
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression, LogisticRegression
from torch import nn

from trustml.ihvp import (
    Damping,
    Dense,
    Ekfac,
    GaussNewton,
    Hessian,
    Kfac,
    Objective,
    choose_damping,
    solve,
)


def linear(model, c, X, y, weight_decay=0.0, loss=None):
    """An objective at the weights of a fitted linear model of scikit-learn."""
    net = nn.Linear(X.shape[1], c).double()
    with torch.no_grad():
        net.weight.copy_(torch.as_tensor(model.coef_).reshape(c, -1))
        net.bias.copy_(torch.as_tensor(model.intercept_).reshape(-1))
    return Objective(net, loss, (X, y), weight_decay={"weight": weight_decay})


@pytest.fixture
def logistic(classification):
    X, y = classification(60)
    model = LogisticRegression(C=0.5, tol=1e-10, max_iter=1000).fit(X, y)
    return linear(model, 3, X, y, 1 / (0.5 * 60))


@pytest.mark.parametrize("kind", [GaussNewton, Hessian])
def test_a_minimum_needs_no_damping(kind, logistic):
    found = choose_damping(kind(logistic), logistic)
    assert found.value == 0
    assert found.stationary
    assert "at a minimum" in found.reason
    assert found.relative_gradient_norm < 1e-6
    assert found.gradient_norm == pytest.approx(logistic.gradient().norm().item())
    solution = solve(kind(logistic) + found, logistic.per_example_gradients().T.contiguous())
    assert solution.converged.all()  # the softmax shift of the intercepts is a null direction
    assert solution.damping_reason == found.reason


def test_least_squares_has_p_degrees_of_freedom():
    X, y = load_diabetes(return_X_y=True)
    J = linear(LinearRegression().fit(X, y), 1, torch.tensor(X), torch.tensor(y))
    found = choose_damping(GaussNewton(J), J)
    assert found.value == 0
    assert found.effective_dof == pytest.approx(11)


def test_degrees_of_freedom_are_those_of_ridge(classification, monkeypatch):
    X, _ = classification(60)
    target = torch.sin(X.sum(1))
    net = nn.Linear(5, 1, bias=False).double()
    J = Objective(net, nn.MSELoss(), (X, target[:, None]), weight_decay=0.3)
    data = 2 * X.T @ X / 60
    for damping in (0.0, 0.2):
        eye = torch.eye(5, dtype=torch.float64)
        expected = torch.linalg.solve(data + (0.3 + damping) * eye, data).trace().item()
        found = choose_damping(GaussNewton(J), J, damping)
        assert found.effective_dof == pytest.approx(expected)
        with monkeypatch.context() as patch:  # by Lanczos quadrature
            patch.setattr("trustml.ihvp.damping._SMALL", 0)
            estimate = choose_damping(GaussNewton(J), J, damping)
        assert estimate.effective_dof == pytest.approx(expected, abs=0.5)
        assert estimate.min_ritz == pytest.approx(found.min_ritz)


def test_negative_curvature_is_damped_away(objective):
    H = Hessian(objective)
    smallest = torch.linalg.eigvalsh(H.dense())[0].item()
    assert smallest < -1e-3
    found = choose_damping(H, objective)
    assert found.value > 1.1 * -smallest
    assert "negative curvature" in found.reason
    assert "above 1.1 times" in found.reason
    assert found.min_ritz == pytest.approx(smallest)
    assert not found.stationary
    assert solve(H + found, objective.gradient(), "cg").converged.all()


def test_a_saturated_model_is_damped(classification):
    X, y = classification(8, 30)
    net = nn.Linear(30, 3).double()
    J = Objective(net, None, (X, y))
    found = choose_damping(GaussNewton(J), J)
    assert found.value > 0
    assert "degrees of freedom" in found.reason


@pytest.mark.parametrize("kind", [GaussNewton, Hessian])
@pytest.mark.parametrize("limit", [0, 500])
def test_half_the_mean_eigenvalue_is_taken_otherwise(limit, kind, objective, monkeypatch):
    monkeypatch.setattr("trustml.ihvp.damping._SMALL", limit)
    found = choose_damping(kind(objective), objective)
    dense = kind(objective).dense()
    values = torch.linalg.eigvalsh(dense)
    floor = 1.1 * max(-values[0].item(), 0)
    assert found.value - floor == pytest.approx(
        0.5 * values.mean().item(), rel=1e-9 if limit else 0.2
    )
    assert "half the mean eigenvalue" in found.reason


@pytest.mark.parametrize("kind", [Kfac, Ekfac])
def test_kronecker_factors_are_damped_by_less(kind, objective):
    operator = kind(objective)
    found = choose_damping(operator, objective)
    mean = torch.linalg.eigvalsh(operator.dense()).mean().item()
    assert found.value == pytest.approx(mean / 50)
    assert "a fiftieth of the mean eigenvalue" in found.reason


def test_an_exact_fit_held_by_weight_decay_needs_no_damping(classification):
    X, _ = classification(8, 30)
    y = torch.sin(X.sum(1))
    A = 2 * X.T @ X / 8 + 1e-4 * torch.eye(30, dtype=torch.float64)
    net = nn.Linear(30, 1, bias=False).double()
    net.weight.data = torch.linalg.solve(A, 2 * X.T @ y / 8)[None]
    J = Objective(net, nn.MSELoss(), (X, y[:, None]), weight_decay=1e-4)
    found = choose_damping(GaussNewton(J), J)
    assert found.value == 0
    assert found.effective_dof == pytest.approx(8, abs=0.01)


def test_without_weight_decay_a_minimum_must_be_a_better_one(classification):
    X, y = classification(60)
    for decay, damped in ((0.0, True), (0.02, False)):
        net = nn.Linear(5, 3).double()
        J = Objective(net, None, (X, y), weight_decay=decay)
        for _ in range(100):
            J = J.at(J.space.vector() - J.gradient())
        step = 0.005 * J.per_example_gradients().norm(dim=1).square().mean().sqrt()
        direction = torch.linalg.solve(
            GaussNewton(J).dense() + 1e-3 * torch.eye(18).double(), torch.ones(18).double()
        )
        J = J.at(J.space.vector() + direction * step / (GaussNewton(J) @ direction).norm())
        found = choose_damping(GaussNewton(J), J)
        assert 1e-3 < found.relative_gradient_norm < 1e-2
        assert (found.value > 0) == damped


def test_a_given_damping_is_taken_and_reported(objective):
    found = choose_damping(GaussNewton(objective), objective, 0.25)
    assert found.value == 0.25
    assert found.reason == "given by the caller"
    assert found.gradient_norm > 0
    assert choose_damping(GaussNewton(objective), objective, found) is found
    A = GaussNewton(objective) + found
    torch.testing.assert_close(A.dense().trace() - GaussNewton(objective).dense().trace(),
                               torch.tensor(0.25 * 57, dtype=torch.float64))  # fmt: skip


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf, "best", True])
def test_bad_damping(wrong, objective):
    with pytest.raises(ValueError, match=r"damping must be .*number >= 0"):
        choose_damping(GaussNewton(objective), objective, wrong)


def test_operator_of_another_objective(objective):
    with pytest.raises(ValueError, match="size 2"):
        choose_damping(Dense(torch.eye(2).double()), objective)


def test_a_saturated_spectrum_by_lanczos(classification, monkeypatch):
    X, y = classification(8, 30)
    J = Objective(nn.Linear(30, 3).double(), None, (X, y))
    monkeypatch.setattr("trustml.ihvp.damping._SMALL", 0)
    G = GaussNewton(J)
    products = []
    monkeypatch.setattr(G, "matmat", lambda V, matmat=G.matmat: (products.append(V), matmat(V))[1])
    away = choose_damping(G, J)
    assert not products  # far from a minimum it is damped anyway, so nobody counts
    assert away.value == pytest.approx(0.5 * G.dense().diagonal().mean().item())
    monkeypatch.setattr("trustml.ihvp.damping.STATIONARY_FREE", 1.0)
    found = choose_damping(G, J)
    assert "degrees of freedom as its data have targets (16)" in found.reason
    assert found.value == away.value
    assert products


def test_a_damping_carries_its_reason_into_the_solution(objective):
    A = GaussNewton(objective) + Damping(0.5, "because")
    assert solve(A, objective.gradient()).damping_reason == "because"


def test_an_exact_fit_is_a_minimum_though_its_gradients_are_rounding():
    # Every residual is rounding, so ‖∇J‖ is as large as the rows' gradients.
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(40, 4, generator=generator, dtype=torch.float64)
    y = X @ torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64) + 0.3
    J = linear(LinearRegression().fit(X, y), 1, X, y)
    found = choose_damping(GaussNewton(J), J)
    assert found.stationary
    assert found.value == 0
    assert found.gradient_norm < 1e-13
    with torch.no_grad():
        J.module.weight += 1e-9  # no rounding: a step away from the minimum
    moved = Objective(J.module, None, (X, y))
    assert not choose_damping(GaussNewton(moved), moved).stationary
