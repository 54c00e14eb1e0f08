"""Groups of rows: their effects, and unlearning them."""

import copy

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from trustml.influence import InfluenceFunctions, leave_one_out
from trustml.model import wrap
from trustml.warnings import ConvergenceWarning

X, Y = load_diabetes(return_X_y=True)


def ridge(alpha=0.1):
    return wrap(Ridge(alpha=alpha).fit(X[:200], Y[:200]), train=(X[:200], Y[:200]))


def digits():
    Xd, yd = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(yd))[:300]
    Xd, yd = Xd[order] / 16, yd[order]
    estimator = LogisticRegression(C=0.1, tol=1e-10, max_iter=5000).fit(Xd[:200], yd[:200])
    return wrap(estimator, train=(Xd[:200], yd[:200])), Xd[200:], yd[200:]


@pytest.mark.parametrize("method", ["cholesky", "dual"])
def test_removal_from_ridge_is_the_exact_refit(method):
    model = ridge()
    rows = np.array([3, 50, 51, 120, 199])
    inf = InfluenceFunctions(model, method=method).fit()
    removed = inf.remove(rows)
    refit = model.retrain(np.delete(np.arange(200), rows))
    np.testing.assert_allclose(removed.predict(X[200:]), refit.predict(X[200:]), rtol=1e-8)
    assert inf.removal_.gradient_norm_after < 1e-10 * inf.removal_.gradient_norm_before
    assert inf.removal_.remaining < 1e-9
    assert len(removed.train) == 195
    left, size = removed.objective.gradient().norm(), model.objective.per_example_gradients().norm()
    assert left < 1e-9 * size
    again = InfluenceFunctions(removed).fit()  # the objective keeps its n: exact once more
    twice = model.retrain(np.delete(np.arange(200), [*rows, 0])).predict(X[200:])
    np.testing.assert_allclose(again.remove([0]).predict(X[200:]), twice, rtol=1e-8)
    assert inf.removal_.indices.tolist() == rows.tolist()
    assert inf.removal_.step_norm > 0
    changed = refit.loss(X[200:], Y[200:]) - model.loss(X[200:], Y[200:])
    second = inf.group_effect(rows, X[200:], Y[200:], order=2)
    np.testing.assert_allclose(second, changed, rtol=1e-7, atol=1e-7)


def test_removal_through_a_pipeline_holds_the_scaler():
    pipe = make_pipeline(StandardScaler(), Ridge(alpha=3.0)).fit(X[:200], Y[:200])
    model = wrap(pipe, train=(X[:200], Y[:200]))
    keep = np.arange(10, 200)
    removed = InfluenceFunctions(model).fit().remove(np.arange(10))
    refit = model.retrain(keep)
    np.testing.assert_allclose(removed.predict(X[200:]), refit.predict(X[200:]), rtol=1e-8)


def test_a_mask_is_as_good_as_numbers():
    inf = InfluenceFunctions(ridge()).fit()
    mask = np.zeros(200, bool)
    mask[[4, 9]] = True
    by_mask, by_number = inf.remove(mask), inf.remove([4, 9])
    np.testing.assert_array_equal(by_mask.predict(X), by_number.predict(X))
    np.testing.assert_allclose(inf.parameter_changes(mask), inf.parameter_changes([4, 9]))


def test_second_order_sees_what_a_sum_of_scores_does_not():
    model, Xq, yq = digits()
    rows = np.flatnonzero(model.train.targets.numpy() == 3)[:8]  # alike, so they stand in
    refit = model.retrain(np.delete(np.arange(200), rows))
    truth = refit.loss(Xq, yq) - model.loss(Xq, yq)
    inf = InfluenceFunctions(model).fit()
    errors = [
        np.linalg.norm(inf.group_effect(rows, Xq, yq, order=order) - truth) for order in (1, 2)
    ]
    assert errors[1] < 0.5 * errors[0]
    assert errors[1] < 0.2 * np.linalg.norm(truth)


def test_order_one_is_the_sum_of_scores():
    model, Xq, yq = digits()
    for correction in ("leverage", "none"):
        inf = InfluenceFunctions(model, correction=correction).fit()
        total = inf.scores(Xq, yq).values[:, [0, 7, 33]].sum(1)
        np.testing.assert_allclose(inf.group_effect([0, 7, 33], Xq, yq), total, rtol=1e-9)


def test_a_measure_has_a_group_effect_too():
    model = ridge()
    inf = InfluenceFunctions(model).fit()
    rows = [0, 1, 2]
    refit = model.retrain(np.arange(3, 200))
    moved = refit.predict(X[200:]) - model.predict(X[200:])
    got = inf.group_effect(rows, X[200:], measure=lambda out, X, y: out.reshape(-1), order=2)
    np.testing.assert_allclose(got, moved, rtol=1e-7)


def test_the_model_is_left_alone():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 2)).double()
    net.train()
    net[0].bias.requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    Xt = torch.randn(40, 4, generator=generator, dtype=torch.float64)
    yt = torch.randint(2, (40,), generator=generator)
    before, seed = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    model = wrap(net, train=(Xt, yt), weight_decay=0.1)
    inf = InfluenceFunctions(model, damping=0.02).fit()
    inf.scores(Xt, yt)
    removed = inf.remove([1, 2])
    assert net.training
    assert net[2].training
    assert not net[0].bias.requires_grad
    assert all(p.grad is None for p in net.parameters())
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    assert torch.equal(torch.get_rng_state(), seed)
    assert not torch.equal(removed.logits(Xt), model.logits(Xt))
    assert torch.equal(removed.module.state_dict()["0.bias"], net[0].bias)


def test_a_step_that_does_not_remove_warns():
    model, *_ = digits()
    inf = InfluenceFunctions(model, damping=1e4).fit()  # so stiff that nothing moves
    with pytest.warns(ConvergenceWarning, match=r"leaves 100% .* the damping 1e\+04 holds"):
        inf.remove([0, 1, 2])


def test_all_rows_cannot_leave():
    inf = InfluenceFunctions(ridge()).fit()
    with pytest.raises(ValueError, match="at least one must stay"):
        inf.remove(np.arange(200))


def test_ground_truth_is_a_difference_of_refits():
    model = ridge()
    truth = leave_one_out(model, [7, 30], X[200:205], Y[200:205])
    assert isinstance(truth, np.ndarray)
    for column, i in enumerate([7, 30]):
        refit = model.retrain(np.delete(np.arange(200), i))
        want = refit.loss(X[200:205], Y[200:205]) - model.loss(X[200:205], Y[200:205])
        np.testing.assert_allclose(truth[:, column], want, atol=1e-9)


def test_ground_truth_needs_a_way_to_train():
    net = nn.Linear(3, 2).double()
    data = torch.eye(3, dtype=torch.float64), torch.tensor([0, 1, 0])
    with pytest.raises(TypeError, match="train_fn"):
        leave_one_out(wrap(net, train=data), [0], *data)
    with pytest.raises(ValueError, match="training data"):
        leave_one_out(wrap(net, task="classification"), [0], *data)
    with pytest.raises(ValueError, match="must lie in"):
        leave_one_out(ridge(), [200], X[:2], Y[:2])


def test_further_steps_reach_the_refit_and_stop_when_they_do_not_help():
    model, *_ = digits()
    rows = np.arange(5)
    inf = InfluenceFunctions(model).fit()
    keep = np.arange(5, 200)
    vector = inf.objective_.space.on
    refit = vector(model.retrain(keep).module).vector()
    distance = {}
    for steps in (1, 3):
        removed = inf.remove(rows, steps=steps)
        assert inf.removal_.steps <= steps
        found = vector(removed.module).vector()
        distance[steps] = float((found - refit).norm() / refit.norm())
    assert distance[3] < 1e-4
    assert distance[3] < 0.1 * distance[1]
    inf.remove([0], steps=50)
    assert inf.removal_.steps < 5  # nothing is left to remove
    with pytest.raises(ValueError, match="steps"):
        inf.remove([0], steps=0)


def test_a_step_that_leads_too_far_is_halved():
    Xb, yb = load_breast_cancer(return_X_y=True)
    Xb = StandardScaler().fit_transform(Xb)
    estimator = LogisticRegression(C=1e3, tol=1e-8, max_iter=20000).fit(Xb, yb)
    model = wrap(estimator, train=(Xb, yb))
    inf = InfluenceFunctions(model).fit()
    gone = np.random.default_rng(0).choice(len(yb), 284, replace=False)
    kept = np.setdiff1d(np.arange(len(yb)), gone)
    with pytest.warns(ConvergenceWarning, match="pull"):
        removed = inf.remove(gone)
    assert inf.removal_.remaining < 1  # the full step would leave several times what there was
    assert removed.loss(Xb[kept], yb[kept]).mean() < model.loss(Xb[kept], yb[kept]).mean()
