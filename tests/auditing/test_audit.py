"""The audit as a whole: from Python, on models of every kind, with every bad input."""

import copy
import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge

import trustml
from trustml.auditing import CHECKS, Calibration, Check, Outcome, Verdict


def test_every_check_runs_on_a_differentiable_model(report):
    assert [r.name for r in report] == list(CHECKS)
    assert report.counts[Verdict.ERROR] == report.counts[Verdict.SKIPPED] == 0
    for result in report:
        assert any(f.verdict is not None for f in result.findings), result.name
        assert result.summary
        assert result.figures


def test_a_verdict_is_that_of_its_worst_finding(report):
    for result in report:
        judged = {f.verdict for f in result.findings} - {None}
        if result.verdict is Verdict.PASS:
            assert judged == {Verdict.PASS}
        else:
            assert result.verdict in judged


def test_a_forest_gets_what_predictions_can_tell_and_reasons_for_the_rest(cancer, forest):
    report = trustml.audit(forest, *cancer.test, sensitive_features=cancer.groups)
    assert {r.name for r in report if r.verdict is Verdict.SKIPPED} == {
        "robustness",
        "explanations",
        "label_errors",
    }
    assert "only predicts" in report["robustness"].summary
    assert report.counts[Verdict.ERROR] == 0
    assert "random half of the test set" in " ".join(report["coverage"].notes)


def test_a_regressor_is_audited_where_it_makes_sense():
    X, y = load_diabetes(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    X, y = X[order], y[order]
    model = trustml.wrap(Ridge(alpha=0.1).fit(X[:200], y[:200]), train=(X[:200], y[:200]))
    report = trustml.audit(
        model,
        X[200:],
        y[200:],
        sensitive_features={"sex": np.where(X[200:, 1] > 0, "a", "b")},
    )
    assert {r.name for r in report if r.verdict is Verdict.SKIPPED} == {"calibration", "robustness"}
    assert report.counts[Verdict.ERROR] == 0
    assert "interval width" in report["coverage"].summary


def test_the_same_seed_gives_the_same_report(cancer, report):
    again = trustml.audit(
        cancer.model,
        *cancer.test,
        X_cal=cancer.cal[0],
        y_cal=cancer.cal[1],
        sensitive_features={"texture": cancer.groups},
        name="cancer",
    )
    first, second = report.to_dict(), again.to_dict()
    first.pop("timing"), second.pop("timing")
    assert json.dumps(first) == json.dumps(second)


def test_nothing_of_the_user_is_changed(cancer):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = torch.nn.Linear(8, 4), torch.nn.Dropout(), torch.nn.Linear(4, 2)
    model = torch.nn.Sequential(*layers).train()
    scaler = cancer.estimator[0]
    train, X = (scaler.transform(part[0]).astype("float32") for part in (cancer.train, cancer.test))
    state, before = copy.deepcopy(model.state_dict()), X.copy()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002 - the global state itself
    torch_state = torch.get_rng_state()
    wrapped = trustml.wrap(model, train=(train, cancer.train[1]))
    report = trustml.audit(wrapped, X, cancer.test[1], sensitive_features=cancer.groups)
    assert report.counts[Verdict.ERROR] == report.counts[Verdict.SKIPPED] == 0
    assert all(part.training for part in model.modules())
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(X, before)


@dataclass(frozen=True)
class Broken(Check):
    name = "broken"
    title = "Broken"
    question = why = fix = "?"

    def run(self, case):
        raise RuntimeError(f"no luck with {case.n} rows")


@dataclass(frozen=True)
class Doubtful(Check):
    name = "doubtful"
    title = "Doubtful"
    question = why = fix = "?"

    def run(self, case):
        import warnings

        for _ in range(2):
            warnings.warn("few rows", trustml.warnings.SmallGroupWarning, stacklevel=1)
        return Outcome("nothing judged", ())


def test_a_crash_is_a_verdict_and_the_others_go_on(cancer):
    report = trustml.audit(cancer.model, *cancer.test, checks=[Broken(), Calibration()])
    assert report["broken"].verdict is Verdict.ERROR
    assert report["broken"].summary == "RuntimeError: no luck with 219 rows"
    assert report["calibration"].verdict is Verdict.PASS
    assert not report.passed
    assert report.exit_code() == 2


def test_our_warnings_become_notes_once(cancer):
    result = trustml.audit(cancer.model, *cancer.test, checks=Doubtful())["doubtful"]
    assert result.notes == ("few rows",)
    assert result.verdict is Verdict.SKIPPED


def test_foreign_warnings_are_passed_on(cancer):
    def noisy(X):
        import warnings

        warnings.warn("from the user's model", UserWarning, stacklevel=1)
        return cancer.estimator.predict_proba(X)

    model = trustml.wrap(noisy, task="classification", class_names=["benign", "malignant"])
    with pytest.warns(UserWarning, match="from the user's model"):
        trustml.audit(model, *cancer.test, checks=["calibration"])


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"checks": ["calibraton"]}, ValueError, "did you mean 'calibration'"),
        ({"checks": {"calibration": {"max_ecc": 0.1}}}, ValueError, "did you mean 'max_ece'"),
        ({"checks": {"calibration": {"max_ece": 3}}}, ValueError, r"max_ece must be .*\[0, 1\]"),
        ({"checks": {"calibration": 0.1}}, ValueError, "table of thresholds"),
        ({"checks": []}, ValueError, "at least one"),
        ({"checks": ["ood", "ood"]}, ValueError, "once"),
        ({"checks": 3}, TypeError, "names, Check objects"),
        ({"checks": [3]}, TypeError, "names or Check objects"),
        ({"level": 1.0}, ValueError, "level"),
        ({"random_state": 0.5}, TypeError, "random_state"),
        ({"random_state": -1}, ValueError, "at least 0"),
        ({"y_test": ["benign"]}, ValueError, "length|rows"),
        ({"y_test": np.array(["green"] * 219)}, ValueError, "green"),
        ({"X_cal": np.zeros((5, 8))}, ValueError, "without y_cal"),
        ({"X_cal": np.zeros((5, 3)), "y_cal": ["benign"] * 5}, ValueError, "X_cal has rows"),
        ({"X_test": torch.utils.data.TensorDataset(torch.ones(2))}, TypeError, "materialise"),
        ({"X_test": np.zeros(219)}, ValueError, "reshape"),
        ({"X_test": np.zeros((0, 8)), "y_test": []}, ValueError, "no rows"),
        ({"sensitive_features": np.zeros(3)}, ValueError, r"expected \(219,\)"),
        ({"sensitive_features": np.arange(219.0)}, ValueError, "bin it"),
        ({"X_ood": {"far": np.zeros((0, 8))}}, ValueError, "X_ood"),
    ],
)
def test_bad_input_names_the_fix(cancer, change, error, text):
    given = {"X_test": cancer.test[0], "y_test": cancer.test[1], "checks": ["calibration"]}
    with pytest.raises(error, match=text):
        trustml.audit(cancer.model, **{**given, **change})


def test_multilabel_models_are_refused():
    model = trustml.wrap(torch.nn.Linear(3, 2), task="multilabel")
    with pytest.raises(ValueError, match="multilabel"):
        trustml.audit(model, np.zeros((4, 3)), np.zeros(4))


@pytest.mark.parametrize("kind", ["array", "tensor", "frame", "list"])
def test_rows_may_be_of_any_kind(cancer, kind):
    pandas = pytest.importorskip("pandas")
    X, y = cancer.test
    rows = {
        "array": X,
        "tensor": torch.as_tensor(X),
        "frame": pandas.DataFrame(X, columns=cancer.names),
        "list": X.tolist(),
    }[kind]
    report = trustml.audit(cancer.estimator, rows, y, checks=["calibration", "coverage", "ood"])
    assert report.counts[Verdict.ERROR] == 0
    assert report["calibration"].verdict is Verdict.PASS


def test_checks_may_be_switched_off(cancer):
    chosen = {"calibration": True, "coverage": False}
    report = trustml.audit(cancer.model, *cancer.test, checks=chosen)
    assert [r.name for r in report] == ["calibration"]
