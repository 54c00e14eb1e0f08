"""Data of every kind gives the same batches; bad data is refused; batches shrink."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from trustml.core.batches import (
    Data,
    apply,
    as_data,
    batch_length,
    forward,
    is_out_of_memory,
    map_batches,
)

X = torch.arange(21.0).reshape(7, 3)
Y = torch.tensor([0, 1, 2, 0, 1, 2, 0])


class Pairs(Dataset):
    def __init__(self, form):
        self.form = form

    def __len__(self):
        return 7

    def __getitem__(self, i):
        return self.form(i)


FRAME = pd.DataFrame(X.numpy(), columns=["a", "b", "c"], index=list("tuvwxyz"))
KINDS = {
    "tensors": (X, Y),
    "arrays": (X.numpy(), Y.numpy()),
    "read-only": (np.broadcast_to(X.numpy(), (7, 3)), Y.numpy()),
    "lists": (X.tolist(), Y.tolist()),
    "list of tensors": (list(X), list(Y)),
    "sparse": (scipy.sparse.csr_matrix(X.numpy()), Y.numpy()),
    "frame": (FRAME, pd.Series(Y.numpy(), index=FRAME.index)),
    "dataset": (TensorDataset(X, Y), None),
    "dataset beside y": (TensorDataset(X), Y),
    "loader": (DataLoader(TensorDataset(X, Y), batch_size=3), None),
    "numpy items": (Pairs(lambda i: (X[i].numpy(), int(Y[i]))), None),
    "plain items": (Pairs(lambda i: X[i]), Y.numpy()),
}


@pytest.mark.parametrize("raw", [False, True], ids=["", "prepared"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_gives_the_same_batches(kind, raw):
    x, y = KINDS[kind]
    prepare = (lambda rows: as_data(rows).inputs) if raw else None
    data = as_data(x, y, prepare=prepare, dtype=torch.float32)
    assert len(data) == 7
    seen = list(data.batches(3))
    assert [len(batch) for batch in seen] == [3, 3, 1]
    assert torch.equal(torch.cat([batch.inputs for batch in seen]).float(), X)
    assert torch.equal(torch.cat([batch.targets for batch in seen]), Y)
    assert torch.equal(torch.cat([batch.indices for batch in seen]), torch.arange(7))
    assert torch.equal(data.inputs.float(), X)
    assert torch.equal(data.targets, Y)
    assert torch.equal(data.subset([5, 1]).inputs.float(), X[[5, 1]])
    assert torch.equal(data.cache().subset([2]).targets, Y[[2]])


def test_prepare_and_encode_see_the_users_kind():
    seen = []

    def prepare(rows):
        seen.append(rows)
        return torch.tensor(rows[["a", "b"]].to_numpy())

    def encode(labels):
        return torch.tensor([{"no": 0, "yes": 1}[label] for label in labels])

    labels = pd.Series(["no", "yes"] * 3 + ["no"], index=FRAME.index)
    data = as_data(FRAME, labels, prepare=prepare, encode=encode)
    batch = next(iter(data.batches(2)))
    assert isinstance(seen[0], pd.DataFrame)
    assert list(seen[0].index) == ["t", "u"]
    assert batch.inputs.shape == (2, 2)
    assert batch.targets.tolist() == [0, 1]
    calls = len(seen)
    cached = data.cache()
    list(cached.batches(1))
    assert len(seen) == calls + 1


def test_dicts_and_tuples():
    tokens, mask = torch.arange(14).reshape(7, 2), torch.ones(7, 2)
    data = as_data({"input_ids": tokens, "mask": mask}, Y, dtype=torch.float64)
    batch = next(iter(data.batches(4)))
    assert batch.inputs["input_ids"].dtype == torch.int64
    assert batch.inputs["mask"].dtype == torch.float64
    data = as_data((X, tokens), Y)
    assert torch.equal(data.subset([3]).inputs[1], tokens[[3]])
    items = Pairs(lambda i: {"input_ids": tokens[i], "labels": Y[i]})
    data = as_data(items)
    assert list(data.inputs) == ["input_ids"]
    assert torch.equal(data.targets, Y)
    data = as_data(Pairs(lambda i: (X[i], tokens[i], Y[i])))
    assert torch.equal(data.inputs[1], tokens)
    assert torch.equal(data.targets, Y)
    raw = as_data({"a": X.numpy()}, Y, prepare=lambda rows: torch.tensor(rows["a"]))
    assert torch.equal(raw.inputs, X)
    assert len(raw) == 7


def test_dtypes():
    ints = np.arange(6).reshape(3, 2)
    assert as_data(ints).inputs.dtype == torch.int64
    assert as_data(ints, dtype=torch.float32).inputs.dtype == torch.float32
    assert as_data(torch.tensor(ints), dtype=torch.float32).inputs.dtype == torch.int64
    assert as_data(X, Y.double(), dtype=torch.float32).targets.dtype == torch.float32
    assert as_data(X, Y.bool()).targets.dtype == torch.int64
    assert as_data(X).targets is None
    data = as_data(X.double(), Y).to(dtype=torch.float32)
    assert data.inputs.dtype == torch.float32
    assert as_data(data, dtype=torch.float64).inputs.dtype == torch.float64


def test_batches_are_copies():
    kept = X.clone()
    data = as_data(X, Y)
    for batch in data.batches(3):
        batch.inputs.zero_()
        batch.targets.zero_()
    assert torch.equal(X, kept)
    assert torch.equal(data.inputs, kept)


def test_subset_of_subset_and_mask():
    data = as_data(X, Y).subset([6, 4, 2, 0])
    assert torch.equal(data.subset([1, -1]).inputs, X[[4, 0]])
    assert torch.equal(data.subset([True, False, False, True]).inputs, X[[6, 0]])
    assert torch.equal(data.subset(np.array([2])).inputs, X[[2]])
    assert next(iter(data.batches(2))).indices.tolist() == [0, 1]
    assert "4 rows" in repr(data)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 20), batch_size=st.integers(1, 25), data=st.data())
def test_batches_cover_the_rows_in_order(n, batch_size, data):
    rows = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=15))
    chosen = as_data(torch.arange(n)).subset(rows)
    seen = [batch.inputs for batch in chosen.batches(batch_size)]
    assert torch.cat(seen).tolist() == rows
    assert all(len(part) == batch_size for part in seen[:-1])


BAD_X = X.clone()
BAD_X[2, 1] = float("nan")


@pytest.mark.parametrize(
    ("act", "match"),
    [
        (lambda: as_data(X, Y[:5]), "X has 7 rows, y has 5 rows"),
        (lambda: as_data(X[:0]), "must not be empty"),
        (lambda: as_data([]), "must not be empty"),
        (lambda: as_data({}), "empty dict"),
        (lambda: as_data({"a": X, "b": X[:2]}), "same length"),
        (lambda: as_data((X, X[:2])), "same length"),
        (lambda: as_data(torch.tensor(3.0)), "single number"),
        (lambda: as_data(BAD_X), r"1 NaN or infinite values .*index \(2, 1\)"),
        (lambda: as_data(BAD_X, prepare=lambda rows: rows).inputs, "NaN or infinite"),
        (lambda: as_data(TensorDataset(BAD_X, Y)).inputs, "NaN or infinite"),
        (lambda: as_data(X, [1.0] * 6 + [float("inf")]), "y has 1 NaN"),
        (lambda: as_data([[1.0, 2.0], [3.0]]), "ragged"),
        (lambda: as_data(as_data(X), Y), "pass no y"),
        (lambda: as_data(DataLoader(TensorDataset(X), shuffle=True)), "shuffle=False"),
        (lambda: as_data(DataLoader(TensorDataset(X), batch_size=2, drop_last=True)), "drop_last"),
        (lambda: as_data(DataLoader(TensorDataset(X), batch_size=None)), "batch_size=None"),
        (lambda: as_data(TensorDataset(X), Y[:2]), "same length"),
        (lambda: as_data(X).subset([]), "select no row"),
        (lambda: list(as_data(X).batches(0)), "positive integer"),
    ],
)
def test_bad_values(act, match):
    with pytest.raises(ValueError, match=match):
        act()


def test_loader_with_a_sampler_of_its_own():
    order = torch.utils.data.SubsetRandomSampler([1, 2])
    with pytest.raises(ValueError, match="SubsetRandomSampler"):
        as_data(DataLoader(TensorDataset(X), sampler=order))
    batches = torch.utils.data.BatchSampler([2, 1], 1, drop_last=False)
    with pytest.raises(ValueError, match="in order"):
        as_data(DataLoader(TensorDataset(X), batch_sampler=batches))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(X)


@pytest.mark.parametrize(
    ("act", "match"),
    [
        (lambda: as_data(None), "got NoneType"),
        (lambda: as_data("data.csv"), "got str"),
        (lambda: as_data(3), "got int"),
        (lambda: as_data([["a"], ["b"]]), "must hold numbers"),
        (lambda: as_data(pd.DataFrame({"a": ["x", 1]})), "not numbers"),
        (lambda: as_data(X, list("abcdefg")), r"begins with \['a'\].*encode the labels"),
        (lambda: as_data(Stream()), "iterable-style"),
        (lambda: as_data(DataLoader(Stream())), "iterable-style"),
        (lambda: forward(lambda x: (x, x), X), "must return one tensor"),
        (lambda: list(as_data(X).batches(2.5)), "positive integer"),
    ],
)
def test_bad_types(act, match):
    with pytest.raises(TypeError, match=match):
        act()


@pytest.mark.parametrize("indices", [[7], [-8], [0.5], [True, False]])
def test_bad_indices(indices):
    with pytest.raises(IndexError):
        as_data(X).subset(indices)


def test_forward_of_every_kind():
    assert torch.equal(forward(lambda x: x * 2, X), X * 2)
    assert torch.equal(forward(lambda a, b: a + b, (X, X)), X * 2)
    assert torch.equal(forward(lambda *, a: SimpleNamespace(logits=a), {"a": X}), X)
    assert apply(torch.neg, (X, X))[1][0, 1] == -1
    assert batch_length({"a": X}) == batch_length((X, X)) == 7


def hungry(limit, error):
    """A function that runs out of memory above ``limit`` rows, and the sizes it was asked for."""
    sizes = []

    def fn(batch):
        sizes.append(len(batch))
        if len(batch) > limit:
            raise error
        return batch.indices.tolist()

    return fn, sizes


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried"),
        MemoryError("Unable to allocate"),
    ],
    ids=["cuda", "cpu", "windows", "numpy"],
)
def test_batches_shrink_when_memory_runs_out(error):
    fn, sizes = hungry(2, error)
    results = list(map_batches(fn, as_data(X), batch_size=7))
    assert [i for part in results for i in part] == list(range(7))
    assert sizes == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    fn, sizes = hungry(3, error)
    assert len(list(map_batches(fn, as_data(X)))) == 3
    assert sizes == [7, 3, 3, 1]


def test_memory_for_a_single_row():
    fn, sizes = hungry(0, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        list(map_batches(fn, as_data(X), batch_size=4))
    assert sizes == [4, 2, 1]


def test_other_errors_pass():
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert not is_out_of_memory(error)
    fn, sizes = hungry(0, error)
    with pytest.raises(RuntimeError, match="mat1"):
        list(map_batches(fn, as_data(X)))
    assert sizes == [7]


def test_real_failure_of_the_allocator():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_map_batches_is_lazy_and_takes_a_description():
    fn, sizes = hungry(7, RuntimeError())
    results = map_batches(fn, as_data(X), 2, description="rows")
    assert not sizes
    assert next(results) == [0, 1]
    assert sizes == [2]
    results.close()


def test_data_is_made_by_as_data():
    assert isinstance(as_data(X), Data)
    assert as_data(as_data(X)).inputs.shape == X.shape


def test_small_vectors_go_in_larger_batches_where_nobody_says():
    assert as_data(torch.zeros(3, 128)).auto_batch == 2048
    for rows in (torch.zeros(3, 129), torch.zeros(3, 8, 8), torch.zeros(3, 8).long()):
        assert as_data(rows).auto_batch == 512
    data = as_data(torch.zeros(2050, 2))
    assert list(map_batches(len, data)) == [2048, 2]
    assert list(map_batches(len, data.subset(range(600)))) == [600]
