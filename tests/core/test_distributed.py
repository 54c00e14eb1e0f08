"""The primitives, alone and by three processes."""

import subprocess
import sys

import pytest
import torch

from trustml.core import distributed
from trustml.core.batches import as_data
from trustml.core.passes import collect, total

# Every process prints what it found; all must say the same.
SCRIPT = """
import sys
import torch
import torch.distributed as dist
from trustml.core import distributed
from trustml.core.batches import as_data
from trustml.core.passes import collect, total
from trustml.core.store import Store

dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()

def failure(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"

found = {}
X = torch.arange(14.0, dtype=torch.float64).reshape(7, 2)
data, two = as_data(X), as_data(X[:2])
found["outside"] = [list(distributed.shard(7)), total(lambda b: b.inputs.sum(0), data).tolist()]
with distributed.data_parallel() as processes:
    assert processes == size
    parts = distributed.gather(lambda: torch.tensor([len(distributed.shard(7))]))
    mine = distributed.shard(7)
    found["shards"] = distributed.gather(lambda: torch.tensor([mine.start, mine.stop])).tolist()
    found["alone inside a pass"] = parts.tolist()
    found["sum"] = total(lambda b: b.inputs.sum(0), data, 2).tolist()
    found["rows"] = collect(lambda b: b.inputs * 2, data, 2).tolist()
    found["indices"] = collect(lambda b: b.indices, data, 2).tolist()
    found["mask"] = collect(lambda b: b.inputs[:, 0] > 5, data, 3).tolist()
    found["half"] = collect(lambda b: b.inputs.bfloat16(), data, 3).float().sum().item()
    found["few"] = [total(lambda b: b.inputs.sum(), two).item(),
                    collect(lambda b: b.inputs[:, 1], two).tolist()]
    found["agreed"] = [distributed.agreed(float(rank)), distributed.smallest(1.0 - rank)]

    def fails(batch):
        if batch.indices[0] == 0:
            raise ValueError("row 0 is bad")
        return batch.inputs

    told = failure(lambda: collect(fails, data, 2))
    expected = "ValueError: row 0" if rank == 0 else "RuntimeError: process 0 failed"
    assert told.startswith(expected), told
    other = (lambda: total(lambda b: b.inputs, data)) if rank else (
        lambda: collect(lambda b: b.inputs, data))
    assert "different passes" in failure(other), failure(other)
    wide = lambda: collect(lambda b: b.inputs if rank else b.inputs[:, :1], data)
    assert "different things" in failure(wide)
    differs = lambda: distributed.check_alike(float(rank), "the weights")
    assert failure(differs).startswith("RuntimeError: the weights differ")
    distributed.check_alike(1.5, "the weights")
    found["after failures"] = total(lambda b: b.inputs.sum(), data).item()

    store = Store(sys.argv[1], {"weights": "a"})
    table = store.rows("t", (7, 2))
    asked = []
    def compute(part):
        asked.append(part.start)
        return collect(lambda b: b.inputs, data.subset(range(part.start, part.stop)))
    found["store"] = table.fill(compute, block=3).tolist()
    store.save("factors", {"x": X})
    found["factors"] = store.load("factors")["x"].tolist()
    found["again"] = list(map(str, store.rows("t", (7, 2)).pending()))
    told = failure(lambda: Store(sys.argv[1], {"weights": "b"}))
    assert ("weights (a there, b here)" if rank == 0 else "process 0 failed") in told, told
found["after"] = list(distributed.shard(7))
print("FOUND", found)
dist.destroy_process_group()
"""


def test_processes_share_passes_and_agree(tmp_path):
    size = 3
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    found = torchrun(size, script, tmp_path / "store")
    assert len(set(found)) == 1  # all processes have the same
    own = eval(found[0])
    X = torch.arange(14.0, dtype=torch.float64).reshape(7, 2)
    edges = [7 * rank // size for rank in range(size + 1)]
    assert own == {
        "outside": [list(range(7)), X.sum(0).tolist()],
        "shards": edges[:1] + [edge for edge in edges[1:-1] for _ in range(2)] + edges[-1:],
        "alone inside a pass": [7] * size,
        "sum": X.sum(0).tolist(),
        "rows": (2 * X).tolist(),
        "indices": list(range(7)),
        "mask": (X[:, 0] > 5).tolist(),
        "half": 91.0,
        "few": [6.0, [1.0, 3.0]],
        "agreed": [0.0, 2.0 - size],
        "after failures": 91.0,
        "store": X.tolist(),
        "factors": X.tolist(),
        "again": [],
        "after": list(range(7)),
    }


def torchrun(size, script, *arguments):
    """What each process of a script printed after FOUND."""
    logs = script.parent / "logs"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    # A file for each process: long lines of several in one pipe would mix.
    command += ["--redirects", "1", "--log-dir", str(logs)]
    command += [f"--nproc-per-node={size}", str(script), *map(str, arguments)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert found.returncode == 0, found.stderr
    answers = [log.read_text().split("FOUND ")[1].strip() for log in logs.rglob("stdout.log")]
    assert len(answers) == size
    return answers


def test_alone_nothing_changes():
    data = as_data(torch.ones(5, 2))
    with distributed.data_parallel() as processes:
        assert processes == 1
        assert distributed.shard(5) == range(5)
        assert distributed.is_first()
        assert total(lambda b: b.inputs.sum(), data).item() == 10
        assert collect(lambda b: b.inputs, data, 2).shape == (5, 2)


def test_processes_without_a_group_are_told(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with (
        pytest.raises(RuntimeError, match=r"4 processes were started.*init_process_group"),
        distributed.data_parallel(),
    ):
        pass


def test_a_pass_that_collects_rows_must_return_rows():
    with pytest.raises(ValueError, match="first axis must be the rows"):
        collect(lambda b: b.inputs.sum(0, keepdim=True), as_data(torch.ones(5, 2)))


def test_a_sum_does_not_touch_what_it_adds():
    held = torch.ones(2, dtype=torch.float64)
    assert total(lambda b: held, as_data(torch.ones(4, 1)), 2).tolist() == [2, 2]
    assert held.tolist() == [1, 1]


def test_collected_rows_carry_no_graph():
    weight = torch.ones(2, requires_grad=True)
    data = as_data(torch.ones(4, 2))
    assert not collect(lambda b: b.inputs @ weight, data, 3).requires_grad
    assert not total(lambda b: (b.inputs @ weight).sum(), data, 3).requires_grad
