"""The command line: exit codes, one clear line for a mistake, whole audits from files."""

import json
import subprocess
import sys
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from trustml.cli import main

FILES = ["junit.xml", "report.html", "report.json"]


@pytest.fixture(scope="module")
def cancer():
    data = load_breast_cancer()
    order = np.random.default_rng(0).permutation(len(data.target))
    names = [name.replace(" ", "_") for name in data.feature_names[:6]]
    return SimpleNamespace(X=data.data[order][:, :6], y=data.target[order], names=names)


@pytest.fixture
def project(cancer, tmp_path):
    """A folder with a skops pipeline, CSV data and an audit file."""
    pandas, skops = pytest.importorskip("pandas"), pytest.importorskip("skops.io")
    frame = pandas.DataFrame(cancer.X, columns=cancer.names)
    frame["diagnosis"] = np.array(["malignant", "benign"])[cancer.y]
    frame["site"] = np.where(np.arange(len(frame)) % 2, "left", "right")
    parts = {"train": frame[:200], "cal": frame[200:350], "test": frame[350:]}
    for name, part in parts.items():
        part.to_csv(tmp_path / f"{name}.csv", index=False)
    (parts["test"][cancer.names] * 4).to_csv(tmp_path / "far.csv", index=False)
    train = parts["train"]
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    skops.dump(pipeline.fit(train[cancer.names], train["diagnosis"]), tmp_path / "model.skops")
    (tmp_path / "audit.toml").write_text(
        """
        [model]
        path = "model.skops"
        [data]
        train = "train.csv"
        calibration = "cal.csv"
        test = "test.csv"
        target = "diagnosis"
        sensitive = ["site"]
        [data.ood]
        far = "far.csv"
        [audit]
        name = "cancer"
        [checks.calibration]
        max_ece = 0.2
        [checks.fairness]
        max_difference = 0.4
        """
    )
    return tmp_path


def audit(folder, *arguments):
    return main(["audit", str(folder / "audit.toml"), "--out", str(folder / "out"), *arguments])


def test_a_scikit_learn_model_and_csv_files_end_to_end(project, capsys):
    assert audit(project) == 0
    out = capsys.readouterr().out
    assert "Audit of cancer" in out
    assert sorted(p.name for p in (project / "out").iterdir()) == FILES
    document = json.loads((project / "out" / "report.json").read_text())
    assert document["passed"]
    assert document["verdicts"]["error"] == document["verdicts"]["skipped"] == 0
    assert document["facts"]["training rows"] == 200
    assert document["facts"]["out-of-distribution sets"] == "far"
    check = next(c for c in document["checks"] if c["name"] == "fairness")
    assert check["parameters"]["max_difference"] == 0.4
    suite = ET.parse(project / "out" / "junit.xml").getroot().find("testsuite")
    assert suite.get("tests") == "7"


def test_a_failed_check_exits_with_1(project):
    config = project / "audit.toml"
    config.write_text(config.read_text().replace("max_ece = 0.2", "max_ece = 0.0001"))
    assert audit(project, "--checks", "calibration", "--quiet") == 2  # nothing could be judged
    text = (project / "out" / "report.json").read_text()
    assert json.loads(text)["checks"][0]["verdict"] == "not enough data"
    assert audit(project, "--checks", "calibration", "--quiet", "--fail-on", "warn") == 1
    config.write_text(config.read_text() + "[checks.robustness]\neps = 5.0\n")
    assert audit(project, "--checks", "robustness,ood", "--quiet") == 1


def test_a_broken_check_exits_with_2_and_still_reports(project, monkeypatch):
    from trustml.auditing import Calibration

    def broken(self, case):
        raise RuntimeError("no luck")

    monkeypatch.setattr(Calibration, "run", broken)
    assert audit(project, "--checks", "calibration,fairness", "--quiet") == 2
    checks = json.loads((project / "out" / "report.json").read_text())["checks"]
    assert [c["verdict"] for c in checks] == ["error", "pass"]
    assert checks[0]["summary"] == "RuntimeError: no luck"


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("[model]", "[modell]", "did you mean 'model'"),
        ("test.csv", "tset.csv", "there is no file"),
        ("max_ece = 0.2", "max_ece = 7", "max_ece must be a number in [0, 1], got 7"),
        ("max_ece = 0.2", "max_ecee = 0.2", "did you mean 'max_ece'"),
        ('target = "diagnosis"', 'target = "diagnoses"', "did you mean 'diagnosis'"),
        ("model.skops", "test.csv", "unknown ending"),
        ('name = "cancer"', "level = 2", "level"),
        ('name = "cancer"', 'fail_on = "never"', "fail_on"),
        ('name = "cancer"', 'random_state = "x"', "random_state"),
        ('path = "model.skops"', 'path = "model.skops"\nbounds = [5, 1]', "low < high"),
        ('sensitive = ["site"]', 'sensitive = ["mean_radius"]', "bin it"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(project, capsys, old, new, text):
    config = project / "audit.toml"
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new))
    assert audit(project, "--quiet") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("trustml: error: ")
    assert captured.err.count("\n") == 1
    assert text in captured.err
    assert not (project / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["audit"], "required"),
        (["audit", "--example", "iris"], "invalid choice"),
        (["audit", "nowhere.toml", "--quiet"], "no file nowhere.toml"),
        (["audit", "--example", "digits", "--checks", "fairnes", "--quiet"], "'fairness'"),
        (["audits"], "invalid choice"),
        ([], "required"),
    ],
)
def test_bad_arguments_exit_with_2(arguments, text, capsys):
    assert main(arguments) == 2
    assert text in capsys.readouterr().err


def test_traceback_shows_where(tmp_path):
    with pytest.raises(ValueError, match="no file"):
        main(["audit", str(tmp_path / "none.toml"), "--traceback", "--quiet"])


def test_an_exported_network_and_npz_files(cancer, tmp_path):
    z = ((cancer.X - cancer.X.mean(0)) / cancer.X.std(0)).astype("float32")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    x, y = torch.as_tensor(z[:250]), torch.as_tensor(cancer.y[:250])
    adam = torch.optim.Adam(module.parameters(), lr=0.02)
    for _ in range(150):
        adam.zero_grad()
        torch.nn.functional.cross_entropy(module(x), y).backward()
        adam.step()
    batch = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(module.eval(), (x[:4],), dynamic_shapes=batch)
    torch.export.save(program, tmp_path / "net.pt2")
    np.savez(tmp_path / "d.npz", X_train=z[:250], y_train=y, X_test=z[250:], y_test=cancer.y[250:])
    (tmp_path / "audit.toml").write_text(
        """
        [model]
        path = "net.pt2"
        class_names = ["malignant", "benign"]
        bounds = [-10, 10]
        [data]
        train = "d.npz"
        test = "d.npz"
        [audit]
        fail_on = "fail"
        checks = ["calibration", "coverage", "ood", "robustness", "explanations"]
        """
    )
    code = audit(tmp_path, "--quiet", "--random-state", "3")
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    assert code in (0, 1)
    assert document["parameters"]["random_state"] == 3
    assert document["verdicts"]["skipped"] == document["verdicts"]["error"] == 0


def test_a_function_that_returns_a_wrapped_model(cancer, tmp_path, capsys):
    (tmp_path / "audited_model.py").write_text(
        "import numpy as np, trustml\n"
        "from sklearn.linear_model import LogisticRegression\n"
        "def build():\n"
        "    d = np.load(__file__.replace('audited_model.py', 'd.npz'))\n"
        "    fitted = LogisticRegression(max_iter=5000).fit(d['X'][:300], d['y'][:300])\n"
        "    return trustml.wrap(fitted, train=(d['X'][:300], d['y'][:300]))\n"
    )
    np.savez(tmp_path / "d.npz", X=cancer.X, y=cancer.y)
    np.savez(tmp_path / "t.npz", X=cancer.X[300:], y=cancer.y[300:])
    config = tmp_path / "audit.toml"
    text = '[model]\nload = "audited_model:build"\n[data]\ntest = "t.npz"\n'
    config.write_text(text)
    assert audit(tmp_path, "--quiet", "--checks", "calibration,label_errors") in (0, 1)
    config.write_text(text + 'train = "d.npz"\n')
    assert audit(tmp_path, "--quiet") == 2
    assert "returns a wrapped Model" in capsys.readouterr().err


def test_pickles_need_the_flag(cancer, tmp_path, capsys):
    import joblib

    joblib.dump(LogisticRegression(max_iter=5000).fit(cancer.X, cancer.y), tmp_path / "m.joblib")
    np.savez(tmp_path / "t.npz", X=cancer.X, y=cancer.y)
    (tmp_path / "audit.toml").write_text(
        '[model]\npath = "m.joblib"\n[data]\ntest = "t.npz"\n[audit]\nchecks = ["calibration"]\n'
    )
    assert audit(tmp_path, "--quiet") == 2
    assert "--allow-pickle" in capsys.readouterr().err
    assert audit(tmp_path, "--quiet", "--allow-pickle") == 0


def test_the_diabetes_example(tmp_path, capsys):
    out = tmp_path / "report"
    assert main(["audit", "--example", "diabetes", "--out", str(out)]) in (0, 1)
    captured = capsys.readouterr()
    assert "trustml audit" in captured.err
    assert str(out) in captured.out
    document = json.loads((out / "report.json").read_text())
    assert document["verdicts"]["error"] == document["verdicts"]["skipped"] == 0
    assert document["facts"]["sensitive features"] == "sex, age_group"
    notes = [note for check in document["checks"] for note in check["notes"]]
    assert any("stand in" in note for note in notes)
    assert "One uncertain row" in (out / "report.html").read_text()


def test_the_digits_example_in_part(tmp_path, monkeypatch):
    from trustml.auditing import examples

    monkeypatch.setattr(examples, "_EPOCHS", 4)
    monkeypatch.setattr(examples, "_POLISH", 1)
    chosen = "calibration,ood,explanations"
    code = main(["audit", "--example", "digits", "--out", str(tmp_path), "--checks", chosen])
    assert code in (0, 1)
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["verdicts"]["error"] == document["verdicts"]["skipped"] == 0
    sets = document["facts"]["out-of-distribution sets"]
    assert sets == "noisy digits, turned digits, foreign pictures"
    assert "data:image/png;base64" in (tmp_path / "report.html").read_text()


def test_info_lists_versions_devices_and_extras(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for word in ("trustml", "torch", "cpu", "report", "matplotlib", "fairness"):
        assert word in out


def test_version(capsys):
    import trustml

    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"trustml {trustml.__version__}"


def test_python_m_trustml_is_the_same_command():
    run = subprocess.run(
        [sys.executable, "-m", "trustml", "audit", "nowhere.toml", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert run.stderr == (
        "trustml: error: there is no file nowhere.toml; name an audit file (see the guide), or use "
        "--example digits\n"
    )


def test_the_command_line_imports_nothing_heavy():
    code = "import sys, trustml.cli, trustml.pytest_plugin; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
