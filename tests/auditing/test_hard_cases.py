"""Models and data that a team brings: text columns, large networks, rare groups, few rows."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

import trustml
from trustml.auditing import Verdict
from trustml.cli import main


def test_a_forest_on_text_columns_with_training_rows():
    pandas = pytest.importorskip("pandas")
    generator = np.random.default_rng(0)
    X = pandas.DataFrame({name: generator.choice(list("uvw"), 300) for name in ("a", "b")})
    y = np.where((X["a"] == "u") ^ (generator.random(300) < 0.1), "yes", "no")
    forest = make_pipeline(OneHotEncoder(), RandomForestClassifier(20, random_state=0))
    forest.fit(X[:100], y[:100])
    model = trustml.wrap(forest, train=(X[:100], y[:100]))
    report = trustml.audit(model, X[100:200], y[100:200], X_cal=X[200:], y_cal=y[200:])
    assert not [result for result in report if result.verdict is Verdict.ERROR]
    assert report["calibration"].findings


def test_a_large_network_is_asked_through_its_last_layer():
    X, y = load_digits(return_X_y=True)
    X, y = torch.tensor(X / 16, dtype=torch.float32), torch.tensor(y)
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)
    )
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(network(X[:400]), y[:400]).backward()
        optimiser.step()
    model = trustml.wrap(network, train=(X[:400], y[:400]))
    report = trustml.audit(model, X[400:600], y[400:600], checks=["label_errors"])
    result = report["label_errors"]
    assert result.verdict is not Verdict.ERROR
    assert any("last layer" in note for note in result.notes)


def test_a_group_of_one_class_is_no_error(cancer):
    X, y = cancer.test
    groups = np.where(np.arange(len(y)) % 2, "a", "b").astype("<U4")
    groups[np.flatnonzero(y == "benign")[:3]] = "rare"
    report = trustml.audit(cancer.model, X, y, sensitive_features=groups, checks=["fairness"])
    assert report["fairness"].verdict is not Verdict.ERROR
    assert any("one class only" in note for note in report["fairness"].notes)


def test_a_report_prints_its_table(report):
    text = repr(report)
    assert "Calibration" in text
    assert len(text) < 10_000


def test_a_folder_that_cannot_be_written_is_refused_first(tmp_path, capsys):
    taken = tmp_path / "file"
    taken.write_text("")
    assert main(["audit", "--example", "diabetes", "--out", str(taken / "x"), "--quiet"]) == 2
    assert "--out" in capsys.readouterr().err
