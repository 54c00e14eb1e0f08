"""The fixture ``trustml_audit``, in a test session of its own."""

import json

import pytest

TEST = """
    import numpy as np
    from sklearn.datasets import load_breast_cancer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data = load_breast_cancer()
    order = np.random.default_rng(0).permutation(len(data.target))
    X, y = data.data[order][:, :5], data.target[order]
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X[:300], y[:300])

    def test_model_is_trustworthy(trustml_audit):
        trustml_audit(model, X[300:], y[300:], checks=["calibration"]).assert_passed()

    def test_model_is_perfect(trustml_audit):
        limits = {"calibration": {"max_ece": 1e-6}}
        trustml_audit(model, X[300:], y[300:], checks=limits).assert_passed("warn")

    def test_twice(trustml_audit, tmp_path):
        for _ in range(2):
            trustml_audit(model, X[300:], y[300:], checks=["calibration"])
        assert sorted(p.name for p in tmp_path.iterdir()) == [
            "trustml-report", "trustml-report-2"
        ]
"""


@pytest.fixture
def session(pytester, monkeypatch):
    monkeypatch.setenv("PYTEST_ADDOPTS", "")
    pytester.makepyfile(TEST)
    return pytester


def test_the_fixture_audits_and_a_miss_fails_the_test(session):
    outcome = session.runpytest("-p", "no:cacheprovider")
    outcome.assert_outcomes(passed=2, failed=1)
    outcome.stdout.fnmatch_lines(["*did not pass*", "*not enough data: calibration*"])


def test_reports_are_kept_where_asked(session):
    session.runpytest("-p", "no:cacheprovider", "--trustml-report", "kept", "-k", "trustworthy")
    (folder,) = (session.path / "kept").iterdir()
    assert folder.name.endswith("test_model_is_trustworthy")
    assert sorted(p.name for p in folder.iterdir()) == ["junit.xml", "report.html", "report.json"]
    assert json.loads((folder / "report.json").read_text())["passed"]


def test_without_the_report_extra_the_numbers_are_kept(session, monkeypatch):
    import trustml.pytest_plugin as plugin

    monkeypatch.setattr(plugin, "_HTML_NEEDS", ("no_such_package",))
    session.runpytest("-p", "no:cacheprovider", "--trustml-report", "kept", "-k", "trustworthy")
    (folder,) = (session.path / "kept").iterdir()
    assert sorted(p.name for p in folder.iterdir()) == ["junit.xml", "report.json"]


def test_the_option_is_in_the_help(pytester):
    outcome = pytester.runpytest("--help")
    outcome.stdout.fnmatch_lines(["trustml:", "*--trustml-report=DIR*"])
