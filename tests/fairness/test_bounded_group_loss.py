"""The worst group's loss is as small as a linear model can make it, or as small as asked."""

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsRegressor

from trustml.fairness._bounded_group_loss import BoundedGroupLoss
from trustml.warnings import ConvergenceWarning, TrustmlWarning


def problem(n=300, k=3, seed=0):
    rng = np.random.default_rng(seed)
    s = rng.choice(k, n, p=np.arange(k, 0, -1) / np.arange(1, k + 1).sum())
    X = rng.normal(size=(n, 2))
    y = X @ [1.0, 0.5] + (s - 1) * X[:, 0] + 0.3 * rng.normal(size=n)
    return X, y, s


def losses(theta, X, y, s):
    squared = (X @ theta[:2] + theta[2] - y) ** 2
    return np.array([squared[s == g].mean() for g in np.unique(s)])


def optimum(X, y, s, bound=None):
    """By a solver for smooth constraints, in the coefficients themselves."""
    if bound is None:
        found = minimize(
            lambda z: z[3], np.r_[np.zeros(3), 10.0], method="SLSQP",
            constraints={"type": "ineq", "fun": lambda z: z[3] - losses(z, X, y, s)},
        )  # fmt: skip
    else:
        share = np.bincount(s) / len(s)
        found = minimize(
            lambda z: share @ losses(z, X, y, s), np.zeros(3), method="SLSQP",
            constraints={"type": "ineq", "fun": lambda z: bound - losses(z, X, y, s)},
        )  # fmt: skip
    assert found.success
    return found.fun


def test_the_worst_loss_is_the_smallest():
    X, y, s = problem()
    fair = BoundedGroupLoss(LinearRegression(), nu=1e-4, max_iter=200)
    fair.fit(X, y, sensitive_features=s)
    errors = (fair.predict(X) - y) ** 2
    reached = [errors[s == g].mean() for g in range(3)]
    np.testing.assert_allclose(list(fair.group_losses_.values()), reached)
    assert max(reached) == pytest.approx(optimum(X, y, s), rel=1e-3)
    plain = LinearRegression().fit(X, y)
    assert max(reached) < losses(np.r_[plain.coef_, plain.intercept_], X, y, s).max()


def test_with_a_bound_the_mean_loss_is_the_smallest():
    X, y, s = problem()
    smallest = optimum(X, y, s)
    bound = 1.2 * smallest
    fair = BoundedGroupLoss(LinearRegression(), bound, nu=1e-4, max_iter=200)
    fair.fit(X, y, sensitive_features=s)
    assert max(fair.group_losses_.values()) <= bound * (1 + 1e-6)
    mean = ((fair.predict(X) - y) ** 2).mean()
    assert mean == pytest.approx(optimum(X, y, s, bound), rel=1e-3)


def test_a_slack_bound_gives_the_plain_regressor():
    X, y, s = problem()
    fair = BoundedGroupLoss(LinearRegression(), 100.0).fit(X, y, sensitive_features=s)
    assert fair.n_iter_ == 1
    np.testing.assert_allclose(fair.predict(X), LinearRegression().fit(X, y).predict(X))


def test_a_row_twice_is_a_row_of_weight_two_and_order_does_not_matter():
    X, y, s = problem()
    times = 1 + (np.arange(300) % 3 == 0)
    rows = np.random.default_rng(1).permutation(np.repeat(np.arange(300), times))
    weighted, repeated = (BoundedGroupLoss(LinearRegression(), nu=1e-4) for _ in range(2))
    weighted.fit(X, y, sensitive_features=s, sample_weight=times)
    repeated.fit(X[rows], y[rows], sensitive_features=np.array(["c", "a", "b"])[s][rows])
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), atol=1e-6)


def test_what_cannot_be_kept_or_reached_is_said():
    X, y, s = problem()
    with pytest.warns(TrustmlWarning, match="no mixture that was found"):
        BoundedGroupLoss(LinearRegression(), 1e-3).fit(X, y, sensitive_features=s)
    with pytest.warns(ConvergenceWarning, match="raise max_iter"):
        BoundedGroupLoss(LinearRegression(), max_iter=1).fit(X, y, sensitive_features=s)
    for given, message in (
        ({"upper_bound": -1.0}, "upper_bound"),
        ({"loss": "hinge"}, "loss must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            BoundedGroupLoss(LinearRegression(), **given).fit(X, y, sensitive_features=s)
    with pytest.raises(ValueError, match="takes no sample_weight"):
        BoundedGroupLoss(KNeighborsRegressor()).fit(X, y, sensitive_features=s)


def test_what_is_no_regressor_is_refused():
    X, y, s = problem(60)
    for given, message in ((LogisticRegression(), "LogisticRegression is not one"), (None, "None")):
        with pytest.raises(TypeError, match=message):
            BoundedGroupLoss(given).fit(X, y, sensitive_features=s)
    with pytest.raises(ValueError, match="nu must be"):
        BoundedGroupLoss(LinearRegression(), nu=-1).fit(X, y, sensitive_features=s)
