"""`import trustml` is cheap and drags in no optional package."""

import json
import statistics
import subprocess
import sys

OPTIONAL = {
    "aif360", "captum", "fairlearn", "foolbox", "jinja2", "mapie", "matplotlib", "mlflow", "pandas",
    "peft", "plotly", "polars", "pyarrow", "shap", "skops", "skorch", "transformers", "torchvision",
}  # fmt: skip


def fresh(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_import_is_cheap_beyond_torch() -> None:
    code = (
        "import time, torch; t = time.process_time(); import trustml;"
        "print(time.process_time() - t)"
    )  # fmt: skip
    # CPU seconds, median of three: the promise is 0.3 s.
    assert statistics.median(float(fresh(code)) for _ in range(3)) < 0.3


def test_import_brings_no_area_and_no_scipy() -> None:
    code = "import torch, sys; old = set(sys.modules); import trustml, json;" \
           "print(json.dumps(sorted(set(sys.modules) - old)))"  # fmt: skip
    new = json.loads(fresh(code))
    assert not [name for name in new if name.startswith("trustml.")]
    assert not {name.split(".")[0] for name in new} & (OPTIONAL | {"sklearn", "scipy", "narwhals"})


def test_areas_import_no_optional_package() -> None:
    code = (
        "import sys, json, trustml;"
        "[getattr(trustml, name) for name in trustml.__all__];"
        "import trustml.pytest_plugin, trustml.cli;"
        "print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    )
    assert not set(json.loads(fresh(code))) & (OPTIONAL - {"pandas", "pyarrow"})


def test_pytest_plugin_imports_nothing_heavy() -> None:
    code = "import sys, json, trustml.pytest_plugin; print(json.dumps(sorted(sys.modules)))"
    loaded = {name.split(".")[0] for name in json.loads(fresh(code))}
    assert not loaded & (OPTIONAL | {"torch", "sklearn", "scipy"})
