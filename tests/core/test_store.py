import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from trustml.core.store import Store, hash_tensors
from trustml.errors import StoreMismatchError

OWNER = {"weights": "3f2a", "data": "9b1c", "settings": {"damping": 0.1}}
ROWS = 40


def block(part):
    """Numbers whose bits a second computation repeats."""
    rows = [
        torch.randn(7, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        for i in range(part.start, part.stop)
    ]
    return torch.stack(rows)


# Runs that are killed at random moments, in a process of their own that may fork.
KILLED = """
import os, random, runpy, signal, sys, time

names = runpy.run_path(sys.argv[1])
Store, OWNER, ROWS, block = (names[k] for k in ("Store", "OWNER", "ROWS", "block"))

def slow(part):
    time.sleep(0.001)
    return block(part)

def run(folder):
    store = Store(folder, OWNER)
    store.rows("scores", (ROWS, 7)).fill(slow, block=2)
    store.save("factors", {"q": names["torch"].arange(200_000.0)})

for seed in range(int(sys.argv[3])):
    moment = random.Random(seed)
    for kills in range(200):
        child = os.fork()
        if child == 0:
            run(f"{sys.argv[2]}/{seed}")
            os._exit(0)
        time.sleep(moment.uniform(0.001, 0.015) * 1.05**kills)  # a busy machine gets there too
        os.kill(child, signal.SIGKILL)
        if os.waitpid(child, 0)[1] == 0:
            break
    print(kills)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs are forks")
def test_a_run_killed_at_random_points_goes_on_to_identical_numbers(tmp_path):
    seeds = 4
    command = [sys.executable, "-c", KILLED, __file__, str(tmp_path), str(seeds)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    kills = [int(line) for line in found.stdout.split()]
    assert len(kills) == seeds
    assert all(0 < count < 199 for count in kills), kills
    for seed in range(seeds):
        store = Store(tmp_path / str(seed), OWNER)
        table = store.rows("scores", (ROWS, 7))
        assert table.complete
        np.testing.assert_array_equal(table.values, block(slice(0, ROWS)).numpy())
        torch.testing.assert_close(store.load("factors")["q"], torch.arange(200_000.0))


def test_only_what_is_missing_is_computed(tmp_path):
    table = Store(tmp_path, OWNER).rows("t", (10, 2), dtype="float32")
    table.write(2, torch.ones(2, 2))
    table.write(7, np.ones((1, 2)))
    again = Store(tmp_path, OWNER).rows("t", (10, 2), dtype="float32")
    asked = []

    def compute(part):
        asked.append((part.start, part.stop))
        return torch.full((part.stop - part.start, 2), 2.0)

    values = again.fill(compute, block=3)
    assert asked == [(0, 2), (4, 7), (8, 10)]
    assert values[:, 0].tolist() == [2, 2, 1, 1, 2, 2, 2, 1, 2, 2]
    values[:] = 7  # stays in memory
    assert Store(tmp_path, OWNER).rows("t", (10, 2), dtype="float32").complete
    assert list(again.pending()) == []


def test_an_interrupt_keeps_what_was_done(tmp_path):
    table = Store(tmp_path, OWNER).rows("t", (10, 7))

    def interrupted(part):
        if part.start >= 4:
            raise KeyboardInterrupt
        return block(part)

    with pytest.raises(KeyboardInterrupt):
        table.fill(interrupted, block=2)
    again = Store(tmp_path, OWNER).rows("t", (10, 7))
    assert again.done.tolist() == [True] * 4 + [False] * 6
    np.testing.assert_array_equal(again.fill(block, block=4), block(slice(0, 10)).numpy())


def test_what_the_journal_does_not_vouch_for_is_computed_again(tmp_path):
    Store(tmp_path, OWNER).rows("t", (6, 7)).fill(block, block=2)
    with (tmp_path / "t.npy").open("r+b") as file:  # a bit of the last row rots
        file.seek(-1, 2)
        file.write(b"\x01")
    with (tmp_path / "t.journal").open("ab") as file:  # half a record, and nonsense
        file.write(b"\n0 6 12\n4 99 00000000\nx\xff")
    again = Store(tmp_path, OWNER).rows("t", (6, 7))
    assert again.done.tolist() == [True] * 4 + [False] * 2
    np.testing.assert_array_equal(again.fill(block), block(slice(0, 6)).numpy())
    assert Store(tmp_path, OWNER).rows("t", (6, 7)).complete


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (OWNER | {"weights": "0000"}, "weights (3f2a there, 0000 here)"),
        (OWNER | {"data": "0000"}, "data"),
        (OWNER | {"settings": {"damping": 0.2}}, "settings.damping (0.1 there, 0.2 here)"),
        (OWNER | {"settings": {}}, "settings.damping (0.1 there, not given here)"),
        (OWNER | {"loss": "mse"}, "loss (not given there, mse here)"),
    ],
)
def test_a_store_of_something_else_is_refused(other, named, tmp_path):
    Store(tmp_path, OWNER)
    with pytest.raises(StoreMismatchError) as refusal:
        Store(tmp_path, other)
    assert named in str(refusal.value)
    Store(tmp_path, dict(reversed(OWNER.items())))


def test_files_that_are_no_store_are_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="no manifest"):
        Store(tmp_path, OWNER)
    (tmp_path / "manifest.json").write_text("[1")
    with pytest.raises(ValueError, match="not the manifest"):
        Store(tmp_path, OWNER)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 99, "belongs_to": OWNER}))
    with pytest.raises(StoreMismatchError, match="format 99"):
        Store(tmp_path, OWNER)


def test_tables_of_another_shape_cut_off_or_pickled_are_refused(tmp_path):
    store = Store(tmp_path, OWNER)
    store.rows("t", (6, 7)).fill(block)
    for shape, dtype in (((6, 8), "float64"), ((6, 7), "float32")):
        with pytest.raises(StoreMismatchError, match="not a table of shape"):
            store.rows("t", shape, dtype)
    with (tmp_path / "t.npy").open("r+b") as file:
        file.truncate(200)
    with pytest.raises(ValueError, match="cut off"):
        store.rows("t", (6, 7))
    np.save(tmp_path / "t.npy", np.array([[{}] * 7] * 6), allow_pickle=True)
    with pytest.raises(StoreMismatchError):
        store.rows("t", (6, 7))
    (tmp_path / "t.npy").write_bytes(b"no table at all")
    with pytest.raises(ValueError, match=r"t\.npy cannot be read"):
        store.rows("t", (6, 7))


def test_a_damaged_group_of_tensors_is_named(tmp_path):
    store = Store(tmp_path, OWNER)
    store.save("factors", {"a": torch.ones(3)})
    (tmp_path / "factors.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"factors\.safetensors cannot be read"):
        store.load("factors")


@pytest.mark.parametrize("name", ["../t", "", ".hidden", "a/b"])
def test_names_stay_in_the_folder(name, tmp_path):
    with pytest.raises(ValueError, match="name must be"):
        Store(tmp_path, OWNER).rows(name, (2, 2))


def test_bad_rows_are_refused(tmp_path):
    store = Store(tmp_path, OWNER)
    table = store.rows("t", (4, 2))
    for start, rows in ((3, np.ones((2, 2))), (-1, np.ones((1, 2))), (0, np.ones((1, 3)))):
        with pytest.raises(ValueError, match="do not fit"):
            table.write(start, rows)
    with pytest.raises(ValueError, match="axis of rows"):
        store.rows("o", (2,), dtype="object")


def test_tensors_come_back_as_they_were(tmp_path):
    store = Store(tmp_path, OWNER)
    assert store.load("factors") is None
    shared = torch.arange(6.0).reshape(2, 3)
    saved = {"a": shared.T, "b": shared, "c": torch.ones(2, dtype=torch.bfloat16)}
    store.save("factors", saved)
    store.save("factors", saved | {"c": torch.zeros(2)})
    found = Store(tmp_path, OWNER).load("factors")
    torch.testing.assert_close(found, saved | {"c": torch.zeros(2)})


def test_a_full_disk_is_told_before_anything_is_written(tmp_path):
    store = Store(tmp_path, OWNER)
    with pytest.raises(OSError, match="GB free, the store needs"):
        store.rows("t", (2**40, 2**10))
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]


def test_hashes_tell_types_shapes_and_bits_apart():
    ones = torch.ones(2)
    different = [(ones,), (ones.double(),), (ones[:1],), (ones, ones), (ones, None), (-ones,)]
    assert len({hash_tensors(*tensors) for tensors in different}) == len(different)
    assert hash_tensors(torch.ones(2, 3).T) == hash_tensors(torch.ones(3, 2))
    assert hash_tensors(torch.tensor(1.0)) != hash_tensors(torch.tensor(2.0))


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    path = tmp_path / "scores"
    path.write_text("")
    for folder in (path, path / "below"):
        with pytest.raises(ValueError, match=r"a store is a folder, and .*scores.* is a file"):
            Store(folder, {})
