"""Controllers of risk: their choices equal their definitions, and bad input is named."""

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_multilabel_classification
from sklearn.exceptions import NotFittedError
from sklearn.neural_network import MLPClassifier

import trustml
from trustml.conformal import (
    ConformalRiskControl,
    ErrorRate,
    FairnessViolation,
    LearnThenTest,
    Miscoverage,
    RiskControllingPredictionSets,
    SplitClassifier,
)
from trustml.evidence import clopper_pearson, holm, mean_pvalue, mean_upper_bound
from trustml.warnings import CoverageWarning

CONTROLLERS = [ConformalRiskControl, LearnThenTest, RiskControllingPredictionSets]
controllers = pytest.mark.parametrize("kind", CONTROLLERS, ids=lambda c: c.__name__)


def multilabel(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.random((n, 6)) < 0.3
    return np.clip(0.4 * y + 0.6 * rng.random((n, 6)), 0, 1), y


def rising(n: int, m: int, seed: int = 0) -> np.ndarray:
    """Losses of n rows at m parameters, none of which falls."""
    return np.sort(np.random.default_rng(seed).beta(0.5, 2, size=(n, m)), axis=1)


@controllers
def test_manners(kind: type) -> None:
    scores, y = multilabel(300)
    before = scores.copy()
    controller = kind(risk="false-negative-rate", alpha=0.2)
    with pytest.raises(NotFittedError):
        controller.predict(scores)
    assert controller.fit(scores, y) is controller
    assert clone(controller).get_params() == controller.get_params()
    assert all(n.endswith("_") for n in vars(controller) if n not in controller.get_params())
    sets = controller.predict(scores)
    assert sets.dtype == bool
    np.testing.assert_array_equal(sets, scores >= controller.parameter_)
    alone = np.concatenate([controller.predict(scores[i : i + 1]) for i in range(5)])
    np.testing.assert_array_equal(alone, sets[:5])
    tensors = kind(risk="false-negative-rate", alpha=0.2).fit(
        torch.from_numpy(scores), torch.from_numpy(y)
    )
    assert isinstance(tensors.predict(torch.from_numpy(scores)), torch.Tensor)
    assert tensors.parameter_ == controller.parameter_
    np.testing.assert_array_equal(scores, before)
    shorter = controller.fit(scores[:150], y[:150]).parameter_
    fresh = kind(risk="false-negative-rate", alpha=0.2).fit(scores[:150], y[:150])
    assert shorter == fresh.parameter_


@controllers
def test_a_loss_table_is_the_same_as_its_scores(kind: type) -> None:
    scores, y = multilabel(300)
    by_scores = kind(risk="false-negative-rate", alpha=0.2).fit(scores, y)
    table = 1 - np.stack(
        [(y & (scores >= t)).sum(1) / np.maximum(y.sum(1), 1) for t in by_scores.grid_], axis=1
    )
    table[~y.any(axis=1)] = 0
    by_losses = kind(alpha=0.2, grid=by_scores.grid_).fit_losses(table)
    assert by_losses.parameter_ == by_scores.parameter_
    np.testing.assert_allclose(by_losses.risk_, by_scores.risk_, atol=1e-14)
    assert kind(alpha=0.2).fit_losses(table).index_ == by_scores.index_
    with pytest.raises(TypeError, match="use fit"):
        by_losses.predict(scores)


@controllers
def test_losses_in_another_unit(kind: type) -> None:
    table = rising(200, 9)
    one = kind(alpha=0.25).fit_losses(table)
    seven = kind(alpha=0.25 * 7, bound=7.0).fit_losses(table * 7)
    assert one.index_ == seven.index_ is not None


@controllers
def test_a_safer_level_never_takes_a_bolder_parameter(kind: type) -> None:
    table = rising(200, 30)
    chosen = [kind(alpha=a).fit_losses(table).index_ for a in (0.15, 0.2, 0.3, 0.6)]
    assert chosen == sorted(chosen)
    assert chosen[0] < chosen[-1]


@controllers
def test_the_model_gives_the_scores(kind: type) -> None:
    X, y = make_multilabel_classification(700, n_features=12, n_classes=4, random_state=0)
    model = trustml.wrap(
        MLPClassifier((8,), max_iter=25, random_state=0, tol=1).fit(X[:300], y[:300])
    )
    assert model.task == "multilabel"
    controller = kind(model, "false-negative-rate", 0.2).fit(X[300:], y[300:])
    scores = model.predict_proba(X[300:])
    assert (
        controller.parameter_
        == kind(None, "false-negative-rate", 0.2).fit(scores, y[300:]).parameter_
    )
    np.testing.assert_array_equal(controller.predict(X[300:]), scores >= controller.parameter_)


@controllers
def test_masks_are_labels_of_pixels(kind: type) -> None:
    rng = np.random.default_rng(0)
    y = rng.random((150, 5, 4)) < 0.4
    scores = 0.5 * y + 0.5 * rng.random((150, 5, 4))
    masks = kind(risk="false-negative-rate", alpha=0.2).fit(scores, y)
    flat = kind(risk="false-negative-rate", alpha=0.2).fit(
        scores.reshape(150, -1), y.reshape(150, -1)
    )
    assert masks.parameter_ == flat.parameter_
    assert masks.predict(scores).shape == (150, 5, 4)


@controllers
def test_a_function_is_a_risk(kind: type) -> None:
    rng = np.random.default_rng(0)
    centre, y = rng.normal(size=200), rng.normal(size=200)

    def far(outputs: np.ndarray, y: np.ndarray, half: float) -> np.ndarray:
        return np.abs(outputs - y) > half

    grid = np.linspace(6, 0, 61)
    controller = kind(risk=far, alpha=0.2, grid=grid).fit(centre, y)
    np.testing.assert_array_equal(
        controller.risk_, [(np.abs(centre - y) > half).mean() for half in grid]
    )
    assert 0 < controller.parameter_ < 6
    with pytest.raises(TypeError, match="Risk with losses and decide"):
        controller.predict(centre)


def test_conformal_risk_control_of_miscoverage_is_split_conformal() -> None:
    rng = np.random.default_rng(0)
    for n, alpha in ((9, 0.1), (40, 0.3), (99, 0.1), (157, 0.05)):
        p = rng.dirichlet(np.ones(4), size=n + 200)
        y = (p.cumsum(axis=1) < rng.random((n + 200, 1))).sum(axis=1)
        split = SplitClassifier(trustml.precomputed("probabilities")).fit(p[:n], y[:n])
        grid = np.sort(p[np.arange(n), y[:n]])
        crc = ConformalRiskControl(risk=Miscoverage(), alpha=alpha, grid=grid).fit(p[:n], y[:n])
        np.testing.assert_array_equal(crc.predict(p[n:]), split.predict_set(p[n:], alpha))


def test_conformal_risk_control_meets_its_limit_exactly() -> None:
    # (2 + 1) / 30 is 1/10: in floats the product 0.1 * 30 - 1 may fall short of 2.
    table = np.zeros((29, 3))
    table[:2, 1], table[:3, 2] = 1, 1
    assert ConformalRiskControl(alpha=0.1).fit_losses(table).index_ == 1
    table = table * 0.7
    assert ConformalRiskControl(alpha=0.07, bound=0.7).fit_losses(table).index_ == 1


def test_falling_losses_are_refused_or_raised_with_a_notice() -> None:
    table = rising(100, 12)
    table[:3, 5] = 0
    with pytest.raises(ValueError, match=r"3 of 100 rows fall.*monotonize"):
        ConformalRiskControl(alpha=0.3).fit_losses(table)
    with pytest.warns(CoverageWarning, match="3 of 100 rows fall"):
        crc = ConformalRiskControl(alpha=0.3, monotonize=True).fit_losses(table)
    highest = np.maximum.accumulate(table, axis=1)
    assert crc.index_ == ConformalRiskControl(alpha=0.3).fit_losses(highest).index_
    with pytest.raises(ValueError, match="from the safest"):
        ConformalRiskControl(alpha=0.3).fit_losses(rising(100, 12)[:, ::-1])


@pytest.mark.parametrize("test", ["wsr", "hoeffding-bentkus", "empirical-bernstein"])
def test_rcps_walks_while_the_bound_is_below_alpha(test: str) -> None:
    table = rising(400, 40)
    rcps = RiskControllingPredictionSets(alpha=0.25, delta=0.05, test=test).fit_losses(table)
    upper = mean_upper_bound(table, 0.05, test)
    np.testing.assert_array_equal(rcps.upper_bounds_, upper)
    assert (upper[: rcps.index_ + 1] < 0.25).all()
    assert upper[rcps.index_ + 1] >= 0.25
    walk = LearnThenTest(alpha=0.25, delta=0.05, test=test, method="fixed-sequence")
    assert walk.fit_losses(table).index_ == rcps.index_


def test_a_bold_parameter_behind_a_bad_one_is_not_taken() -> None:
    table = np.zeros((300, 5))
    table[:, 2] = 1
    rcps = RiskControllingPredictionSets().fit_losses(table)
    assert rcps.index_ == 1
    assert LearnThenTest(method="fixed-sequence").fit_losses(table).index_ == 1
    assert LearnThenTest(method="fixed-sequence", starts=2).fit_losses(table).index_ == 1
    assert LearnThenTest(method="fixed-sequence", starts=5).fit_losses(table).index_ == 4
    for method in ("holm", "bonferroni"):
        ltt = LearnThenTest(method=method).fit_losses(table)
        assert ltt.valid_.tolist() == [True, True, False, True, True]


def test_several_risks_are_controlled_at_once() -> None:
    scores, y = multilabel(800)
    risks = ["false-negative-rate", "false-discovery-rate"]
    ltt = LearnThenTest(risk=risks, alpha=[0.3, 0.25]).fit(scores, y)
    singles = [
        LearnThenTest(risk=r, alpha=a, grid=ltt.grid_, method="holm").fit(scores, y)
        for r, a in zip(risks, (0.3, 0.25), strict=True)
    ]
    largest = np.maximum(singles[0].p_values_, singles[1].p_values_)
    np.testing.assert_array_equal(ltt.p_values_, largest)
    np.testing.assert_array_equal(ltt.risk_, [s.risk_ for s in singles])
    np.testing.assert_array_equal(ltt.valid_, holm(largest, 0.1))
    assert 0 < ltt.valid_.sum() < 101
    assert (ltt.risk_[:, ltt.valid_] < [[0.3], [0.25]]).all()


def test_the_objective_chooses_among_the_valid() -> None:
    table = rising(500, 10)
    free = LearnThenTest(alpha=0.3).fit_losses(table)
    assert free.index_ == np.flatnonzero(free.valid_).max() > 2
    costs = (np.arange(10) - 2.2) ** 2
    assert LearnThenTest(alpha=0.3, objective=costs).fit_losses(table).index_ == 2
    named = LearnThenTest(alpha=0.3, grid=list("abcdefghij"), objective=lambda x: ord(x))
    assert named.fit_losses(table).parameter_ == "a"
    pairs = [(i, -i) for i in range(10)]
    assert LearnThenTest(alpha=0.3, grid=pairs).fit_losses(table).parameter_ == pairs[free.index_]


def test_abstention_is_judged_on_answered_rows_alone() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(4, 0.4), size=1500)
    y = (p.cumsum(axis=1) < rng.random((1500, 1))).sum(axis=1)
    ltt = LearnThenTest(risk="selective-error", alpha=0.2).fit(p, y)
    for k in (40, 70, 90):
        answered = p.max(axis=1) >= ltt.grid_[k]
        wrong = (p.argmax(axis=1) != y)[answered].astype(float)
        assert ltt.risk_[k] == wrong.mean()
        assert ltt.p_values_[k] == mean_pvalue(wrong, 0.2, "clopper-pearson")
    decided = ltt.predict(p)
    answered = decided >= 0
    np.testing.assert_array_equal(answered, p.max(axis=1) >= ltt.parameter_)
    np.testing.assert_array_equal(decided[answered], p.argmax(axis=1)[answered])
    assert 0.2 < answered.mean() < 1
    upper = clopper_pearson(
        round(ltt.risk_[ltt.index_] * answered.sum()), answered.sum(), side="upper"
    )
    assert upper.high < 0.2


RATES = ["all", "false-positive", "false-negative", "false-discovery", "false-omission"]


@pytest.mark.parametrize("rate", RATES)
def test_error_rates_are_those_of_the_confusion_matrix(rate: str) -> None:
    rng = np.random.default_rng(2)
    y = rng.random(2000) < 0.4
    scores = np.clip(0.5 * y + 0.5 * rng.random(2000), 0, 1)
    ltt = LearnThenTest(risk=ErrorRate(rate), alpha=0.2).fit(scores, y)
    for k in (20, 50, 80):
        chosen = scores >= ltt.grid_[k]
        counted = {"all": np.ones(2000, bool), "false-positive": ~y, "false-negative": y,
                   "false-discovery": chosen, "false-omission": ~chosen}[rate]  # fmt: skip
        wrong = (chosen != y)[counted].astype(float)
        assert ltt.risk_[k] == (pytest.approx(wrong.mean()) if len(wrong) else math.nan)
        if len(wrong):
            assert ltt.p_values_[k] == mean_pvalue(wrong, 0.2, "clopper-pearson")
    assert 0 < ltt.valid_.sum() < 101
    assert (ltt.risk_[ltt.valid_] < 0.2).all()
    np.testing.assert_array_equal(ltt.predict(scores), scores >= ltt.parameter_)
    both = LearnThenTest(risk=ErrorRate(rate), alpha=0.2)
    both.fit(np.stack([1 - scores, scores], axis=1), y)
    np.testing.assert_array_equal(both.p_values_, ltt.p_values_)


def test_precision_and_recall_at_once() -> None:
    rng = np.random.default_rng(3)
    y = rng.random(3000) < 0.4
    scores = np.clip(0.5 * y + 0.6 * rng.random(3000), 0, 1)
    risks = [ErrorRate("false-discovery"), ErrorRate("false-negative")]
    ltt = LearnThenTest(risk=risks, alpha=[0.15, 0.2]).fit(scores, y)
    assert ltt.certified_
    chosen = ltt.predict(scores)
    assert (~y[chosen]).mean() < 0.15
    assert (~chosen[y]).mean() < 0.2
    with pytest.raises(ValueError, match="zeros and ones"):
        ltt.fit(scores, y + 1)
    with pytest.raises(ValueError, match="two classes"):
        ltt.fit(np.ones((3000, 3)), y)
    with pytest.raises(ValueError, match="rate"):
        ErrorRate("recall")


@pytest.mark.parametrize("rate", ["selection", "true-positive", "false-positive"])
def test_groups_are_treated_alike(rate: str) -> None:
    rng = np.random.default_rng(1)
    group = rng.choice(["a", "b", "c"], size=3000)
    y = rng.random(3000) < 0.5
    scores = np.clip(0.3 * y + 0.5 * rng.random(3000) + 0.2 * (group == "a"), 0, 1)
    ltt = LearnThenTest(risk=FairnessViolation(rate), alpha=0.2)
    ltt.fit(scores, y, sensitive_features=group)
    counted = {"selection": np.ones(3000, bool), "true-positive": y, "false-positive": ~y}[rate]
    rates = [[(scores[counted & (group == g)] >= t).mean() for g in "abc"] for t in ltt.grid_]
    np.testing.assert_allclose(ltt.risk_, np.ptp(rates, axis=1), atol=1e-12)
    assert 0 < ltt.valid_.sum() < 101
    assert (ltt.risk_[ltt.valid_] < 0.2).all()
    both = LearnThenTest(risk=FairnessViolation(rate), alpha=0.2)
    both.fit(np.stack([1 - scores, scores], axis=1), y, sensitive_features=group)
    np.testing.assert_array_equal(both.p_values_, ltt.p_values_)
    selected = ltt.predict(scores)
    assert selected.dtype == bool
    assert selected.shape == (3000,)


@controllers
def test_no_valid_parameter_is_said_and_the_safe_answer_taken(kind: type) -> None:
    scores, y = multilabel(6)
    with pytest.warns(CoverageWarning, match="no parameter.*0 for certain"):
        controller = kind(risk="false-negative-rate", alpha=0.05).fit(scores, y)
    assert (controller.index_, controller.certified_) == (None, False)
    assert controller.parameter_ == -math.inf
    assert controller.predict(scores).all()
    with pytest.warns(CoverageWarning, match="parameter_ is None"):
        unsafe = kind(alpha=0.1).fit_losses(np.full((50, 4), 0.9))
    assert (unsafe.index_, unsafe.parameter_, unsafe.certified_) == (None, None, False)


def test_no_safe_answer_to_two_risks_that_pull_apart() -> None:
    scores, y = multilabel(6)
    risks = ["false-negative-rate", "false-discovery-rate"]
    with pytest.warns(CoverageWarning, match="predict refuses"):
        ltt = LearnThenTest(risk=risks).fit(scores, y)
    with pytest.raises(ValueError, match="none is safe for certain"):
        ltt.predict(scores)


def test_abstains_where_nothing_is_shown() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(3), size=30)
    with pytest.warns(CoverageWarning, match="inf"):
        ltt = LearnThenTest(risk="selective-error", alpha=0.01).fit(p, np.zeros(30, dtype=int))
    assert (ltt.predict(p) == -1).all()
    fair = LearnThenTest(risk="fairness-violation", alpha=0.1)
    with pytest.warns(CoverageWarning, match="inf"):
        fair.fit(p[:, 0], np.ones(30), sensitive_features=np.arange(30) % 2)
    assert not fair.predict(p[:, 0]).any()


@controllers
@pytest.mark.parametrize(
    ("losses", "text"),
    [(np.full((9, 3), 1.5), "bound="), (np.full((9, 3), -0.1), r"\[0, 1\]"),
     (np.full((9, 3), np.nan), "nan in row 0"), (np.zeros((0, 3)), "non-empty"),
     (np.zeros((3, 0)), "non-empty"), (np.zeros(4), "table"), ([], "non-empty")],
)  # fmt: skip
def test_bad_losses(kind: type, losses: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        kind().fit_losses(losses)


@controllers
@pytest.mark.parametrize(
    ("change", "error", "text"),
    [({"grid": []}, ValueError, "grid is empty"), ({"grid": [0.1, np.nan]}, ValueError, "NaN"),
     ({"alpha": 0.0}, ValueError, "alpha"), ({"alpha": 1.0}, ValueError, "alpha"),
     ({"risk": "recall"}, ValueError, "false-negative-rate"), ({"risk": 3}, TypeError, "risk"),
     ({"risk": Miscoverage}, TypeError, "brackets"), ({"risk": len}, ValueError, "needs grid="),
     ({"risk": lambda o, y, t: o, "grid": [0.5]}, ValueError, "shape"),
     ({"risk": lambda o, y, t: o[:, 0] * np.nan, "grid": [0.5]}, ValueError, "nan in row 0"),
     ({"risk": lambda o, y, t: o[:, 0] + 3, "grid": [0.5]}, ValueError, "bound="),
     ({"risk": "miscoverage"}, ValueError, "true columns")],
)  # fmt: skip
def test_bad_arguments(kind: type, change: dict, error: type, text: str) -> None:
    scores, y = multilabel(20)
    with pytest.raises(error, match=text):
        kind(**({"risk": "false-negative-rate"} | change)).fit(scores, y)


@controllers
def test_bad_rows(kind: type) -> None:
    scores, y = multilabel(20)
    controller = kind(risk="false-negative-rate")
    for rows, truth, text in (
        (scores * np.nan, y, "NaN"), (scores[:0], y[:0], "no rows"), (scores, y[:5], "length"),
        (scores, y * 2, "zeros and ones"), (scores, y[:, :3], "same shape"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            controller.fit(rows, truth)
    with pytest.raises(ValueError, match="one column for each of the 3"):
        kind(grid=[1, 2, 3]).fit_losses(np.zeros((9, 4)))
    with pytest.raises(ValueError, match=r"columns 0\.\.5"):
        kind().fit(scores, np.full(20, 6))


def test_bad_settings() -> None:
    table = rising(50, 5)
    for change, text in (
        ({"delta": 1.0}, "delta"), ({"method": "hochberg"}, "method"), ({"test": "t"}, "test must"),
        ({"alpha": [0.1, 0.2]}, "each of 1 risks"), ({"method": "holm", "starts": 2}, "starts"),
        ({"objective": [1, 2]}, "objective"), ({"starts": 9}, "starts"), ({"starts": 0}, "starts"),
        ({"objective": [np.nan] * 5}, "finite"), ({"test": "clopper-pearson"}, "0 or 1"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            LearnThenTest(**change).fit_losses(table)
    with pytest.raises(ValueError, match="delta"):
        RiskControllingPredictionSets(delta=0).fit_losses(table)
    with pytest.raises(ValueError, match="empty list"):
        LearnThenTest(risk=[]).fit(table, table)
    with pytest.raises(ValueError, match="rate"):
        FairnessViolation("recall")


def test_bad_groups() -> None:
    scores, y = np.linspace(0, 1, 20), np.arange(20) % 2
    fair = LearnThenTest(risk=FairnessViolation("true-positive"))
    for given, text in (
        (None, "sensitive_features="), (np.zeros(20), "two groups"), (np.zeros(3), "shape"),
        (y, "no calibration rows"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            fair.fit(scores, y, sensitive_features=given)
    for kind in (RiskControllingPredictionSets, ConformalRiskControl):
        for risk, X, truth in (
            ("fairness-violation", scores, y), ("selective-error", np.eye(20), np.arange(20)),
        ):  # fmt: skip
            controller = kind(risk=risk, grid=[1.5, 0.5])
            with pytest.raises(ValueError, match="use LearnThenTest"):
                controller.fit(X, truth, sensitive_features=y)


def test_nothing_is_said_when_all_is_well() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in CONTROLLERS:
            assert kind(alpha=0.4).fit_losses(rising(300, 8)).certified_


@controllers
@pytest.mark.parametrize("alpha", [[0.1, 0.2], "0.1", True, None, 0.0, 1.0, float("nan")])
def test_a_level_is_one_number_below_the_bound(kind: type, alpha: object) -> None:
    with pytest.raises((TypeError, ValueError), match="alpha must be"):
        kind(alpha=alpha).fit_losses(rising(50, 3))


def test_bad_tests_and_confidence_are_named() -> None:
    for kind in (LearnThenTest, RiskControllingPredictionSets):
        with pytest.raises(ValueError, match="test must be one of 'auto'"):
            kind(test="student").fit_losses(rising(50, 3))
        with pytest.raises(TypeError, match="delta must be one number"):
            kind(delta="0.1").fit_losses(rising(50, 3))
