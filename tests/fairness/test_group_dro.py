"""The worst group is served better than by the mean."""

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from trustml.fairness import GroupDRO


def problem(n=600, seed=0):
    """A tenth of the rows need the opposite slope."""
    rng = np.random.default_rng(seed)
    s = (rng.random(n) < 0.15).astype(int)
    X = np.column_stack([rng.normal(size=n), rng.normal(size=n)])
    y = np.where(s == 1, -0.5, 1.5) * X[:, 0] + X[:, 1] + 0.5 * rng.logistic(size=n) > 0
    return X, y.astype(int), s


def worst(losses, s):
    return max(losses[s == g].mean() for g in np.unique(s))


@pytest.mark.parametrize("sharpness", [10.0, 100.0])
def test_a_linear_model_comes_as_near_the_smallest_worst_loss_as_promised(sharpness):
    X, y, s = problem()
    fair = GroupDRO(
        hidden=(), by_label=False, sharpness=sharpness, weight_decay=0.0, random_state=0
    ).fit(X, y, sensitive_features=s)

    def objective(theta):
        f = X @ theta[:2] + theta[2]
        return worst(np.logaddexp(0, f) - y * f, s)

    starts = np.random.default_rng(0).normal(size=(5, 3))
    best = min(minimize(objective, start, method="Nelder-Mead").fun for start in starts)
    p = fair.predict_proba(X)[:, 1]
    reached = worst(-np.log(np.where(y == 1, p, 1 - p)), s)
    assert best - 1e-4 < reached < best + np.log(2) / sharpness
    plain = LogisticRegression().fit(X, y).predict_proba(X)[:, 1]
    assert reached < worst(-np.log(np.where(y == 1, plain, 1 - plain)), s)


def test_weights_go_to_the_worst_group():
    X, y, s = problem()
    fair = GroupDRO(hidden=(), by_label=False, random_state=0, max_epochs=100)
    fair.fit(X, y, sensitive_features=s)
    assert fair.group_weights_.sum() == pytest.approx(1)
    assert fair.group_weights_[1] > 0.3  # of 0.15 of the rows
    labelled = GroupDRO(hidden=(), random_state=0, max_epochs=5).fit(X, y, sensitive_features=s)
    assert labelled.group_weights_.shape == (4,)


def test_without_sharpness_the_groups_are_balanced():
    X, y, s = problem()
    fair = GroupDRO(
        sharpness=0, hidden=(), by_label=False, weight_decay=0.0, max_epochs=1000, random_state=0
    )
    fair.fit(X, y, sensitive_features=s)
    balanced = LogisticRegression(C=np.inf, tol=1e-8)
    balanced.fit(X, y, sample_weight=len(s) / np.bincount(s)[s])
    np.testing.assert_allclose(
        fair.predict_proba(X)[:, 1], balanced.predict_proba(X)[:, 1], atol=1e-4
    )


def test_wrong_arguments_name_the_fix():
    X, y, s = problem(200)
    with pytest.raises(ValueError, match="sharpness"):
        GroupDRO(sharpness=-1).fit(X, y, sensitive_features=s)
