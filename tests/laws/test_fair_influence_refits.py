"""What FairInfluence predicts, and what training anew says."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LogisticRegression, Ridge

from trustml.fairness import FairInfluence
from trustml.influence import InfluenceFunctions
from trustml.model import wrap
from trustml.warnings import TrustmlWarning

N = 250


@pytest.fixture(scope="module")
def setting():
    X, y = load_diabetes(return_X_y=True)
    sex, X = (X[:, 1] > 0).astype(int), X / X.std(0)
    order = np.random.default_rng(0).permutation(len(y))
    X, y, sex = X[order], (y > np.median(y)).astype(int)[order], sex[order]
    estimator = LogisticRegression(solver="newton-cholesky", tol=1e-10).fit(X[:N], y[:N])
    model = wrap(estimator, train=(X[:N], y[:N]))
    rows = np.random.default_rng(1).choice(N, 60, replace=False)
    refits = [model.retrain(np.delete(np.arange(N), i)) for i in rows]
    return model, (X[N:], y[N:]), sex[N:], rows, refits


def soft_precision(p, y, loss, sex):
    return abs(np.subtract(*[(p * y)[sex == g].sum() / p[sex == g].sum() for g in (0, 1)]))


def soft_error(p, y, loss, sex):
    wrong = np.where(y == 1, 1 - p, p)
    return abs(wrong[sex == 1].mean() - wrong[sex == 0].mean())


def worst_loss(p, y, loss, sex):
    return max(loss[sex == g].mean() for g in (0, 1))


def opportunity_loss(p, y, loss, sex):
    of = y == 1
    return abs(loss[of & (sex == 1)].mean() - loss[of & (sex == 0)].mean())


def odds_losses(p, y, loss, sex):
    gaps = [loss[(y == k) & (sex == 1)].mean() - loss[(y == k) & (sex == 0)].mean() for k in (0, 1)]
    return np.abs(gaps).max()


def covariance(scores, y, groups):
    s = groups.double()
    return ((s - s.mean()) * scores).mean()


def log_rates(scores, y, groups):
    return torch.stack([scores[groups == g].mean().log() for g in (0, 1)])


def written_covariance(p, y, loss, sex):
    return abs(np.mean((sex - sex.mean()) * p))


def written_log_rates(p, y, loss, sex):
    return abs(np.log(p[sex == 1].mean()) - np.log(p[sex == 0].mean()))


CRITERIA = {
    "predictive parity": ({"criterion": "predictive_parity"}, soft_precision),
    "error parity": ({"criterion": "error_parity"}, soft_error),
    "worst group": ({"criterion": "worst_group"}, worst_loss),
    "opportunity of losses": (
        {"criterion": "equal_opportunity", "surrogate": "loss"}, opportunity_loss,
    ),
    "odds of losses": ({"criterion": "equalized_odds", "surrogate": "loss"}, odds_losses),
    "a covariance": ({"criterion": covariance}, written_covariance),
    "one value a group": ({"criterion": log_rates}, written_log_rates),
}  # fmt: skip


def measured(model, rows, sex, written):
    X, y = rows
    return written(model.predict_proba(X)[:, 1], y, model.loss(X, y), sex)


@pytest.mark.parametrize("case", CRITERIA)
def test_row_effects_are_those_of_refits(setting, case):
    model, val, sex, rows, refits = setting
    options, written = CRITERIA[case]
    fair = FairInfluence(model, **options).fit(*val, sensitive_features=sex)
    before = measured(model, val, sex, written)
    assert fair.gap_ == pytest.approx(before, abs=1e-9)
    truth = np.array([measured(m, val, sex, written) for m in refits]) - before
    predicted = fair.row_effects_[rows]
    assert stats.spearmanr(predicted, truth)[0] > 0.97
    assert 0.9 < np.polyfit(predicted, truth, 1)[0] < 1.1
    clear = np.abs(predicted) > np.median(np.abs(predicted))
    assert (np.sign(predicted) == np.sign(truth))[clear].mean() > 0.97


@pytest.mark.parametrize("criterion", ["predictive_parity", "error_parity"])
def test_smoothed_decisions_too(setting, criterion):
    model, val, sex, rows, refits = setting
    fair = FairInfluence(model, criterion, "threshold").fit(*val, sensitive_features=sex)
    sign = 1 if criterion == "predictive_parity" else 2 * val[1] - 1

    def smooth(m):
        s = 1 / (1 + np.exp(-sign * m.logits(val[0])[:, 1] / fair.temperature_))
        if criterion == "error_parity":
            return abs((1 - s)[sex == 1].mean() - (1 - s)[sex == 0].mean())
        return soft_precision(s, val[1], None, sex)

    assert fair.gap_ == pytest.approx(smooth(model))
    truth = np.array([smooth(m) for m in refits]) - fair.gap_
    assert stats.spearmanr(fair.row_effects_[rows], truth)[0] > 0.97


def test_newton_and_refit_with_weights_agree_for_ridge():
    X, y = load_diabetes(return_X_y=True)
    sex = X[:, 1] > 0
    model = wrap(Ridge(alpha=0.1).fit(X[:N], y[:N]), train=(X[:N], y[:N]))
    fair = FairInfluence(model).fit(X[N:], y[N:], sensitive_features=sex[N:])
    weights = np.random.default_rng(0).uniform(0, 2, N)
    found = fair.predict_gap(weights, refit=True)
    # Least squares: one Newton step is the refit with sample_weight.
    assert found.gap[2] == pytest.approx(found.gap[3], rel=1e-9)
    assert found.accuracy[2] == pytest.approx(found.accuracy[3], rel=1e-9)
    assert found.remaining < 1e-9
    assert found.residual < 1e-9
    assert found.gradient_norm < 1e-6
    nothing = fair.predict_gap(np.ones(N))
    assert nothing.gap[0] == pytest.approx(nothing.gap[1])
    assert nothing.gap[0] == pytest.approx(nothing.gap[2])
    assert nothing.linear
    assert nothing.removed == 0


def test_effects_add_up_for_few_rows_and_a_warning_says_where_they_do_not(setting):
    model, val, sex, *_ = setting
    fair = FairInfluence(model).fit(*val, sensitive_features=sex)
    few = np.ones(N)
    few[np.argsort(fair.row_effects_)[[20, 40, 60]]] = 0
    found = fair.predict_gap(few, refit=True)
    change = found.gap - found.gap[0]
    assert found.linear
    assert change[1] == pytest.approx(change[3], rel=0.2)
    assert abs(change[2] - change[3]) < abs(change[1] - change[3])  # Newton is nearer
    added = fair.loss_effects_ @ (1 - few)
    assert found.loss[1] - found.loss[0] == pytest.approx(added)
    assert 0.5 < added / (found.loss[3] - found.loss[0]) < 2


def biased(n):
    rng = np.random.default_rng(0)
    sex = rng.integers(0, 2, n)
    X = np.column_stack([rng.normal(size=n) + sex, rng.normal(size=n)])
    return X, (X.sum(1) + rng.logistic(size=n) > 0.5).astype(int), sex


def test_a_warning_says_where_effects_do_not_add_up():
    X, y, sex = biased(600)
    T, V = slice(0, 300), slice(300, 600)
    model = wrap(LogisticRegression().fit(X[T], y[T]), train=(X[T], y[T]))
    fair = FairInfluence(model).fit(X[V], y[V], sensitive_features=sex[V])
    with pytest.warns(TrustmlWarning, match="linear regime is left"):
        fair.reweigh(reduction=0.5, loss_budget=1.0, refit=True)
    found = fair.prediction_
    assert found.gap[1] == pytest.approx(fair.gap_ / 2, abs=1e-6)
    assert found.mismatch > 0.3 * fair.gap_
    assert found.gap[3] == pytest.approx(found.gap[2], abs=0.1 * fair.gap_)
    assert found.to_frame().shape == (4, 5)
    assert "NOT in the linear regime" in repr(found)
    fair.reweigh()  # goes as far as it can be predicted
    assert fair.prediction_.linear
    assert fair.prediction_.gap[2] < 0.95 * fair.gap_


def test_weights_and_class_weights_are_refitted_together(setting):
    model, val, sex, *_ = setting
    X, y = (part.numpy() for part in (model.train.inputs, model.train.targets))
    X = X[np.r_[0:N, :50]]
    y = y.astype(int)[np.r_[0:N, :50]]
    estimator = LogisticRegression(
        C=0.3, class_weight="balanced", solver="newton-cholesky", tol=1e-10
    ).fit(X, y)
    fair = FairInfluence(wrap(estimator, train=(X, y))).fit(*val, sensitive_features=sex)
    weights = np.random.default_rng(0).uniform(0.9, 1, len(y))
    found = fair.predict_gap(weights, refit=True)
    np.testing.assert_allclose(found.gap[2], found.gap[3], atol=1e-4)


@pytest.mark.parametrize("method", ["linear", "quadratic"])
@pytest.mark.parametrize("criterion", ["demographic_parity", "equal_opportunity"])
def test_steps_reach_the_target_and_the_refit_is_there(setting, criterion, method):
    model, val, sex, *_ = setting
    fair = FairInfluence(model, criterion).fit(*val, sensitive_features=sex)
    reached = fair.reach(0.2 * fair.gap_, tolerance=1e-3, method=method, refit=True)
    assert reached.hit
    assert reached.path[-1, 0] <= 0.2 * fair.gap_ + 1e-3
    # Newton steps to the minimum are what training with the weights gives.
    assert reached.prediction.gap[3] == pytest.approx(reached.path[-1, 1], abs=1e-6)
    again = fair._validation.measure(reached.model.objective)
    assert again.gap == pytest.approx(reached.path[-1, 1], abs=1e-9)
    assert ((reached.weights >= 0) & (reached.weights <= 1)).all()
    moved = (reached.weights < 1 - 1e-9).mean()
    assert moved > 0.3 if method == "quadratic" else moved < 0.2
    assert np.isfinite(reached.to_frame().to_numpy(float)).all()


def test_a_target_that_is_there_already_keeps_the_model(setting):
    model, val, sex, *_ = setting
    fair = FairInfluence(model).fit(*val, sensitive_features=sex)
    reached = fair.reach(fair.gap_)
    assert reached.model is model
    assert reached.hit
    np.testing.assert_array_equal(reached.weights, 1)
    assert "Gap of at most 5 + 0.005 hit in 0 steps" in repr(fair.reach(5.0))


def test_decisions_reach_the_target_too():
    X, y, sex = biased(2400)
    T, V = slice(0, 1200), slice(1200, 2400)
    model = wrap(LogisticRegression().fit(X[T], y[T]), train=(X[T], y[T]))
    fair = FairInfluence(model, surrogate="threshold").fit(X[V], y[V], sensitive_features=sex[V])
    reached = fair.reach(0.05, tolerance=0.01, decisions=True)
    decided = reached.model.predict(X[V])
    gap = abs(decided[sex[V] == 1].mean() - decided[sex[V] == 0].mean())
    assert reached.path[0, 0] > 0.15
    assert reached.hit
    assert gap == pytest.approx(reached.path[-1, 0])
    assert gap <= 0.06


def test_a_loss_budget_is_kept_and_a_missed_target_is_said(setting):
    model, val, sex, *_ = setting
    fair = FairInfluence(model).fit(*val, sensitive_features=sex)
    with pytest.warns(TrustmlWarning, match="above the target of at most"):
        reached = fair.reach(0.0, tolerance=0.0, loss_budget=1e-3)
    assert not reached.hit
    assert (reached.path[:, 4] <= reached.path[0, 4] + 2e-3).all()
    assert reached.path[-1, 0] < reached.path[0, 0]


def test_influence_without_leverage_is_li_and_lius(setting):
    model, val, sex, *_ = setting
    X, y = val
    influence = InfluenceFunctions(model, correction="none")
    fair = FairInfluence(model, "equal_opportunity", "loss", influence=influence)
    fair.fit(X, y, sensitive_features=sex)
    # Their formula in plain numpy: sums of losses, H = Σ p(1-p)xx' + I/C, intercept unpenalised.
    T = model.train.inputs.numpy()
    Z = np.column_stack([T, np.ones(N)])
    p = model.predict_proba(T)[:, 1]
    H = Z.T @ (Z * (p * (1 - p))[:, None]) + np.diag([1.0] * 10 + [0.0])
    V = np.column_stack([X, np.ones(len(X))])
    pull = (model.predict_proba(X)[:, 1] - y)[:, None] * V
    f = [pull[(y == 1) & (sex == g)].mean(0) for g in (0, 1)]
    signed = ((p - model.train.targets.numpy().ravel())[:, None] * Z) @ np.linalg.solve(
        H, f[0] - f[1]
    )
    loss = model.loss(X, y)
    gap = loss[(y == 1) & (sex == 0)].mean() - loss[(y == 1) & (sex == 1)].mean()
    np.testing.assert_allclose(fair.row_effects_, np.abs(gap + signed) - abs(gap), atol=1e-10)
