"""Torch modules: nothing changed, eval mode, dtype and device kept, head found by a trace."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from trustml.core.parameters import ParameterSpace
from trustml.model import wrap

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(40) % 3


def network(outputs=3, dtype=torch.float32):
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, outputs)
    ).to(dtype)


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten())
        self.classify = nn.Linear(4 * 6 * 6, 3)

    def forward(self, x):
        return self.classify(self.body(x))


def flags(module):
    return [part.training for part in module.modules()]


def test_the_module_is_never_changed():
    module = network().train()
    module[3].eval()  # mixed flags come back one by one
    module[0].weight.requires_grad_(False)
    before, state = flags(module), copy.deepcopy(module.state_dict())
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    rows = X.clone()
    model = wrap(module, train=(X, Y), weight_decay=0.01, bounds=(-5, 5))
    model.predict(X)
    model.features(X)
    model.loss(X, Y)
    model.observe(X)
    assert model.head_name == "4"
    model.replace(ParameterSpace(module), ParameterSpace(module).vector() + 1)
    _ = model.objective
    assert flags(module) == before
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0)
    assert not module[0].weight.requires_grad
    assert all(p.grad is None for p in module.parameters())
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert torch.equal(X, rows)
    assert model.module is module


def test_flags_come_back_after_an_error():
    module = network().train()
    model = wrap(module, task="classification")
    with pytest.raises(ValueError, match=r"cannot take X of shape \(2, 9\)"):
        model.predict(torch.zeros(2, 9))
    assert all(flags(module))
    model.predict(X)
    with pytest.raises(ValueError, match=r"\(n, 6\), got \(2, 9\)"):
        model.predict(torch.zeros(2, 9))


@pytest.mark.parametrize("shape", [(2, 1, 7, 7), (2, 64), (2, 8, 8)])
def test_images_of_another_shape_are_refused(shape):
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3)).train()
    model = wrap(module, task="classification")
    model.predict(torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match=r"cannot take X of shape .* \('n', 1, 8, 8\)"):
        model.predict(torch.zeros(shape))
    assert all(flags(module))


def test_batch_norm_and_dropout_give_a_row_its_own_numbers():
    model = wrap(network().train(), train=(X, Y))
    together = model.predict_proba(X)
    alone = torch.cat([model.predict_proba(X[i : i + 1]) for i in range(len(X))])
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(together, model.predict_proba(X))


@settings(max_examples=25, deadline=None)
@given(
    batch_size=st.integers(1, 50),
    rows=st.lists(st.integers(0, 39), min_size=1, max_size=30),
)
def test_batches_do_not_matter(batch_size, rows):
    reference = wrap(network(), train=(X, Y)).predict_proba(X)
    model = wrap(network(), train=(X, Y), batch_size=batch_size)
    torch.testing.assert_close(model.predict_proba(X[rows]), reference[rows], rtol=1e-5, atol=1e-6)


def test_outputs_and_shapes():
    module = network()
    model = wrap(module, train=(X, Y))
    with torch.no_grad():
        expected = module.eval()(X)
    torch.testing.assert_close(model.logits(X), expected)
    torch.testing.assert_close(model.predict_proba(X), expected.softmax(1))
    assert torch.equal(model.predict(X), expected.argmax(1))
    seen = model.observe(X)
    torch.testing.assert_close(module[4](seen.features), seen.outputs)
    weight, bias = model.head
    torch.testing.assert_close(seen.features @ weight.T + bias, seen.logits)
    torch.testing.assert_close(
        model.loss(X, Y), nn.functional.cross_entropy(expected, Y, reduction="none")
    )
    assert model.n_outputs == model.n_classes == 3
    assert model.outputs(model.inputs(X)).requires_grad


def test_kinds_of_input():
    module = network()
    model = wrap(module, train=(X, Y))
    reference = model.predict_proba(X)
    assert isinstance(reference, torch.Tensor)
    frame = pd.DataFrame(X.numpy(), columns=list("abcdef"))
    pairs = TensorDataset(X, Y)
    for rows in (X.numpy(), X.tolist(), frame, pairs, DataLoader(pairs, batch_size=7)):
        result = model.predict_proba(rows)
        assert isinstance(result, np.ndarray)
        np.testing.assert_allclose(result, reference.numpy(), atol=1e-6)
    assert isinstance(model.predict(X), torch.Tensor)
    assert isinstance(model.predict(X.numpy()), np.ndarray)


@pytest.mark.parametrize("kind", ["tensors", "arrays", "frame", "dataset", "loader", "loader + y"])
def test_kinds_of_training_data(kind):
    pairs = TensorDataset(X, Y)
    train = {
        "tensors": (X, Y),
        "arrays": (X.numpy(), Y.numpy()),
        "frame": (pd.DataFrame(X.numpy(), columns=list("abcdef")), pd.Series(Y.numpy())),
        "dataset": pairs,
        "loader": DataLoader(pairs, batch_size=16),
        "loader + y": (TensorDataset(X), Y),
    }[kind]
    model = wrap(network(), train=train)
    assert len(model.train) == 40
    torch.testing.assert_close(model.train.inputs, X)
    assert torch.equal(model.train.targets, Y)
    assert model.classes_.tolist() == [0, 1, 2]
    if kind == "frame":
        assert model.feature_names == list("abcdef")
    smaller = wrap(network(), train=train, train_fn=lambda rows, labels: network()).retrain(
        [1, 2, 3, 5]
    )
    torch.testing.assert_close(smaller.train.inputs, X[[1, 2, 3, 5]])
    assert torch.equal(smaller.train.targets, Y[[1, 2, 3, 5]])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtype_is_kept(dtype):
    model = wrap(network(dtype=dtype), train=(X, Y))
    assert model.dtype == dtype
    assert model.inputs(X).dtype == dtype
    assert model.predict_proba(X).dtype == dtype
    assert model.train.inputs.dtype == dtype


def test_integer_pixels_become_floats_and_tokens_stay_integers():
    images = (torch.rand(4, 1, 8, 8) * 255).to(torch.uint8)
    model = wrap(Convolutional(), task="classification")
    assert model.inputs(images).dtype == torch.float32
    tokens = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 2))
    text = wrap(tokens, train=(np.arange(12).reshape(4, 3) % 10, [0, 1, 0, 1]))
    assert text.inputs(np.zeros((2, 3), dtype=int)).dtype == torch.int64
    with pytest.raises(TypeError, match="FGSM"):
        text.continuous_inputs(np.zeros((2, 3), dtype=int), "FGSM")


def test_head_is_found_without_surgery():
    images = torch.rand(5, 1, 8, 8)
    model = wrap(Convolutional(), train=(images, [0, 1, 2, 0, 1]))
    assert model.head_name == "classify"
    assert model.features(images).shape == (5, 144)
    lazy = wrap(Convolutional(), task="classification")
    with pytest.raises(ValueError, match="train="):
        _ = lazy.head
    lazy.predict(images)
    assert lazy.head[0].shape == (3, 144)


def test_root_linear_and_missing_bias():
    model = wrap(nn.Linear(6, 3, bias=False), train=(X, Y))
    assert model.head_name == ""
    assert torch.equal(model.head[1], torch.zeros(3))
    torch.testing.assert_close(model.features(X), X)


def test_no_linear_head_lists_the_layers():
    module = nn.Sequential(nn.Linear(6, 3), nn.LogSoftmax(1))
    model = wrap(module, train=(X, Y))
    assert model.head is None
    with pytest.raises(ValueError, match=r"layers that run are 0, 1"):
        model.features(X)
    torch.testing.assert_close(model.predict_proba(X), module(X).exp())


def test_one_output_is_a_binary_classifier():
    y = (X[:, 0] > 0).long()
    for module in (network(1), nn.Sequential(network(1), nn.Flatten(0))):
        model = wrap(module, train=(X, y))
        assert model.task == "classification"
        logits = model.logits(X)
        assert logits.shape == (40, 2)
        assert torch.equal(logits[:, 0], torch.zeros(40))
        torch.testing.assert_close(model.predict_proba(X)[:, 1], logits[:, 1].sigmoid())
        torch.testing.assert_close(
            model.loss(X, y),
            nn.functional.binary_cross_entropy_with_logits(
                logits[:, 1], y.float(), reduction="none"
            ),
        )


def test_regression():
    y = X @ torch.arange(6.0)
    model = wrap(network(1), train=(X, y))
    assert model.task == "regression"
    assert model.predict(X).shape == (40,)
    torch.testing.assert_close(model.loss(X, y), (model.predict(X) - y) ** 2)
    torch.testing.assert_close(model.loss(X, y[:, None]), (model.predict(X) - y) ** 2)
    two = wrap(network(2), train=(X, torch.stack([y, -y], 1)))
    assert two.predict(X).shape == (40, 2)


def test_multilabel():
    y = (X[:, :3] > 0).long()
    model = wrap(network(3), train=(X, y))
    assert model.task == "multilabel"
    assert model.predict(X).shape == (40, 3)
    torch.testing.assert_close(model.predict_proba(X), model.logits(X).sigmoid())
    assert model.loss(X, y).shape == (40,)
    assert model.n_classes == 3


def test_language_modeling():
    tokens = torch.randint(0, 11, (6, 5), generator=torch.Generator().manual_seed(1))
    module = nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 11))
    model = wrap(module, task="language-modeling", train=(tokens[:, :-1], tokens[:, 1:]))
    assert model.predict(tokens[:, :-1]).shape == (6, 4)
    assert model.predict_proba(tokens[:, :-1]).shape == (6, 4, 11)
    expected = nn.functional.cross_entropy(
        module(tokens[:, :-1]).transpose(1, 2), tokens[:, 1:], reduction="none"
    ).mean(1)
    torch.testing.assert_close(model.loss(tokens[:, :-1], tokens[:, 1:]), expected.detach())
    assert model.objective.value() == pytest.approx(float(expected.detach().mean()), rel=1e-5)


def test_several_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(6, 3), nn.Linear(2, 3)

        def forward(self, a, b):
            return self.left(a) + self.right(b)

    module, b = Two(), torch.rand(40, 2)
    by_name = wrap(module, train=({"a": X, "b": b}, Y))
    by_place = wrap(module, train=((X, b), Y))
    torch.testing.assert_close(by_name.logits({"a": X, "b": b}), module(X, b).detach())
    torch.testing.assert_close(by_place.logits((X, b)), module(X, b).detach())
    assert by_name.train.inputs.keys() == {"a", "b"}
    assert by_name.head is None


def test_lazy_datasets_are_read_when_needed():
    class Counting(Dataset):
        reads = 0

        def __len__(self):
            return 40

        def __getitem__(self, i):
            type(self).reads += 1
            return X[i], int(Y[i])

    model = wrap(network(), train=Counting())
    held = Counting.reads
    assert len(model.train) == 40
    assert Counting.reads == held
    assert torch.equal(model.train.targets, Y)


def test_probabilities_are_refused_as_logits():
    for module in (
        nn.Sequential(network(), nn.Softmax(1)),
        nn.Sequential(network(1), nn.Sigmoid()),
    ):
        with pytest.raises(ValueError, match="logits"):
            wrap(module, train=(X, Y.clamp(max=1)), task="classification")
        model = wrap(module, task="classification")
        with pytest.raises(ValueError, match="remove the last activation"):
            model.predict(X)

    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, x):
            return self.inner(x).softmax(1)

    with pytest.raises(ValueError, match="sum to one"):
        wrap(Hidden(), train=(X, Y))


def test_replace_leaves_the_original():
    model = wrap(network(), train=(X, Y), class_names=["x", "y", "z"])
    space = ParameterSpace(model.module)
    before = model.predict_proba(X)
    other = model.replace(space, torch.zeros(space.size))
    torch.testing.assert_close(other.predict_proba(X), torch.full((40, 3), 1 / 3))
    torch.testing.assert_close(model.predict_proba(X), before)
    assert other.class_names == ["x", "y", "z"]
    assert other.train is model.train
    assert other.objective.module is other.module
    unlearned = model.replace(space, torch.zeros(space.size), without=[0, 5])
    assert len(unlearned.train) == 38
    assert torch.equal(unlearned.train.targets, torch.cat([Y[1:5], Y[6:]]))
    assert unlearned.objective.n == 40
    assert unlearned.objective.value() == pytest.approx(np.log(3) * 38 / 40, rel=1e-5)


def test_moving_copies_the_module():
    module = network()
    model = wrap(module, task="classification", device="cpu")
    assert model.module is module
    with torch.device("meta"):
        elsewhere = network()
    assert wrap(elsewhere, task="classification").device.type == "meta"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda():
    module = network()
    model = wrap(module, train=(X, Y), device="cuda")
    assert next(module.parameters()).device.type == "cpu"
    assert model.device.type == "cuda"
    assert isinstance(model.predict_proba(X.numpy()), np.ndarray)
    assert model.predict_proba(X).device.type == "cpu"
    assert model.predict_proba(X.cuda()).device.type == "cuda"


def test_batches_shrink_when_memory_runs_out():
    class Hungry(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.sizes = network(), []

        def forward(self, x):
            self.sizes.append(len(x))
            if len(x) > 10:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return self.inner(x)

    module = Hungry()
    model = wrap(module, task="classification")
    torch.testing.assert_close(model.logits(X), wrap(module.inner, task="classification").logits(X))
    assert max(module.sizes) == 40
