"""Each check tells a good model from one that is broken in a known way."""

import numpy as np
import pytest
import torch

import trustml
from trustml.auditing import Verdict
from trustml.auditing.checks.calibration import ece_interval
from trustml.conformal import metrics


def only(name, model, X, y, **given):
    """Run one check, its thresholds in `given` by the name of the check."""
    thresholds = {name: given.pop(name, {})}
    return trustml.audit(model, X, y, checks=thresholds, **given)[name]


def probabilities(n, sharpness, seed=0):
    """Binary forecasts and labels: sharpness 1 is calibrated, more is over-confident."""
    generator = np.random.default_rng(seed)
    logit = generator.normal(0, 1.5, n)
    y = (generator.random(n) < 1 / (1 + np.exp(-logit))).astype(int)
    p = 1 / (1 + np.exp(-sharpness * logit))
    return np.stack([1 - p, p], axis=1), y


@pytest.mark.parametrize(
    ("sharpness", "n", "verdict"),
    [(1, 1500, "pass"), (6, 1500, "fail"), (1, 60, "not enough data"), (1, 30, "skipped")],
)
def test_calibration(sharpness, n, verdict):
    P, y = probabilities(n, sharpness)
    model = trustml.precomputed("probabilities")
    assert only("calibration", model, P, y).verdict.value == verdict


@pytest.mark.parametrize("gap", [0.0, 0.15])
def test_the_interval_of_the_calibration_error_covers_it(gap):
    generator = np.random.default_rng(0)
    misses, n = 0, 200
    for seed in range(25):
        p = generator.uniform(0.5, 1, n)
        y = (generator.random(n) < p - gap).astype(int)
        P = np.stack([1 - p, p], axis=1)
        test = metrics.calibration_test(y, P, 10, n_resamples=99, random_state=seed)
        interval = ece_interval(y, P, 10, test, 0.9, seed)
        misses += not interval.contains(gap)
    assert misses / 25 <= 0.1


def test_coverage_holds_on_shuffled_rows_and_fails_after_a_shift(cancer):
    given = {"X_cal": cancer.cal[0], "y_cal": cancer.cal[1]}
    X, y = cancer.test
    assert only("coverage", cancer.model, X, y, **given).verdict is Verdict.PASS
    shifted = X + 0.8 * X.std(0)
    assert only("coverage", cancer.model, shifted, y, **given).verdict is Verdict.FAIL


def test_coverage_fails_for_a_group_that_pays_for_the_others():
    P, y = probabilities(3000, 1.0)
    generator = np.random.default_rng(1)
    group = np.where(generator.random(3000) < 0.15, "few", "many")
    y = np.where((group == "few") & (generator.random(3000) < 0.9), 1 - y, y)
    result = only("coverage", trustml.precomputed("probabilities"), P, y, sensitive_features=group)
    verdicts = {f.name: f.verdict for f in result.findings}
    assert verdicts["coverage, group = few"] is Verdict.FAIL
    assert verdicts["coverage, group = many"] is Verdict.PASS
    assert verdicts["coverage, all rows"] is Verdict.PASS


def test_coverage_of_few_rows_is_not_enough_data(cancer):
    rows = slice(0, 44)
    result = only("coverage", cancer.model, cancer.test[0][rows], cancer.test[1][rows])
    assert result.verdict is Verdict.NOT_ENOUGH_DATA


def test_strange_rows_are_seen_and_stand_ins_are_named(cancer):
    result = only("ood", cancer.model, *cancer.test, X_cal=cancer.cal[0], y_cal=cancer.cal[1])
    assert result.verdict is Verdict.PASS
    assert any("stand in" in note for note in result.notes)
    names = {f.name for f in result.findings}
    assert {"AUROC, noise of 3 sd", "AUROC, shift by 4 sd"} <= names
    assert any("false alarms" in name for name in names)
    assert any("drift" in name for name in names)


def test_the_users_strange_rows_replace_the_stand_ins(cancer):
    far, near = cancer.test[0] * 3, cancer.cal[0][:100]
    result = only("ood", cancer.model, *cancer.test, X_ood={"far": far, "near": near})
    verdicts = {f.name: f.verdict for f in result.findings}
    assert verdicts["AUROC, far"] is Verdict.PASS
    assert verdicts["AUROC, near"] is Verdict.FAIL  # ordinary rows cannot be told apart
    assert not any("stand in" in note for note in result.notes)


def test_drifted_test_rows_fail_the_drift_test_and_raise_false_alarms(cancer):
    given = {"X_cal": cancer.cal[0], "y_cal": cancer.cal[1]}
    X = cancer.test[0] + 1.5 * cancer.test[0].std(0)
    result = only("ood", cancer.model, X, cancer.test[1], **given)
    drift, alarms = result.findings[-1], result.findings[-2]
    assert drift.verdict is Verdict.FAIL
    assert drift.p_value <= 0.01
    assert alarms.verdict is Verdict.FAIL
    assert "drifted" in result.summary


def test_robustness_depends_on_the_budget(cancer):
    small = only("robustness", cancer.model, *cancer.test, robustness={"eps": 0.05})
    large = only("robustness", cancer.model, *cancer.test, robustness={"eps": 3.0})
    assert small.verdict is Verdict.PASS
    assert large.verdict is Verdict.FAIL
    assert small.parameters["unit of eps"] == "standard deviations"


def test_with_bounds_the_budget_is_in_input_units(cancer):
    module = torch.nn.Linear(8, 2)
    model = trustml.wrap(module, task="classification", bounds=(0.0, 3000.0))
    y = (cancer.test[1] == "benign").astype(int)
    result = only("robustness", model, cancer.test[0], y)
    assert result.parameters["unit of eps"] == "input units"
    assert result.parameters["eps"] == pytest.approx(90.0)


def test_the_budget_in_standard_deviations_is_that_of_the_standardised_model(cancer):
    """Attacking the rescaled pipeline equals attacking its last step on standardised rows."""
    scaler, head = cancer.estimator[0], cancer.estimator[-1]
    X, y = cancer.test
    z = (X - X.mean(0)) / X.std(0, ddof=1)
    w = head.coef_[0] * X.std(0, ddof=1) / scaler.scale_
    margin = np.where(y == "malignant", 1, -1) * cancer.estimator.decision_function(X)
    assert z.shape == X.shape
    expected = float((margin > 0.1 * np.abs(w).sum()).mean())
    result = only("robustness", cancer.model, X, y, robustness={"eps": 0.1, "max_rows": 300})
    assert result.findings[0].estimate == pytest.approx(expected, abs=0.006)


def test_fairness_sees_a_gap_that_was_put_in():
    P, y = probabilities(4000, 1.0)
    group = np.where(np.arange(4000) % 2 == 0, "a", "b")
    model = trustml.precomputed("probabilities")
    fair = only("fairness", model, P, y, sensitive_features=group)
    assert fair.verdict is Verdict.PASS
    tilted = P.copy()
    tilted[group == "b"] = [0.95, 0.05]
    unfair = only("fairness", model, tilted, y, sensitive_features=group)
    assert unfair.verdict is Verdict.FAIL
    gap = next(f for f in unfair.findings if "true positive" in f.name)
    assert gap.high < -0.2
    few = only("fairness", model, P[:60], y[:60], sensitive_features=group[:60])
    assert few.verdict is Verdict.NOT_ENOUGH_DATA


def test_fairness_of_several_groups_and_chosen_metrics():
    P, y = probabilities(3000, 1.0)
    group = np.array(["a", "b", "c"])[np.arange(3000) % 3]
    result = only(
        "fairness",
        trustml.precomputed("probabilities"),
        P,
        y,
        sensitive_features={"letter": group, "same": np.repeat("x", 3000)},
        fairness={"metrics": ["selection_rate"]},
    )
    assert result.verdict is Verdict.PASS
    assert [f.name.split(",")[0] for f in result.findings] == ["selection rate"]
    assert any("'same'" in note for note in result.notes)


def test_fairness_without_groups_is_skipped(cancer):
    assert "sensitive_features" in only("fairness", cancer.model, *cancer.test).summary
    same = only("fairness", cancer.model, *cancer.test, sensitive_features=["x"] * 219)
    assert same.verdict is Verdict.SKIPPED


@pytest.mark.parametrize(("flipped", "verdict"), [(0.0, "pass"), (0.2, "fail")])
def test_wrong_labels_are_counted_and_listed(flipped, verdict):
    from sklearn.linear_model import LogisticRegression

    generator = np.random.default_rng(0)
    X = generator.normal(size=(600, 3))
    y = (X @ [4.0, -3.0, 2.0] > 0).astype(int)
    wrong = np.flatnonzero(generator.random(400) < flipped)
    noisy = y[:400].copy()
    noisy[wrong] = 1 - noisy[wrong]
    model = trustml.wrap(LogisticRegression().fit(X[:400], noisy), train=(X[:400], noisy))
    thresholds = {"surprise": 0.2, "max_rate": 0.05}
    result = only("label_errors", model, X[400:], y[400:], label_errors=thresholds)
    assert result.verdict.value == verdict
    if flipped:
        listed = {int(row[0]) for row in result.tables[0].rows}
        assert len(listed & set(wrong.tolist())) >= 10
        assert all(row[-1] < 0 for row in result.tables[1].rows)


def test_label_errors_need_training_rows(cancer):
    result = only("label_errors", cancer.estimator, *cancer.test)
    assert result.verdict is Verdict.SKIPPED
    assert "train=(X, y)" in result.summary


def test_attributions_of_a_linear_model_beat_chance(cancer):
    result = only("explanations", cancer.model, *cancer.test)
    assert result.verdict is Verdict.PASS
    assert result.figures[0].kind == "attribution_bars"


def test_attributions_of_pictures_are_drawn_as_pictures():
    generator = np.random.default_rng(0)
    X = generator.random((80, 1, 6, 6)).astype("float32")
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 3))
    model = trustml.wrap(module, train=(X, np.arange(80) % 3))
    report = trustml.audit(
        model, X, model.predict(X), checks=["explanations", "label_errors", "ood"]
    )
    assert report["explanations"].figures[0].kind == "attribution_images"
    assert report["label_errors"].figures[0].kind == "image_grid"
    assert {"AUROC, gaussian noise", "AUROC, turned by 90 degrees", "AUROC, textures"} <= {
        f.name for f in report["ood"].findings
    }
    assert "<svg" in report.to_html()


@pytest.mark.parametrize(
    ("check", "thresholds", "text"),
    [
        ("calibration", {"n_bins": 1}, "n_bins"),
        ("coverage", {"alpha": 0}, "alpha"),
        ("coverage", {"alpha": 0.6, "tolerance": 0.5}, "below 1"),
        ("ood", {"min_auroc": 2}, "min_auroc"),
        ("ood", {"max_rows": 3}, "max_rows"),
        ("robustness", {"eps": -1}, "eps"),
        ("robustness", {"norm": "l7"}, "norm"),
        ("robustness", {"max_rows": 2.5}, "max_rows"),
        ("explanations", {"deleted": 1.0}, "deleted"),
        ("fairness", {"max_difference": 0}, "max_difference"),
        ("fairness", {"metrics": "accuracy"}, "list of names"),
        ("label_errors", {"surprise": True}, "surprise"),
        ("label_errors", {"top": 0}, "top"),
    ],
)
def test_bad_thresholds_name_themselves(cancer, check, thresholds, text):
    with pytest.raises(ValueError, match=text):
        trustml.audit(cancer.model, *cancer.test, checks={check: thresholds})
