"""Ridge: influence with leverage is the exact leave-one-out refit, to 1e-10."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge

from trustml.influence import InfluenceFunctions, leave_one_out
from trustml.model import wrap

X, Y = load_diabetes(return_X_y=True)
N = 150


def prediction(outputs, X, y):
    return outputs.reshape(-1)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("method", ["cholesky", "dual"])
@pytest.mark.parametrize("alpha", [1e-3, 1.0])
def test_every_refit_is_predicted(alpha, method, fit_intercept):
    estimator = Ridge(alpha=alpha, fit_intercept=fit_intercept, solver="cholesky")
    model = wrap(estimator.fit(X[:N], Y[:N]), train=(X[:N], Y[:N]))
    inf = InfluenceFunctions(model, method=method).fit()
    assert inf.correction_ == "leverage"
    assert inf.damping_.value == 0
    rows = np.arange(N)
    truth = leave_one_out(model, rows, X[N:], measure=prediction)
    got = inf.scores(X[N:], measure=prediction).values
    np.testing.assert_allclose(got, truth, rtol=1e-10, atol=1e-10 * np.abs(truth).max())


@pytest.mark.parametrize("method", ["cholesky", "dual"])
def test_more_parameters_than_rows_are_no_exception(method):
    rng = np.random.default_rng(0)
    A, b = rng.normal(size=(50, 66)), rng.normal(size=50)
    model = wrap(Ridge(alpha=0.01, solver="cholesky").fit(A[:40], b[:40]), train=(A[:40], b[:40]))
    inf = InfluenceFunctions(model, method=method).fit()
    assert inf.damping_.value == 0  # weight decay makes the curvature definite
    truth = leave_one_out(model, np.arange(40), A[40:], measure=prediction)
    got = inf.scores(A[40:], measure=prediction).values
    np.testing.assert_allclose(got, truth, rtol=1e-8, atol=1e-10 * np.abs(truth).max())


def test_parameters_and_own_residuals_follow_the_textbook():
    model = wrap(Ridge(alpha=0.5, fit_intercept=False).fit(X[:N], Y[:N]), train=(X[:N], Y[:N]))
    inf = InfluenceFunctions(model).fit()
    A = X[:N].T @ X[:N] + 0.5 * np.eye(10)
    refits = np.stack(
        [
            np.linalg.solve(A - np.outer(X[i], X[i]), X[:N].T @ Y[:N] - X[i] * Y[i])
            for i in range(N)
        ],
        axis=1,
    )
    theta = np.linalg.solve(A, X[:N].T @ Y[:N])
    changes = inf.parameter_changes(np.arange(N)).numpy()
    scale = np.abs(refits - theta[:, None]).max()
    np.testing.assert_allclose(changes, refits - theta[:, None], rtol=1e-9, atol=1e-10 * scale)
    leverage = np.einsum("ij,ji->i", X[:N], np.linalg.solve(A, X[:N].T))
    residual = (Y[:N] - X[:N] @ theta) / (1 - leverage)
    own = Y[:N] - inf.leave_one_out_outputs().reshape(-1).numpy()
    np.testing.assert_allclose(own, residual, rtol=1e-10)


def test_loss_effects_are_the_first_order_of_the_exact_change():
    model = wrap(Ridge(alpha=0.5).fit(X[:N], Y[:N]), train=(X[:N], Y[:N]))
    inf = InfluenceFunctions(model).fit()
    moved = inf.scores(X[N:], measure=prediction).values
    residual = model.predict(X[N:]) - Y[N:]
    scores = inf.scores(X[N:], Y[N:]).values
    np.testing.assert_allclose(scores, 2 * residual[:, None] * moved, rtol=1e-9, atol=1e-9)


def test_without_correction_the_step_lacks_the_leverage():
    model = wrap(Ridge(alpha=0.5).fit(X[:N], Y[:N]), train=(X[:N], Y[:N]))
    corrected = InfluenceFunctions(model).fit().parameter_changes(np.arange(N))
    plain = InfluenceFunctions(model, correction="none").fit().parameter_changes(np.arange(N))
    ratio = (plain / corrected).mean(0)
    assert ((ratio > 0) & (ratio < 1)).all()
    torch.testing.assert_close(plain, corrected * ratio, rtol=1e-8, atol=1e-10)


def solved(X, Y, scale):
    """Minimise mean squared error plus scale * ||weight||^2 / 2."""
    X, Y = (torch.as_tensor(a, dtype=torch.float64) for a in (X, Y))
    H = 2 * X.T @ X / len(X) + scale * torch.eye(X.shape[1], dtype=torch.float64)
    net = torch.nn.Linear(X.shape[1], 1, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(torch.linalg.solve(H, 2 * X.T @ Y[:, None] / len(X)).T)
    return net


def test_weight_decay_beside_the_mean_takes_each_query_s_mean_score_off():
    rows, decay = np.arange(N), 0.01

    def held(X, Y):
        return solved(X, Y, decay * N / len(X))

    def beside_the_mean(X, Y):
        return solved(X, Y, decay)

    net = solved(X[:N], Y[:N], decay)
    truth = {}
    for train_fn in (held, beside_the_mean):
        data = torch.as_tensor(X[:N]), torch.as_tensor(Y[:N])
        model = wrap(net, "regression", train=data, weight_decay=decay, train_fn=train_fn)
        truth[train_fn] = leave_one_out(model, rows, X[N:], measure=prediction)
    got = InfluenceFunctions(model).fit().scores(X[N:], measure=prediction).values
    size = np.abs(got).max()
    np.testing.assert_allclose(got, truth[held], atol=1e-10 * size)
    less = got - got.mean(1, keepdims=True)
    off = np.abs(got - truth[beside_the_mean]).max()
    assert np.abs(less - truth[beside_the_mean]).max() < 0.2 * off
