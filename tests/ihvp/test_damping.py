import math

import pytest
import torch
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression, LogisticRegression
from torch import nn

from trustml.ihvp import Damping, Dense, GaussNewton, Hessian, Objective, choose_damping, solve
from trustml.ihvp.leave_one_out import leave_one_out_losses


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
    assert "leave-one-out" in found.reason
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
def test_without_the_spectrum_a_tenth_of_the_mean_is_taken(kind, objective, monkeypatch):
    monkeypatch.setattr("trustml.ihvp.damping._SMALL", 0)
    monkeypatch.setattr("trustml.ihvp.damping._DENSE", 0)
    found = choose_damping(kind(objective), objective)
    dense = kind(objective).dense()
    values = torch.linalg.eigvalsh(dense)
    floor = 1.1 * max(-values[0].item(), 0)
    tolerance = 1e-6 if kind is GaussNewton else 0.2  # the Hessian's trace is estimated
    assert found.value - floor == pytest.approx(0.1 * values.mean().item(), rel=tolerance)
    assert "tenth of the mean eigenvalue" in found.reason


def test_closed_form_leave_one_out_is_exact_for_ridge(classification):
    X, _ = classification(30)
    y = torch.sin(X.sum(1)) + 0.3
    decay = 0.2
    A = 2 * X.T @ X / 30 + decay * torch.eye(5, dtype=torch.float64)
    theta = torch.linalg.solve(A, 2 * X.T @ y / 30)
    net = nn.Linear(5, 1, bias=False).double()
    net.weight.data = theta[None]
    J = Objective(net, nn.MSELoss(), (X, y[:, None]), weight_decay=decay)
    values, vectors = torch.linalg.eigh(GaussNewton(J).dense())
    found = leave_one_out_losses(J, values, vectors, [0.0])[0]
    for i in range(30):
        Xi, yi = X[i], y[i]
        without = torch.linalg.solve(A - 2 * torch.outer(Xi, Xi) / 30, 2 * (X.T @ y - Xi * yi) / 30)
        assert found[i].item() == pytest.approx((Xi @ without - yi).square().item(), rel=1e-9)


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


def test_repr_is_short(objective):
    assert Damping(0.0, "none").value == 0
