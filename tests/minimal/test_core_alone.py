"""Without any extra every room works, and what needs one says which."""

import subprocess
import sys
import textwrap

import pytest

OPTIONAL = [
    "IPython", "aif360", "captum", "fairlearn", "foolbox", "jinja2", "mapie", "matplotlib",
    "mlflow", "pandas", "peft", "polars", "pyarrow", "shap", "skops", "skorch", "transformers",
]  # fmt: skip

PREAMBLE = f"""
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {OPTIONAL!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
import numpy as np
import pytest
import trustml
from sklearn.linear_model import LogisticRegression
data = trustml.datasets.digits(random_state=0)
X, y = data.train.X[:200], data.train.y[:200]
Q, yq = data.test.X[:40], data.test.y[:40]
model = trustml.wrap(LogisticRegression(C=0.1).fit(X, y), train=(X, y), bounds=(0, 1))
"""


def run(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-c", PREAMBLE + textwrap.dedent(code)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


ROOMS = {
    "conformal": """
        sets = trustml.conformal.SplitClassifier(model).fit(Q, yq).predict_set(X)
        assert sets.shape == (200, 10)
        """,
    "ood": "assert trustml.ood.Suite(model).fit(X).score(Q).values.shape[0] == 40",
    "robustness": """
        found = trustml.robustness.attack(model, Q, yq, "pgd", eps=0.1)
        assert found.success.shape == (40,)
        """,
    "explain": """
        explanation = trustml.explain.IntegratedGradients(model).attribute(Q, target=0)
        assert explanation.values.shape == Q.shape
        """,
    "influence": """
        scores = trustml.influence.InfluenceFunctions(model).fit().scores(Q, yq)
        assert scores.values.shape == (40, 200)
        """,
    "fairness": """
        groups = np.where(np.arange(40) % 2, "a", "b")
        trustml.fairness.group_metrics(yq > 4, model.predict(Q) > 4, sensitive_features=groups)
        """,
    "audit": """
        report = trustml.audit(
            model, Q, yq, X_cal=data.calibration.X, y_cal=data.calibration.y, checks=["coverage"]
        )
        assert report["coverage"].verdict
        """,
}

NEEDING = {
    "frames": "trustml.ood.Suite(model).fit(X).score(Q).to_frame()",
    "report": "trustml.explain.Saliency(model).attribute(Q, target=0).plot()",
    "explain": "trustml.explain.KernelShap(model, background=X[:5]).attribute(Q[:1], target=0)",
}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_needs_no_extra(room: str) -> None:
    run(ROOMS[room])


@pytest.mark.parametrize("extra", NEEDING)
def test_what_needs_an_extra_names_it(extra: str) -> None:
    run(f"""
        with pytest.raises(ImportError, match=r"trustml\\[{extra}\\]"):
            {NEEDING[extra]}
        """)
