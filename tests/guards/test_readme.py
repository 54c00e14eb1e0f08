"""The README's Python runs as it stands, and its audit file is one that we read."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from trustml.auditing._config import read_config
from trustml.datasets import diabetes_risk

README = (Path(__file__).parents[2] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.filterwarnings("ignore::trustml.warnings.TrustmlWarning")
def test_the_notebook_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = diabetes_risk(random_state=0)
    low, high = data.train.X.min(0), data.train.X.max(0)

    def scaled(X: np.ndarray) -> np.ndarray:
        return np.clip((X - low) / (high - low), 0, 1)

    X_train, X = scaled(data.train.X), scaled(data.test.X)
    names = {
        "estimator": LogisticRegression().fit(X_train, data.train.y),
        "X_train": X_train, "y_train": data.train.y,
        "X_cal": scaled(data.calibration.X), "y_cal": data.calibration.y,
        "X": X, "y": data.test.y, "sex": data.test.sensitive_features["sex"],
    }  # fmt: skip
    (block,) = (text for text in blocks("python") if "trustml.wrap" in text)
    exec(block, names)
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000


def test_the_engine_block_runs() -> None:
    torch.manual_seed(0)
    names = {
        "torch": torch, "module": torch.nn.Linear(4, 3),
        "X": torch.randn(30, 4), "y": torch.randint(0, 3, (30,)),
        "Xq": torch.randn(5, 4), "yq": torch.randint(0, 3, (5,)),
    }  # fmt: skip
    (block,) = (text for text in blocks("python") if "ihvp.Objective" in text)
    exec(block, names)
    assert bool(names["solution"].converged.all())


def test_the_audit_file_is_read(tmp_path: Path) -> None:
    (block,) = blocks("toml")
    path = tmp_path / "audit.toml"
    path.write_text(block)
    asked = tomllib.loads(block)["checks"]
    read = read_config(path).checks
    assert {name: read[name] for name in asked} == asked
