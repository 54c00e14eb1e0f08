"""Models from files: what is safe is read, what would run code is refused."""

import io
import pickle
import sys
import zipfile

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

import trustml
from trustml.auditing._config import ConfigError, read_config
from trustml.auditing._exported import is_arithmetic, load_exported
from trustml.auditing._load import load_estimator

X = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
Y = (X[:, 0] > 0).astype(int)


def config(folder, model):
    (folder / "audit.toml").write_text(f'[model]\n{model}\n[data]\ntest = "t.npz"\n')
    return read_config(folder / "audit.toml")


def export(module, path, batch=True):
    x = (torch.zeros(4, *module.row),)
    shapes = ({0: torch.export.Dim.DYNAMIC},) if batch else None
    torch.export.save(torch.export.export(module, x, dynamic_shapes=shapes), path)


@pytest.fixture
def network():
    module = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(8, 3, bias=False),
    ).eval()
    module.row = (1, 4, 4)
    return module


def test_a_function_is_found_beside_the_audit_file(tmp_path):
    (tmp_path / "my_model_for_audit.py").write_text(
        "from sklearn.dummy import DummyClassifier\n"
        "def build():\n    return DummyClassifier().fit([[0], [1]], [0, 1])\n"
        "def broken():\n    raise RuntimeError('no weights')\n"
    )
    before = list(sys.path)
    loaded = load_estimator(config(tmp_path, 'load = "my_model_for_audit:build"'))
    assert type(loaded).__name__ == "DummyClassifier"
    assert sys.path == before
    for target, message in (
        ("my_model_for_audit:make", "no function 'make'"),
        ("my_model_for_audit:broken", "RuntimeError: no weights"),
        ("not_a_module_at_all:f", "cannot import"),
        ("my_model_for_audit.build", "package.module:function"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_estimator(config(tmp_path, f'load = "{target}"'))


def test_skops_files_are_read_and_untrusted_types_refused(tmp_path):
    skops = pytest.importorskip("skops.io")
    from sklearn.preprocessing import FunctionTransformer

    skops.dump(LogisticRegression().fit(X, Y), tmp_path / "good.skops")
    loaded = load_estimator(config(tmp_path, 'path = "good.skops"'))
    assert isinstance(loaded, LogisticRegression)
    skops.dump(FunctionTransformer(np.linalg.norm), tmp_path / "odd.skops")
    unknown = skops.get_untrusted_types(file=tmp_path / "odd.skops")
    assert unknown
    with pytest.raises(ConfigError, match="trusted_types = "):
        load_estimator(config(tmp_path, 'path = "odd.skops"'))
    listed = f'path = "odd.skops"\ntrusted_types = {unknown!r}'
    assert isinstance(load_estimator(config(tmp_path, listed)), FunctionTransformer)
    (tmp_path / "bad.skops").write_text("no zip")
    with pytest.raises(ConfigError, match=r"cannot read bad\.skops"):
        load_estimator(config(tmp_path, 'path = "bad.skops"'))


class Bomb:
    """Unpickling it leaves a mark."""

    def __reduce__(self):
        return (exec, ("import sys; sys.modules['trustml_bomb'] = sys",))


@pytest.fixture
def no_bomb():
    sys.modules.pop("trustml_bomb", None)
    yield
    assert "trustml_bomb" not in sys.modules, "a pickle was read"


@pytest.mark.parametrize("ending", ["pkl", "pickle", "joblib", "pt", "pth"])
def test_pickles_are_refused_without_the_flag(tmp_path, ending, no_bomb):
    (tmp_path / f"model.{ending}").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ConfigError, match="--allow-pickle"):
        load_estimator(config(tmp_path, f'path = "model.{ending}"'))


def test_pickles_are_read_with_the_flag(tmp_path):
    import joblib

    joblib.dump(LogisticRegression().fit(X, Y), tmp_path / "m.joblib")
    assert load_estimator(config(tmp_path, 'path = "m.joblib"'), True).coef_.shape == (1, 3)
    torch.save(nn.Linear(2, 2), tmp_path / "m.pt")
    assert isinstance(load_estimator(config(tmp_path, 'path = "m.pt"'), True), nn.Linear)
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "s.pt")
    with pytest.raises(ConfigError, match="state_dict"):
        load_estimator(config(tmp_path, 'path = "s.pt"'), True)
    (tmp_path / "b.pkl").write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match=r"cannot unpickle b\.pkl"):
        load_estimator(config(tmp_path, 'path = "b.pkl"'), True)


@pytest.mark.parametrize(
    ("model", "message"),
    [('path = "m.onnx"', "unknown ending"), ('path = "gone.skops"', "no file"), ("path = 3", "3")],
)
def test_other_files_are_refused(tmp_path, model, message):
    (tmp_path / "m.onnx").write_text("")
    with pytest.raises(ConfigError, match=message):
        load_estimator(config(tmp_path, model))


def test_an_exported_program_becomes_a_module_with_a_head(tmp_path, network):
    export(network, tmp_path / "m.pt2")
    module = load_estimator(config(tmp_path, 'path = "m.pt2"'))
    x = torch.randn(7, 1, 4, 4)
    torch.testing.assert_close(module(x), network(x))
    module.train()  # the graph has no modes: nothing may change
    torch.testing.assert_close(module(x), network(x))
    model = trustml.wrap(module, train=(x, torch.arange(7) % 3))
    assert model.head_name == "linear_0"
    assert model.features(x).shape == (7, 8)
    assert sum(p.numel() for p in module.parameters()) == sum(
        p.numel() for p in network.parameters()
    )
    torch.testing.assert_close(model.predict_proba(x), network(x).softmax(1))


def test_a_program_exported_in_training_mode_is_refused(tmp_path, network):
    export(network.train(), tmp_path / "m.pt2")
    with pytest.raises(ConfigError, match=r"model\.eval\(\) before"):
        load_exported(tmp_path / "m.pt2")


def test_a_program_with_two_outputs_is_refused(tmp_path):
    class Two(nn.Module):
        row = (3,)

        def forward(self, x):
            return x, x + 1

    export(Two(), tmp_path / "m.pt2")
    with pytest.raises(ConfigError, match="several values"):
        load_exported(tmp_path / "m.pt2")


def rewritten(source, target, changes):
    """Copy an archive with some members changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            for ending, change in changes.items():
                if name.endswith(ending):
                    content = change(content)
            new.writestr(name, content)


def pickled():
    buffer = io.BytesIO()
    torch.save(Bomb(), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "changes",
    [
        {"sample_inputs/model.pt": lambda _: pickled()},
        {"weights_config.json": lambda c: c.replace(b'"use_pickle": false', b'"use_pickle": true')},
        {"models/model.json": lambda c: c.replace(b"Symbol('s", b"eval('s")},
    ],
    ids=["sample inputs", "weights", "expression"],
)
def test_archives_that_would_run_code_are_refused(tmp_path, network, changes, no_bomb):
    export(network, tmp_path / "good.pt2")
    rewritten(tmp_path / "good.pt2", tmp_path / "bad.pt2", changes)
    assert (tmp_path / "bad.pt2").read_bytes() != (tmp_path / "good.pt2").read_bytes()
    with pytest.raises(ConfigError, match="would run code"):
        load_exported(tmp_path / "bad.pt2")
    (tmp_path / "no.pt2").write_text("nothing")
    with pytest.raises(ConfigError, match=r"not a torch\.export archive"):
        load_exported(tmp_path / "no.pt2")


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("Symbol('s31', positive=True, integer=True)", True),
        ("2*s0 + Max(1, FloorDiv(s1, 2))", True),
        ("__import__('os').system('true')", False),
        ("eval(s0)", False),
        ("exit ()", False),
        ("s0.__class__", False),
        ("s0.func", False),
        ("'text'", False),
        ("[x for x in s]", False),
    ],
)
def test_only_arithmetic_is_evaluated(text, safe):
    assert is_arithmetic(text) is safe
