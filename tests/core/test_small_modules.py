"""Random numbers, validation, optional packages, progress, modes, results."""

import io
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from trustml.core import progress
from trustml.core.modes import evaluating, flushing_subnormals
from trustml.core.optional import require, require_submodule
from trustml.core.random import numpy_generator, row_uniforms, torch_generator
from trustml.core.results import Result
from trustml.core.validation import (
    as_tensor,
    check_alpha,
    check_choice,
    check_finite,
    check_positive_int,
    check_same_length,
    frame_columns,
    restore,
    take_rows,
    to_numpy,
)
from trustml.errors import MissingExtraError

# random


def test_generators_repeat_and_leave_the_global_ones_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    for seed in (0, np.int64(0)):
        draws = [torch.rand(3, generator=torch_generator(seed)) for _ in range(2)]
        assert torch.equal(*draws)
        assert numpy_generator(seed).random() == numpy_generator(seed).random()
    a, b = (torch.rand(3, generator=torch_generator(None)) for _ in range(2))
    assert not torch.equal(a, b)
    assert numpy_generator(None).random() != numpy_generator(None).random()
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


def test_generators_pass_through_and_cross_over():
    ours, theirs = torch.Generator().manual_seed(3), np.random.default_rng(3)
    assert torch_generator(ours) is ours
    assert numpy_generator(theirs) is theirs
    assert numpy_generator(ours).random() != numpy_generator(ours).random()
    again = torch.Generator().manual_seed(3)
    ours.manual_seed(3)
    assert numpy_generator(ours).random() == numpy_generator(again).random()
    first = torch.rand(1, generator=torch_generator(theirs))
    assert torch.equal(first, torch.rand(1, generator=torch_generator(np.random.default_rng(3))))


@pytest.mark.parametrize("make", [torch_generator, numpy_generator])
def test_bad_random_state(make):
    for bad in ("seed", 1.5, True):
        with pytest.raises(TypeError, match="random_state must be"):
            make(bad)
    with pytest.raises(TypeError, match=r"got RandomState; numpy\.random\.default_rng\(seed\)"):
        make(np.random.RandomState(0))
    with pytest.raises(ValueError, match="non-negative"):
        make(-1)


@settings(max_examples=25, deadline=None)
@given(
    rows=hnp.arrays(np.float32, st.tuples(st.integers(1, 8), st.integers(1, 3)),
                    elements=st.floats(-1e6, 1e6, width=32)),
    seed=st.integers(-5, 2**40),
)  # fmt: skip
def test_row_uniforms_belong_to_the_row(rows, seed):
    u = row_uniforms(rows, seed)
    assert u.shape == (len(rows),)
    assert ((u > 0) & (u < 1)).all()
    assert np.array_equal(u[::-1], row_uniforms(rows[::-1], seed))
    assert np.array_equal(u, [row_uniforms(row[None], seed)[0] for row in rows])
    assert np.array_equal(u, row_uniforms(torch.tensor(rows), seed))
    assert np.array_equal(u, row_uniforms(rows.astype(np.float64), seed))
    assert (u != row_uniforms(rows, seed + 1)).all()


def test_row_uniforms_are_uniform():
    u = np.sort(row_uniforms(np.arange(4000.0)[:, None], 0))
    grid = (np.arange(4000) + 0.5) / 4000
    assert np.abs(u - grid).max() < 1.63 / np.sqrt(4000)  # Kolmogorov-Smirnov at 1 %


def test_row_uniforms_tell_rows_apart():
    # Images of few grey levels differ in the high bits of few words.
    rows = np.random.default_rng(0).integers(0, 3, (20_000, 40)).astype(np.float32)
    rows = np.unique(np.concatenate([rows, np.eye(40), 1e-300 * np.eye(40)]), axis=0)
    found = row_uniforms(rows, 0)
    assert len(np.unique(found)) == len(rows)
    other = row_uniforms(rows, 1)
    assert abs(np.corrcoef(found, other)[0, 1]) < 4 / np.sqrt(len(rows))
    assert abs(np.corrcoef(found[1:], found[:-1])[0, 1]) < 4 / np.sqrt(len(rows))


def test_row_uniforms_of_other_things():
    assert row_uniforms(np.array([["a", "b"], ["a", "c"]]), 0).shape == (2,)
    assert row_uniforms(np.array([0.0]), 0) == row_uniforms(np.array([-0.0]), 0)
    with pytest.raises(TypeError, match="seed must be an int"):
        row_uniforms(np.ones(2), 0.5)


# validation


@pytest.mark.parametrize(
    "x",
    [
        np.eye(2),
        torch.eye(2),
        torch.eye(2, requires_grad=True),
        torch.eye(2).bfloat16(),
        [[1, 0], [0, 1]],
        ([1.0, 0.0], [0.0, 1.0]),
        list(torch.eye(2)),
        pd.DataFrame(np.eye(2)),
        scipy.sparse.eye_array(2),
        np.eye(2)[::-1][:, ::-1],
        np.eye(2).astype(">f8"),
        np.eye(2, dtype=np.uint16),
        np.eye(2).astype(object),
        np.eye(2).astype(bool),
    ],
    ids=lambda x: type(x).__name__,
)
def test_numbers_of_every_kind(x):
    assert np.array_equal(to_numpy(x), np.eye(2))
    assert torch.equal(as_tensor(x, dtype=torch.float64), torch.eye(2, dtype=torch.float64))


def test_series_and_columns():
    series = pd.Series([1, 2], index=[5, 6])
    assert to_numpy(series).tolist() == [1, 2]
    assert frame_columns(pd.DataFrame({"a": [1], 3: [2]})) == ["a", "3"]
    assert frame_columns(np.eye(2)) is None
    assert frame_columns(series) is None
    assert take_rows(series, np.array([1])).tolist() == [2]
    assert take_rows(["a", "b"], np.array([1])) == ["b"]
    assert take_rows(torch.arange(3), np.array([2])).tolist() == [2]


def test_restore():
    assert isinstance(restore(torch.ones(2), like=[1.0]), np.ndarray)
    assert isinstance(restore(np.ones(2), like=torch.ones(1)), torch.Tensor)
    assert isinstance(restore(np.ones(2), like={"a": torch.ones(1)}), torch.Tensor)
    assert isinstance(restore(torch.ones(2), like=pd.DataFrame({"a": [1]})), np.ndarray)


def test_checks_that_pass():
    check_finite(np.array([1, 2]), "X")
    check_finite(torch.tensor([1, 2]), "X")
    check_finite(np.array(["a"]), "X")
    check_choice(None, "mode", (None, "auto"))
    assert check_same_length(X=np.ones((3, 2)), y=[1, 2, 3], z=None) == 3
    assert check_positive_int(np.int32(4), "n") == 4
    assert check_alpha(np.float32(0.25)) == 0.25
    assert check_alpha(np.array(0.5)) == 0.5


@pytest.mark.parametrize(
    ("act", "match"),
    [
        (lambda: check_finite(np.array([[1.0, np.inf]]), "X"), r"X has 1 NaN.*\(0, 1\)"),
        (lambda: check_finite(torch.tensor([np.nan, np.nan]), "X"), r"X has 2 NaN.*\(0,\)"),
        (lambda: check_same_length(X=[1], y=[1, 2]), "X has 1 rows, y has 2 rows"),
        (lambda: check_same_length(X=[], y=[]), "must not be empty"),
        (lambda: check_positive_int(0, "k"), "k must be a positive integer, got 0"),
        (lambda: check_alpha(1), r"alpha must be in \(0, 1\), got 1"),
        (lambda: check_alpha(float("nan")), "alpha must be in"),
        (lambda: check_choice("b", "mode", ("a",)), "mode must be one of 'a', got 'b'"),
        (lambda: as_tensor([[1], [1, 2]], name="Z"), "Z is ragged"),
    ],
)
def test_bad_values(act, match):
    with pytest.raises(ValueError, match=match):
        act()


@pytest.mark.parametrize(
    ("act", "match"),
    [
        (lambda: check_positive_int(2.0, "k"), "k must be a positive integer, got 2.0"),
        (lambda: check_positive_int(True, "k"), "positive integer"),
        (lambda: check_alpha("0.1"), "one number"),
        (lambda: check_alpha([0.1]), "one number"),
        (lambda: check_alpha(None), "one number"),
        (lambda: as_tensor(["a"]), "must hold numbers"),
        (lambda: as_tensor(np.array([1, "a"], dtype=object)), "not numbers"),
        (lambda: as_tensor(np.array(["2020-01-01"], dtype="datetime64")), "encode it"),
    ],
)
def test_bad_types(act, match):
    with pytest.raises(TypeError, match=match):
        act()


# optional


def test_missing_package_names_its_extra():
    with pytest.raises(MissingExtraError, match=r"no_such_thing.*pip install 'trustml\[explain\]'"):
        require("no_such_thing.part", "explain")
    with pytest.raises(ImportError, match="is not installed"):
        require_submodule("no_such_thing.part", "explain")
    assert require("json", "x").dumps([]) == "[]"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package whose __init__ needs what is not there, and whose part does not."""
    root = tmp_path / "giant_parent"
    (root / "sub").mkdir(parents=True)
    (root / "__init__.py").write_text("import no_such_giant\n")
    (root / "sub" / "__init__.py").write_text("")
    (root / "sub" / "part.py").write_text("from .other import VALUE\n")
    (root / "sub" / "other.py").write_text("VALUE = 7\n")
    (root / "sub" / "broken.py").write_text("import no_such_dwarf\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "giant_parent.sub"
    for name in [m for m in sys.modules if m.startswith("giant_parent")]:
        del sys.modules[name]


def test_submodule_below_a_parent_that_cannot_be_imported(package):
    assert require_submodule(f"{package}.part", "x").VALUE == 7
    assert "giant_parent" not in sys.modules
    assert require_submodule(f"{package}.part", "x").VALUE == 7
    with pytest.raises(MissingExtraError, match="cannot be imported"):
        require_submodule(f"{package}.broken", "x")
    with pytest.raises(MissingExtraError, match="cannot be imported"):
        require("giant_parent", "x")


# progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("patience", "shown"), [(0.0, True), (60.0, False)])
def test_bar_shows_itself_only_to_someone_who_waits(monkeypatch, patience, shown):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "_PATIENCE", patience)
    assert list(progress.track(range(4), "counting rows")) == [0, 1, 2, 3]
    assert ("counting rows" in stream.getvalue()) is shown


def test_no_bar_without_a_terminal(capsys):
    assert list(progress.track(iter("ab"), "letters")) == ["a", "b"]
    assert list(progress.track("ab", None)) == ["a", "b"]
    assert capsys.readouterr() == ("", "")


# modes


def _tiny():
    """What is left of a subnormal float32: 0 where they are flushed."""
    return float(torch.tensor(1e-30) * torch.tensor(1e-10))


def test_subnormal_numbers_are_flushed_inside_alone():
    def fail():
        with flushing_subnormals():
            with flushing_subnormals():
                assert _tiny() == 0
            assert _tiny() == 0
            raise KeyError

    assert _tiny() > 0
    with pytest.raises(KeyError):
        fail()
    assert _tiny() > 0
    torch.set_flush_denormal(True)  # what the user set stays
    try:
        with flushing_subnormals():
            assert _tiny() == 0
        assert _tiny() == 0
    finally:
        torch.set_flush_denormal(False)


def test_worker_threads_do_not_keep_the_flush():
    code = (
        "import torch; from trustml.core.modes import flushing_subnormals as flush\n"
        "torch.set_num_threads(3)\n"
        "with flush(): torch.ones(2**20) * 2\n"
        "print(bool((torch.full((2**20,), 1e-30) * 1e-10 > 0).all()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_evaluating_restores_every_flag():
    module = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2), nn.Sequential(nn.Dropout()))
    module.train()
    module[1].eval()
    flags = [part.training for part in module.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()

    def fail():
        with evaluating(module) as same:
            assert same is module
            assert not any(part.training for part in module.modules())
            assert not torch.backends.mha.get_fastpath_enabled()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [part.training for part in module.modules()] == flags
    assert torch.backends.mha.get_fastpath_enabled() is fast


# results


@dataclass(frozen=True)
class Table(Result):
    name: str
    values: torch.Tensor

    def _columns(self):
        return {self.name: self.values, "row": np.arange(len(self.values)).astype(str)}


def test_result_as_a_frame():
    frame = Table("v", torch.tensor([1.5, 2.5])).to_frame()
    assert list(frame.columns) == ["v", "row"]
    assert frame["v"].tolist() == [1.5, 2.5]


def test_result_without_any_frame_library(monkeypatch):
    for package in ("pandas", "polars"):
        monkeypatch.setitem(sys.modules, package, None)
    table = Table("v", torch.ones(2))
    if "pyarrow" in sys.modules or _installed("pyarrow"):
        assert table.to_frame().num_rows == 2
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"trustml\[frames\]"):
        table.to_frame()


def _installed(name):
    from importlib.util import find_spec

    return find_spec(name) is not None


def test_html_is_escaped_and_short():
    text = Table("<script>", torch.linspace(0, 1, 25))._repr_html_()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert text.count("<tr>") == 21
    assert "5 more rows" in text


def test_columns_must_fit():
    with pytest.raises(ValueError, match="columns of Table"):
        Table("v", torch.ones(2, 2)).to_frame()


# imports


def test_core_imports_nothing_heavy():
    code = (
        "import sys, pkgutil, importlib, trustml.core as core\n"
        "for m in pkgutil.iter_modules(core.__path__, 'trustml.core.'):\n"
        "    importlib.import_module(m.name)\n"
        "print([m for m in ('sklearn', 'scipy', 'narwhals', 'pandas', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
