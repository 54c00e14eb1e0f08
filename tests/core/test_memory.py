import math
import subprocess
import sys

import pytest
import torch

from trustml import ihvp
from trustml.core import memory
from trustml.errors import DoesNotFitError


def cgroup(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_dot_", ".")).write_text(text)


def test_what_fits_is_silent_and_what_does_not_names_the_way_out(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device: 12e9)
    memory.check_fits(11.9e9, "this", "do that")
    with pytest.raises(DoesNotFitError) as refusal:
        memory.check_fits(20_000 * 235_146 * 4, "per-example gradients", "use objective.dot")
    told = "per-example gradients take 18.8 GB, 12.0 GB are free: use objective.dot"
    assert str(refusal.value) == told
    assert isinstance(refusal.value, MemoryError)


def test_the_containers_limits_count(tmp_path, monkeypatch):
    """Version 2: the group itself is unlimited, its parent is not."""
    stat = "anon 5\ninactive_file 100000\n"
    cgroup(tmp_path / "job", memory_dot_max="max\n", memory_dot_current="1", memory_dot_stat=stat)
    cgroup(tmp_path, memory_dot_max="700000", memory_dot_current="300000", memory_dot_stat=stat)
    monkeypatch.setattr(memory, "_folders", lambda: [tmp_path / "job", tmp_path, tmp_path / "no"])
    assert memory.available() == 700_000 - 300_000 + 100_000
    assert memory.total() == 700_000


def test_version_one_groups_count(tmp_path, monkeypatch):
    cgroup(
        tmp_path,
        memory_dot_limit_in_bytes="500000\n",
        memory_dot_usage_in_bytes="200000\n",
        memory_dot_stat="total_inactive_file 50000\n",
    )
    monkeypatch.setattr(memory, "_folders", lambda: [tmp_path])
    assert memory.available() == 350_000
    assert memory.total() == 500_000


def test_without_groups_the_machine_counts(monkeypatch):
    monkeypatch.setattr(memory, "_folders", list)
    assert 0 < memory.available() <= memory.total()
    monkeypatch.setattr(memory, "_physical", lambda: math.inf)
    assert memory.total() == 8 * 2**30
    assert memory.available("meta") == math.inf


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v is seen on Linux")
def test_the_processs_own_limit_counts():
    code = (
        "import resource; from trustml.core import memory; "
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize(); "
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, resource.RLIM_INFINITY)); "
        "print(memory.available() / 2**28)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.9 < float(found.stdout) <= 1


@pytest.fixture
def wide():
    net = torch.nn.Linear(2000, 1)
    X = torch.ones(5000, 2000)
    return ihvp.Objective(net, None, (X, torch.ones(5000, 1)))


def test_gradients_that_do_not_fit_are_refused_before_the_pass(wide, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device: 1e6)
    told = r"gradients of 5,000 x 2,001 float32 take 40.0 MB"
    monkeypatch.setattr(memory, "_SMALL", 0)
    with pytest.raises(DoesNotFitError, match=told):
        wide.per_example_gradients()
    assert wide.dot(torch.ones(2001, 1)).shape == (5000, 1)


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda J: ihvp.GaussNewton(J).dense(), "the dense 2,001 x 2,001 float64 matrix"),
        (lambda J: ihvp.Hessian(J).dense(), "the dense 2,001 x 2,001 float64 matrix"),
        (lambda J: ihvp.factorize(ihvp.GaussNewton(J) + 1, "cholesky"), 'use.*method="cg"'),
        (lambda J: ihvp.factorize(ihvp.GaussNewton(J) + 1, "dual"), "the 5,000 x 2,001 factors"),
        (lambda J: ihvp.Ekfac(J), "the Kronecker factors of 1 layers"),
    ],
)
def test_matrices_that_do_not_fit_are_refused_before_the_pass(ask, told, wide, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device: 1e6)
    monkeypatch.setattr(memory, "_SMALL", 0)
    passes = []
    wide.module.register_forward_hook(lambda layer, args, out: passes.append(len(out)))
    with pytest.raises(DoesNotFitError, match=told):
        ask(wide)
    assert sum(passes) < 1000


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpus_memory_counts_torchs_reserve():
    free = memory.available("cuda")
    held = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    assert memory.available("cuda") <= free - 2**28 + 2**24
    del held
    assert memory.available("cuda") >= free - 2**24
