"""Row effects on a gap against actual refits; mitigation without refit; weights; bad input."""

import copy

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.base import clone
from sklearn.datasets import load_diabetes
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from torch import nn

from trustml.fairness import (
    FairInfluence,
    demographic_parity_difference,
    equalized_odds_difference,
)
from trustml.influence import InfluenceFunctions
from trustml.model import wrap
from trustml.warnings import SmallGroupWarning, TrustmlWarning

N = 250


def diabetes():
    X, y = load_diabetes(return_X_y=True)
    sex, X = X[:, 1] > 0, X / X.std(0)
    order = np.random.default_rng(0).permutation(len(y))
    return X[order], (y > np.median(y)).astype(int)[order], sex[order], y[order]


def biased(n=1600, seed=0):
    """Credit-like rows: the group shifts an income that decides, and leaks through a proxy."""
    rng = np.random.default_rng(seed)
    sex = rng.choice(["f", "m"], n)
    shift = (sex == "m") * 1.0
    X = np.column_stack(
        [rng.normal(size=n) + shift, rng.normal(size=n), shift + 0.7 * rng.normal(size=n)]
    )
    y = (X[:, 0] + X[:, 1] + rng.logistic(size=n) > 0.5).astype(int)
    return X, y, sex


@pytest.fixture(scope="module")
def setting():
    X, y, sex, _ = diabetes()
    estimator = LogisticRegression(C=1.0, tol=1e-8, max_iter=3000).fit(X[:N], y[:N])
    model = wrap(estimator, train=(X[:N], y[:N]))
    rows = np.random.default_rng(1).choice(N, 50, replace=False)
    refits = [model.retrain(np.delete(np.arange(N), i)) for i in rows]
    return model, X[N:], y[N:], sex[N:], rows, refits


def probability_gap(model, X, y, sex, criterion):
    p = model.predict_proba(X)[:, 1]
    labels = {
        "demographic_parity": [y >= 0],
        "equal_opportunity": [y == 1],
        "predictive_equality": [y == 0],
        "equalized_odds": [y == 1, y == 0],
    }[criterion]
    return max(abs(p[of & sex].mean() - p[of & ~sex].mean()) for of in labels)


@pytest.mark.parametrize(
    "criterion",
    ["demographic_parity", "equal_opportunity", "predictive_equality", "equalized_odds"],
)
def test_row_effects_are_those_of_refits(setting, criterion):
    model, X, y, sex, rows, refits = setting
    fair = FairInfluence(model, criterion).fit(X, y, sensitive_features=sex)
    before = probability_gap(model, X, y, sex, criterion)
    assert fair.gap_ == pytest.approx(before, abs=1e-9)
    truth = np.array([probability_gap(m, X, y, sex, criterion) for m in refits]) - before
    predicted = fair.row_effects_[rows]
    assert fair.row_effects_.shape == (N,)
    assert stats.pearsonr(predicted, truth)[0] > 0.99
    assert stats.spearmanr(predicted, truth)[0] > 0.97
    assert 0.9 < np.polyfit(predicted, truth, 1)[0] < 1.1


def test_loss_parity_and_loss_effects_are_those_of_refits(setting):
    model, X, y, sex, rows, refits = setting
    fair = FairInfluence(model, "loss_parity").fit(X, y, sensitive_features=sex)

    def gap(m):
        loss = m.loss(X, y)
        return abs(loss[sex].mean() - loss[~sex].mean())

    truth = np.array([gap(m) for m in refits]) - gap(model)
    assert stats.pearsonr(fair.row_effects_[rows], truth)[0] > 0.99
    change = [m.loss(X, y).mean() - model.loss(X, y).mean() for m in refits]
    assert stats.pearsonr(fair.loss_effects_[rows], change)[0] > 0.99


def test_smoothed_decisions_are_those_of_refits_too(setting):
    model, X, y, sex, rows, refits = setting
    fair = FairInfluence(model, surrogate="threshold").fit(X, y, sensitive_features=sex)

    def gap(m):
        score = 1 / (1 + np.exp(-m.logits(X)[:, 1] / fair.temperature_))
        return abs(score[sex].mean() - score[~sex].mean())

    assert fair.gap_ == pytest.approx(gap(model))
    truth = np.array([gap(m) for m in refits]) - gap(model)
    assert stats.pearsonr(fair.row_effects_[rows], truth)[0] > 0.99
    assert 0 < fair.temperature_ < np.std(model.logits(X)[:, 1])


def test_a_gap_near_zero_is_unsigned():
    # The group means almost agree: leaving out a row either way makes the gap larger.
    X, y, _, _ = diabetes()
    model = wrap(Ridge(alpha=10.0).fit(X[:N], y[:N]), train=(X[:N], y[:N]))
    prediction = model.predict(X[N:])
    half = np.zeros(len(prediction), bool)
    half[np.argsort(prediction)[::2]] = True
    fair = FairInfluence(model).fit(X[N:], sensitive_features=half)
    signed = fair.cell_effects_[1] - fair.cell_effects_[0]
    means = np.array(list(fair.cell_means_.values()))
    np.testing.assert_allclose(
        fair.row_effects_, np.abs(means[1] - means[0] + signed) - fair.gap_, atol=1e-12
    )
    assert (fair.row_effects_ >= -fair.gap_).all()


def test_regression_compares_mean_predictions_exactly():
    X, _, sex, y = diabetes()
    model = wrap(Ridge(alpha=1.0).fit(X[:N], y[:N]), train=(X[:N], y[:N]))
    fair = FairInfluence(model).fit(X[N:], y[N:], sensitive_features=sex[N:])

    def gap(m):
        p = m.predict(X[N:])
        return abs(p[sex[N:]].mean() - p[~sex[N:]].mean())

    rows = [0, 100, 249]
    truth = [gap(model.retrain(np.delete(np.arange(N), i))) - gap(model) for i in rows]
    np.testing.assert_allclose(fair.row_effects_[rows], truth, rtol=1e-8)
    fairer = fair.mitigate(accuracy_budget=0.1)
    assert gap(fairer) < 0.7 * gap(model)


def test_names_and_order_of_groups_do_not_matter(setting):
    model, X, y, sex, *_ = setting
    base = FairInfluence(model, "equalized_odds").fit(X, y, sensitive_features=sex)
    swapped = FairInfluence(model, "equalized_odds").fit(X, y, sensitive_features=~sex)
    np.testing.assert_allclose(swapped.row_effects_, base.row_effects_)
    order = np.random.default_rng(0).permutation(len(y))
    mixed = FairInfluence(model, "equalized_odds").fit(
        X[order], y[order], sensitive_features=np.where(sex[order], "a", "b")
    )
    np.testing.assert_allclose(mixed.row_effects_, base.row_effects_, atol=1e-12)


@pytest.mark.parametrize("criterion", ["demographic_parity", "equalized_odds"])
def test_mitigation_holds_on_new_rows(criterion):
    difference = {
        "demographic_parity": demographic_parity_difference,
        "equalized_odds": equalized_odds_difference,
    }[criterion]
    X, y, sex = biased(3000)
    train, val, test = slice(0, 600), slice(600, 1800), slice(1800, 3000)
    model = wrap(LogisticRegression().fit(X[train], y[train]), train=(X[train], y[train]))
    fair = FairInfluence(model, criterion).fit(X[val], y[val], sensitive_features=sex[val])
    fairer = fair.mitigate(accuracy_budget=0.03)
    report = fair.mitigation_

    def gap(m, rows):
        return difference(y[rows], m.predict(X[rows]), sensitive_features=sex[rows])

    assert report.gap_before == pytest.approx(gap(model, val))
    assert report.gap_after == pytest.approx(gap(fairer, val))
    assert report.accuracy_after == pytest.approx((fairer.predict(X[val]) == y[val]).mean())
    assert report.accuracy_after >= report.accuracy_before - 0.03
    assert gap(fairer, test) < 0.6 * gap(model, test)
    assert len(report.removed) > 0
    assert report.to_frame().shape[1] == 5


def test_a_torch_network_is_mitigated_and_left_alone():
    X, y, sex = biased()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    Xt, yt = torch.as_tensor(X), torch.as_tensor(y)
    optimiser = torch.optim.Adam(net.parameters(), 0.05, weight_decay=1e-3)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(Xt[:400]), yt[:400]).backward()
        optimiser.step()
    optimiser.zero_grad()
    before = copy.deepcopy(net.state_dict())
    model = wrap(net.train(), train=(Xt[:400], yt[:400]), weight_decay=1e-3)
    fair = FairInfluence(model).fit(Xt[400:], yt[400:], sensitive_features=sex[400:])
    fairer = fair.mitigate(accuracy_budget=0.03)
    assert fair.mitigation_.gap_after < 0.6 * fair.mitigation_.gap_before
    assert net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert isinstance(fairer.predict(Xt), torch.Tensor)


def test_three_classes_and_string_labels_have_a_favourable_one():
    X, y, sex = biased(900)
    words = np.array(["deny", "grant", "review"])[np.where(X[:, 1] > 1, 2, y)]
    model = wrap(LogisticRegression().fit(X[:500], words[:500]), train=(X[:500], words[:500]))
    with pytest.raises(ValueError, match="pass pos_label="):
        FairInfluence(model).fit(X[500:], words[500:], sensitive_features=sex[500:])
    fair = FairInfluence(model, pos_label="grant").fit(
        X[500:], words[500:], sensitive_features=sex[500:]
    )
    p = model.predict_proba(X[500:])[:, 1]
    want = abs(p[sex[500:] == "f"].mean() - p[sex[500:] == "m"].mean())
    assert fair.gap_ == pytest.approx(want)
    hard = FairInfluence(model, "equal_opportunity", "threshold", pos_label="grant")
    hard.fit(X[500:], words[500:], sensitive_features=sex[500:]).mitigate(0.05)
    assert hard.mitigation_.gap_after <= hard.mitigation_.gap_before


@pytest.mark.parametrize("surrogate", ["probability", "threshold"])
@pytest.mark.parametrize("criterion", ["demographic_parity", "equalized_odds", "loss_parity"])
def test_gaps_that_are_the_same_for_either_label_need_no_favourable_one(criterion, surrogate):
    X, y, sex = biased(900)
    words = np.array(["no", "yes"])[y]
    model = wrap(LogisticRegression().fit(X[:500], words[:500]), train=(X[:500], words[:500]))
    rows = (X[500:], words[500:])
    fits = [
        FairInfluence(model, criterion, surrogate, label).fit(*rows, sensitive_features=sex[500:])
        for label in (None, "yes", "no")
    ]
    for fair in fits[1:]:
        assert fair.gap_ == pytest.approx(fits[0].gap_)
        np.testing.assert_allclose(fair.row_effects_, fits[0].row_effects_, atol=1e-12)
    with pytest.raises(ValueError, match="pass pos_label="):
        FairInfluence(model, "equal_opportunity").fit(*rows, sensitive_features=sex[500:])


def test_no_fairer_candidate_returns_the_model_and_says_so():
    X, y, _ = biased()
    model = wrap(LogisticRegression().fit(X[:400], y[:400]), train=(X[:400], y[:400]))
    # A partition that the decisions do not distinguish at all.
    decided = model.predict(X[400:])
    group = np.zeros(len(decided), int)
    for value in (0, 1):
        of = np.flatnonzero(decided == value)
        group[of[: len(of) // 2 * 2 : 2]] = 1
        if len(of) % 2:
            decided[of[-1]] = -1
    kept = decided >= 0
    fair = FairInfluence(model).fit(X[400:][kept], y[400:][kept], sensitive_features=group[kept])
    with pytest.warns(TrustmlWarning, match="no candidate is fairer"):
        assert fair.mitigate() is model
    assert len(fair.mitigation_.removed) == 0
    assert fair.mitigation_.gap_after == fair.mitigation_.gap_before == 0


def test_weights_are_predicted_to_reach_the_target():
    X, y, sex = biased()
    model = wrap(LogisticRegression().fit(X[:600], y[:600]), train=(X[:600], y[:600]))
    fair = FairInfluence(model).fit(X[600:], y[600:], sensitive_features=sex[600:])
    with pytest.warns(TrustmlWarning, match="linear regime is left"):
        weights = fair.reweigh(target=0.05, loss_budget=0.1)
    assert weights.shape == (600,)
    assert ((weights >= 0) & (weights <= 1)).all()
    means = np.array(list(fair.cell_means_.values())) + fair.cell_effects_ @ (1 - weights)
    assert abs(means[1] - means[0]) == pytest.approx(0.05, abs=1e-6)
    assert fair.loss_effects_ @ (1 - weights) <= 0.1 + 1e-9
    assert (weights == 1).mean() > 0.3  # the least removal touches few rows
    free = fair.reweigh()
    assert fair.prediction_.linear
    assert fair.prediction_.gap[1] < 0.95 * fair.gap_
    assert fair.loss_effects_ @ (1 - free) <= 1e-9
    np.testing.assert_array_equal(fair.reweigh(target=1.0), np.ones(600))
    model = LogisticRegression().fit(X[:600], y[:600], sample_weight=weights)
    p = model.predict_proba(X[600:])[:, 1]
    refitted = abs(p[sex[600:] == "f"].mean() - p[sex[600:] == "m"].mean())
    assert refitted < 0.5 * fair.gap_


def test_an_unreachable_target_is_said():
    X, y, sex = biased(400)
    model = wrap(LogisticRegression().fit(X[:100], y[:100]), train=(X[:100], y[:100]))
    fair = FairInfluence(model).fit(X[100:], y[100:], sensitive_features=sex[100:])
    fair.loss_effects_ = np.ones(100)  # every removal costs
    with pytest.warns(TrustmlWarning, match="smallest reachable"):
        weights = fair.reweigh(target=0.0)
    np.testing.assert_allclose(weights, 1.0)


def test_influence_is_shared(setting):
    model, X, y, sex, *_ = setting
    influence = InfluenceFunctions(model, damping=0.1, correction="none").fit()
    fair = FairInfluence(model, influence=influence).fit(X, y, sensitive_features=sex)
    assert fair.influence_ is influence
    assert not np.allclose(
        fair.row_effects_, FairInfluence(model).fit(X, y, sensitive_features=sex).row_effects_
    )
    other = wrap(LogisticRegression().fit(X, y), train=(X, y))
    with pytest.raises(ValueError, match="another model"):
        FairInfluence(other, influence=influence).fit(X, y, sensitive_features=sex)
    with pytest.raises(TypeError, match="InfluenceFunctions"):
        FairInfluence(model, influence="cg").fit(X, y, sensitive_features=sex)


@pytest.mark.parametrize("way", ["sample_weight", "labels", "rows"])
def test_a_model_that_was_not_trained_on_its_rows_is_said(way):
    X, y, sex, _ = diabetes()
    weight, T = np.where(sex[:N], 5.0, 0.2), slice(0, N)
    if way == "sample_weight":
        estimator = LogisticRegression().fit(X[T], y[T], sample_weight=weight)
    elif way == "labels":
        estimator = LogisticRegression().fit(X[T], np.where(np.arange(N) < 50, 1 - y[T], y[T]))
    else:
        estimator = LogisticRegression().fit(X[N:], y[N:])
    model = wrap(estimator, train=(X[T], y[T]))
    with pytest.warns(TrustmlWarning, match="not at a minimum.*sample_weight"):
        fair = FairInfluence(model).fit(X[N:], y[N:], sensitive_features=sex[N:])
    nothing = fair.predict_gap(np.ones(N))
    assert nothing.adds_up
    assert not nothing.linear
    assert "(not a minimum)" in repr(nothing)
    assert "NOT in the linear regime" in repr(nothing)


def test_a_damping_of_another_model_does_not_say_that_this_one_is_at_a_minimum(setting):
    model, X, y, sex, *_ = setting
    damping = InfluenceFunctions(model).fit().damping_
    assert damping.stationary
    other = wrap(LogisticRegression().fit(X, y), train=(model.train.inputs, model.train.targets))
    influence = InfluenceFunctions(other, damping=damping)
    with pytest.warns(TrustmlWarning, match="not at a minimum"):
        FairInfluence(other, influence=influence).fit(X, y, sensitive_features=sex)


def test_demographic_parity_needs_no_labels(setting):
    model, X, y, sex, *_ = setting
    blind = FairInfluence(model).fit(X, sensitive_features=sex)
    seen = FairInfluence(model).fit(X, y, sensitive_features=sex)
    np.testing.assert_allclose(blind.row_effects_, seen.row_effects_)
    assert blind.loss_effects_ is None
    with pytest.raises(ValueError, match="pass y_val to fit"):
        blind.mitigate()
    assert blind.reweigh(target=1.0).min() == 1


def test_manners(setting):
    model, X, y, sex, *_ = setting
    fair = FairInfluence(model, "equal_opportunity")
    assert clone(fair).get_params()["criterion"] == "equal_opportunity"
    for call in (fair.mitigate, fair.reweigh):
        with pytest.raises(NotFittedError, match="sensitive_features"):
            call()
    with pytest.raises(TypeError):
        fair.fit(X, y, sex)


def test_small_groups_are_said(setting):
    model, X, y, sex, *_ = setting
    three = np.where(np.arange(len(y)) < 6, "rare", sex.astype(str))
    with pytest.warns(SmallGroupWarning, match="rare"):
        FairInfluence(model).fit(X, y, sensitive_features=three)
    positives = np.where(three == "rare", 0, y)
    with (
        pytest.warns(SmallGroupWarning, match="fewer than 20 rows"),
        pytest.warns(SmallGroupWarning, match="no rows with the positive label") as caught,
    ):
        fair = FairInfluence(model, "equal_opportunity").fit(X, positives, sensitive_features=three)
    assert ("positive", "rare") not in fair.cell_means_
    assert {warning.filename for warning in caught} == {__file__}


BAD = {
    "criterion": ({"criterion": "parity"}, {}, ValueError, "criterion must be one of"),
    "surrogate": ({"surrogate": "hard"}, {}, ValueError, "surrogate must be one of"),
    "pos_label": ({"pos_label": 7}, {}, ValueError, "not among the labels"),
    "labels": ({"criterion": "equalized_odds"}, {"y_val": None}, ValueError, "pass y_val"),
    "unseen": ({}, {"y_val": np.full(192, 3)}, ValueError, "label"),
    "short": ({}, {"y_val": np.zeros(5, int)}, ValueError, "length|rows"),
    "groups": ({}, {"sensitive_features": np.zeros(5)}, ValueError, "one row for each"),
    "one group": ({}, {"sensitive_features": np.zeros(192)}, ValueError, "one group only"),
    "missing": ({}, {"sensitive_features": None}, TypeError, "None"),
    "nan": ({}, {"X_val": np.full((192, 10), np.nan)}, ValueError, "NaN"),
    "one class": (
        {"criterion": "equal_opportunity"}, {"y_val": np.zeros(192, int)}, ValueError,
        "only 0 of 2 groups",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_names_the_fix(setting, case):
    model, X, y, sex, *_ = setting
    options, changed, error, message = BAD[case]
    given = {"X_val": X, "y_val": y, "sensitive_features": sex} | changed
    with pytest.raises(error, match=message):
        FairInfluence(model, **options).fit(**given)


def test_bad_budgets_and_models(setting):
    model, X, y, sex, *_ = setting
    fair = FairInfluence(model).fit(X, y, sensitive_features=sex)
    with pytest.raises(ValueError, match="accuracy_budget"):
        fair.mitigate(-0.1)
    with pytest.raises(ValueError, match="target must be"):
        fair.reweigh(target=-1.0)
    with pytest.raises(ValueError, match="loss_budget must be"):
        fair.reweigh(loss_budget=np.nan)
    with pytest.raises(ValueError, match="train"):
        FairInfluence(LogisticRegression().fit(X, y)).fit(X, y, sensitive_features=sex)
    forest = wrap(lambda rows: np.full((len(rows), 2), 0.5), task="classification", train=(X, y))
    with pytest.raises(TypeError, match="needs gradients"):
        FairInfluence(forest).fit(X, y, sensitive_features=sex)
    numbers = wrap(Ridge().fit(X, y), train=(X, y))
    with pytest.raises(ValueError, match="needs classes"):
        FairInfluence(numbers, "equalized_odds").fit(X, y, sensitive_features=sex)
