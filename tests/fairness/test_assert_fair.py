"""Fair, unfair, or not enough data: what is concluded, for whom, and what is said."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.tree import DecisionTreeClassifier

from trustml.errors import FairnessError, NotEnoughDataError
from trustml.fairness import (
    FairInfluence,
    assert_fair,
    demographic_parity_difference,
    equalized_odds_difference,
    fairness_verdict,
)
from trustml.influence import InfluenceFunctions
from trustml.model import wrap
from trustml.warnings import SmallGroupWarning

CRITERIA = {
    "demographic_parity": ["selection_rate"],
    "equal_opportunity": ["true_positive_rate"],
    "predictive_equality": ["false_positive_rate"],
    "equalized_odds": ["true_positive_rate", "false_positive_rate"],
    "predictive_parity": ["precision"],
    "error_parity": ["zero_one_loss"],
    "loss_parity": ["loss"],
    "worst_group": ["zero_one_loss"],
}


def sample(n=2000, groups=("a", "b", "c"), gap=0.0, seed=0):
    """Decisions that err in 20 % of the rows, in the last group in ``gap`` more."""
    rng = np.random.default_rng(seed)
    s = np.array(groups)[rng.integers(0, len(groups), n)]
    y = rng.integers(0, 2, n)
    wrong = rng.random(n) < 0.2 + gap * (s == groups[-1])
    return y, np.where(wrong, 1 - y, y), s


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_passes_fails_and_abstains(criterion):
    level = {"worst_group": 0.2, "loss_parity": 0.0}.get(criterion, 0.0)
    spread = {"loss_parity": 2.5}.get(criterion, 1.0)
    settings = {"criterion": criterion, "random_state": 0}

    def judged(n, gap, bound):
        y, p, s = sample(n, gap=gap)
        score = np.where(p == 1, 0.9, 0.1)
        return fairness_verdict(
            y, p, sensitive_features=s, y_score=score, bound=bound, **settings
        )  # fmt: skip

    fair = judged(6000, 0.0, level + 0.1 * spread)
    assert fair.verdict == "pass", fair.message
    assert fair.passed
    # Equal base rates: unequal errors do not show in the selection rates.
    unfair = judged(6000, 0.3, level + (0.001 if criterion == "demographic_parity" else 0.1))
    if criterion != "demographic_parity":
        assert unfair.verdict == "fail", unfair.message
        assert unfair.pair[0 if "rate" not in unfair.metric or "false" in unfair.metric else 1] in (
            "c", "a", "b",
        )  # fmt: skip
        assert "c" in unfair.pair
    few = judged(60, 0.0, level + 0.05)
    assert few.verdict == "not enough data"
    for found in (fair, unfair, few):
        assert found.interval[0] <= found.gap <= found.interval[1]
        assert set(found.gaps["metric"]) == set(CRITERIA[criterion])
        assert json.loads(json.dumps(found.to_dict()))["verdict"] == found.verdict
        assert criterion.replace("_", " ") in repr(found)


def test_gaps_and_both_criteria_are_those_of_the_metrics():
    y, p, s = sample(gap=0.1)
    for criterion, metric in {
        "demographic_parity": demographic_parity_difference,
        "equalized_odds": equalized_odds_difference,
    }.items():
        expected = metric(y, p, sensitive_features=s)
        found = fairness_verdict(y, p, sensitive_features=s, criterion=criterion)
        assert found.gap == pytest.approx(expected, abs=1e-12)
        other = fairness_verdict(y, p, sensitive_features=s, criterion="worst_group")
        assert other.both[criterion] == pytest.approx(expected, abs=1e-12)
    worst = max(np.mean((y != p)[s == g]) for g in "abc")
    assert other.gap == pytest.approx(worst, abs=1e-12)
    assert other.pair[0] == "c"


def test_loss_parity_takes_scores_or_the_model():
    y, _, s = sample()
    X = np.random.default_rng(1).normal(size=(2000, 2)) + y[:, None]
    model = LogisticRegression().fit(X, y)
    score = model.predict_proba(X)
    decided = model.predict(X)
    settings = {"sensitive_features": s, "criterion": "loss_parity", "random_state": 0}
    one = fairness_verdict(y, decided, y_score=score, **settings)
    other = fairness_verdict(model, X, y, **settings)
    loss = -np.log(score[np.arange(len(y)), y])
    means = [loss[s == g].mean() for g in "abc"]
    assert one.gap == pytest.approx(np.ptp(means), rel=1e-6)
    np.testing.assert_allclose(one.interval, other.interval, rtol=1e-4, atol=1e-9)
    with pytest.raises(ValueError, match="needs y_score"):
        fairness_verdict(y, decided, **settings)
    with pytest.raises(ValueError, match="probabilities"):
        fairness_verdict(y, decided, y_score=3 * score, **settings)


def test_errors_and_warnings_carry_the_verdict():
    y, p, s = sample(gap=0.3)
    with pytest.raises(FairnessError, match=r"FAIL: equalized odds: gap 0\.3") as failed:
        assert_fair(y, p, sensitive_features=s, bound=0.1)
    assert isinstance(failed.value, AssertionError)
    assert failed.value.verdict.verdict == "fail"
    y, p, s = sample(90)
    with pytest.raises(NotEnoughDataError, match=r"(?s)rows would decide.*there are 90") as few:
        assert_fair(y, p, sensitive_features=s, bound=0.5 * few_bound(y, p, s) + 0.1)
    assert few.value.verdict.training_rows is None
    with pytest.warns(SmallGroupWarning, match="NOT ENOUGH DATA"):
        found = assert_fair(y, p, sensitive_features=s, bound=0.1, on_undecided="warn")
    assert found.verdict == "not enough data"


def test_what_leaves_it_open_is_said_with_its_own_numbers():
    """The least certain rate need not be the one with the largest gap."""
    s = np.repeat(["a", "b"], [600, 600])
    y = np.tile(np.repeat([0, 1], [560, 40]), 2)  # few positives: an uncertain rate
    p = y.copy()
    p[np.r_[0:56, 600:605]] = 1  # false positive rates .1 and .01
    p[np.r_[560:562]] = 0  # true positive rates .95 and 1
    found = fairness_verdict(y, p, sensitive_features=s, bound=0.12)
    assert found.verdict == "not enough data"
    assert found.metric == "true_positive_rate"
    assert found.gap == pytest.approx(51 / 560)
    row = np.flatnonzero(found.gaps["metric"] == found.metric)[0]
    own = " ".join(f"{found.gaps[name][row]:.3g}" for name in ("gap", "low", "high"))
    said = found.message.partition("left open by true positive rate of b above that of a (")[2]
    assert said.partition(")")[0].replace(", between", "").replace(" and", "") == own
    worst = fairness_verdict(y, p, sensitive_features=s, criterion="worst_group")
    assert list(worst.gaps) == ["metric", "group", "error", "low", "high"]
    np.testing.assert_allclose(worst.gaps["error"], [58 / 600, 5 / 600])


def few_bound(y, p, s):
    return fairness_verdict(y, p, sensitive_features=s).gap


def test_a_group_without_rows_that_count_is_no_silent_pass():
    y, p, s = sample(9000)
    y[s == "b"] = 0  # no positives, hence no true positive rate
    found = fairness_verdict(y, p, sensitive_features=s, bound=0.2, criterion="equal_opportunity")
    assert found.verdict == "not enough data"
    assert "b" in found.pair
    assert found.rows_needed == math.inf
    assert np.isnan(found.gaps["gap"]).sum() == 2
    assert found.to_dict()["rows_needed"] is None
    assert "Some group has no row that counts for true_positive_rate" in found.message


def test_the_rows_needed_decide():
    """Drawn anew with that many rows, the decision comes with about its power."""
    rates, bound, decided = [0.4, 0.46], 0.1, 0
    rng = np.random.default_rng(0)
    s = np.tile([0, 1], 150)
    p = (np.arange(300) // 2 < 150 * np.asarray(rates)[s]).astype(int)
    settings = {"bound": bound, "criterion": "demographic_parity"}
    found = fairness_verdict(p, p, sensitive_features=s, **settings)
    assert found.verdict == "not enough data"
    n, repetitions = int(found.rows_needed), 150
    assert n > 300
    for _ in range(repetitions):
        s = np.tile([0, 1], n // 2 + 1)
        p = (rng.random(len(s)) < np.asarray(rates)[s]).astype(int)
        decided += fairness_verdict(p, p, sensitive_features=s, **settings).passed
    assert decided / repetitions > 0.65  # 4 standard errors below 0.8


def test_a_model_names_the_training_rows_that_widen_the_gap():
    rng = np.random.default_rng(0)
    n = 1200
    s = rng.integers(0, 2, n)
    X = np.column_stack([rng.normal(size=n) + 1.5 * s, rng.normal(size=n)])
    y = (X[:, 0] + rng.normal(size=n) > 0.7).astype(int)
    model = wrap(LogisticRegression().fit(X[:400], y[:400]), train=(X[:400], y[:400]))
    settings = {"sensitive_features": s[400:], "criterion": "demographic_parity"}
    found = fairness_verdict(model, X[400:], y[400:], **settings)
    assert found.verdict == "fail"
    effects = FairInfluence(model).fit(X[400:], y[400:], sensitive_features=s[400:]).row_effects_
    np.testing.assert_array_equal(found.training_rows, np.argsort(effects, kind="stable")[:20])
    np.testing.assert_allclose(found.training_effects, np.sort(effects)[:20])
    assert (found.training_effects < 0).all()
    assert str(found.training_rows[0]) in found.message
    assert (
        len(fairness_verdict(model, X[400:], y[400:], training_rows=3, **settings).training_rows)
        == 3
    )
    tree = DecisionTreeClassifier(max_depth=2, random_state=0).fit(X[:400], y[:400])
    for other in (tree, LogisticRegression().fit(X[:400], y[:400])):
        assert fairness_verdict(other, X[400:], y[400:], **settings).training_rows is None
    decided = model.predict(X[400:])
    same = fairness_verdict(y[400:], decided, **settings)
    assert same.interval == found.interval


def test_large_models_are_traced_through_their_last_layer(monkeypatch):
    y, _, s = sample(300)
    X = np.random.default_rng(1).normal(size=(300, 2)) + (s == "c")[:, None] + y[:, None]
    net = MLPClassifier([4], solver="lbfgs", alpha=0.1, max_iter=2000, random_state=0)
    net.fit(X[:150], y[:150])
    model = wrap(net, train=(X[:150], y[:150]))
    data = model, X[150:], y[150:]
    settings = {"sensitive_features": s[150:], "criterion": "demographic_parity", "bound": 0.02}
    last = InfluenceFunctions(model, parameters="last_layer")
    expected = fairness_verdict(*data, influence=last, **settings)
    whole = fairness_verdict(*data, **settings)
    monkeypatch.setattr("trustml.fairness._assert_fair._DIRECT", 0)
    found = fairness_verdict(*data, **settings)
    np.testing.assert_allclose(found.training_effects, expected.training_effects)
    assert not np.allclose(found.training_effects, whole.training_effects)


def test_arrays_of_any_kind():
    y, p, s = sample(gap=0.2)
    one = fairness_verdict(y, p, sensitive_features=s)
    tensors = fairness_verdict(torch.tensor(y), torch.tensor(p), sensitive_features={"s": list(s)})
    frame = pd.DataFrame({"y": y, "p": p, "s": s})
    frames = fairness_verdict(frame["y"], frame["p"], sensitive_features=frame[["s"]])
    assert one.interval == tensors.interval == frames.interval


def test_labels_of_any_kind():
    y, p, s = sample(gap=0.2)
    words = np.array(["no", "yes"])
    one = fairness_verdict(y, p, sensitive_features=s)
    other = fairness_verdict(words[y], words[p], sensitive_features=s, pos_label="yes")
    assert one.interval == other.interval
    assert one.message == other.message
    errors = fairness_verdict(words[y], words[p], sensitive_features=s, criterion="error_parity")
    assert errors.both == {}


def test_bad_arguments_are_named():
    y, p, s = sample(60)
    with pytest.raises(TypeError, match="got 1 arguments by position"):
        fairness_verdict(y, sensitive_features=s)
    with pytest.raises(ValueError, match="criterion must be one of"):
        fairness_verdict(y, p, sensitive_features=s, criterion="parity")
    for bound in (0, -1, math.nan, math.inf, "x"):
        with pytest.raises(ValueError, match="bound must be a positive number"):
            fairness_verdict(y, p, sensitive_features=s, bound=bound)
    with pytest.raises(ValueError, match="on_undecided"):
        assert_fair(y, p, sensitive_features=s, on_undecided="ignore")
    with pytest.raises(TypeError, match="sensitive_features"):
        assert_fair(y, p)
    three, score = np.tile([0, 1, 2], 20), np.full((60, 3), 1 / 3)
    for criterion in ("equalized_odds", "demographic_parity", "predictive_parity", "loss_parity"):
        with pytest.raises(ValueError, match=r"more than two .*pass pos_label="):
            fairness_verdict(
                three, three, sensitive_features=s, criterion=criterion, y_score=score
            )  # fmt: skip
    with pytest.raises(ValueError, match="one group only"):
        fairness_verdict(y, p, sensitive_features=np.zeros(60))
