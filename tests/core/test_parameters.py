"""Parameter spaces: who is selected, and the vector they make."""

from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trustml.core.features import find_head
from trustml.core.parameters import ParameterSpace


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2, bias=False), nn.LayerNorm(2))


def tied():
    module = nn.ModuleDict({"words": nn.Embedding(5, 3), "head": nn.Linear(3, 5)})
    module["head"].weight = module["words"].weight
    return module


def test_everything_in_module_order():
    space = ParameterSpace(net())
    assert space.names == ("0.weight", "0.bias", "2.weight", "3.weight", "3.bias")
    assert space.size == 12 + 4 + 8 + 2 + 2
    assert space.slices["2.weight"] == slice(16, 24)
    assert space.shapes["2.weight"] == (2, 4)
    assert space.dtype == torch.float32
    assert space.device == torch.device("cpu")
    assert "size=28" in repr(space)


@pytest.mark.parametrize(
    ("selection", "names"),
    [
        ("0", ("0.weight", "0.bias")),
        ("2.weight", ("2.weight",)),
        (r"bias$", ("0.bias", "3.bias")),
        (["3.bias", "0.bias"], ("0.bias", "3.bias")),
        (["3", "3.bias"], ("3.weight", "3.bias")),
        ("last_layer", ("2.weight",)),
    ],
)
def test_selection(selection, names):
    assert ParameterSpace(net(), selection, head="2").names == names


def test_last_layer_of_a_module_that_is_the_layer():
    module = nn.Linear(3, 2)
    head = find_head(module, torch.ones(1, 3))
    assert ParameterSpace(module, "last_layer", head=head).names == ("weight", "bias")


def test_none_skips_frozen_and_names_do_not():
    module = net()
    module[0].requires_grad_(False)
    assert "0.weight" not in ParameterSpace(module).names
    assert ParameterSpace(module, "0").names == ("0.weight", "0.bias")
    assert not module[0].weight.requires_grad


def test_tied_weights_are_one():
    module = tied()
    space = ParameterSpace(module)
    assert space.names == ("words.weight", "head.bias")
    assert ParameterSpace(module, "head").names == ("words.weight", "head.bias")
    assert ParameterSpace(module, "head.weight").names == ("words.weight",)
    assert space.expand({"head.weight": 2.0}).sum() == 2 * 15


def test_vector_is_a_copy_and_load_writes_it():
    module = net()
    space = ParameterSpace(module)
    vector = space.vector()
    assert torch.equal(vector, nn.utils.parameters_to_vector(module.parameters()).detach())
    vector += 1
    assert not torch.equal(vector, space.vector())
    one = ParameterSpace(module, "2.weight")
    one.vector().zero_()
    assert module[2].weight.abs().sum() > 0
    copy = deepcopy(module)
    space.load(copy, vector)
    assert torch.equal(space.on(copy).vector(), vector)
    assert not torch.equal(space.vector(), vector)
    assert space.on(copy).names == space.names


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), chosen=st.sets(st.integers(0, 4), min_size=1))
def test_flatten_and_unflatten_are_inverse(seed, chosen):
    module = net()
    every = [name for name, _ in module.named_parameters()]
    space = ParameterSpace(module, [every[i] for i in chosen])
    vector = torch.randn(space.size, generator=torch.Generator().manual_seed(seed))
    parts = space.unflatten(vector)
    assert torch.equal(space.flatten(parts), vector)
    assert list(parts) == [every[i] for i in sorted(chosen)]


def test_weight_decay():
    space = ParameterSpace(net())
    assert torch.equal(space.expand(0.5), torch.full((28,), 0.5))
    by_name = space.unflatten(space.expand({"weight": 1.0, "2.weight": 3.0, "0.bias": 4.0}))
    assert {name: float(v.mean()) for name, v in by_name.items()} == {
        "0.weight": 1.0,
        "0.bias": 4.0,
        "2.weight": 3.0,
        "3.weight": 1.0,
        "3.bias": 0.0,
    }
    last = ParameterSpace(net(), "2")
    assert torch.equal(last.expand({"0.weight": 1.0, "2": 2.0}), torch.full((8,), 2.0))


def test_mixed_dtypes_promote():
    module = net()
    module[0].double()
    space = ParameterSpace(module)
    assert space.vector().dtype == torch.float64
    space.load(module, space.vector() + 1)
    assert module[2].weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("act", "match"),
    [
        (lambda: ParameterSpace(nn.ReLU()), "has no parameters"),
        (lambda: ParameterSpace(net().requires_grad_(False)), "requires a gradient"),
        (lambda: ParameterSpace(net(), "nothing"), "fits no parameter; there are: 0.weight"),
        (lambda: ParameterSpace(net(), "1"), "layer '1' has no parameters"),
        (lambda: ParameterSpace(net(), "("), "no regular expression"),
        (lambda: ParameterSpace(net(), []), "no parameters selected"),
        (lambda: ParameterSpace(net(), "last_layer"), "pass head="),
        (lambda: ParameterSpace(nn.LazyLinear(2)), "run the module once"),
        (lambda: ParameterSpace(net()).unflatten(torch.ones(3)), r"shape \(28,\)"),
        (lambda: ParameterSpace(net()).flatten({}), "no tensor for"),
        (
            lambda: ParameterSpace(net(), "2").flatten({"2.weight": torch.ones(4, 2)}),
            "must have shape",
        ),
        (lambda: ParameterSpace(net()).expand(-1.0), "at least 0"),
        (lambda: ParameterSpace(net()).expand({"0": float("nan")}), "at least 0"),
        (lambda: ParameterSpace(net()).expand({"nothing": 1.0}), "fits no parameter"),
        (lambda: ParameterSpace(net()).expand({"0": 1.0, "weight": 2.0}), "disagree"),
    ],
)
def test_bad_input(act, match):
    with pytest.raises(ValueError, match=match):
        act()


def test_integer_parameters_are_refused():
    module = nn.Linear(2, 2)
    module.codes = nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match="only floating point"):
        ParameterSpace(module, "codes")
    assert ParameterSpace(module).names == ("weight", "bias")
