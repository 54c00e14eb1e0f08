"""What one traced batch tells: heads, layers, what goes in and out."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trustml.core.features import Capture, find_head, layer_shapes


class Twice(nn.Module):
    """The head runs first for an auxiliary output, then for the real one."""

    def __init__(self, last=lambda x: x):
        super().__init__()
        self.body, self.head, self.last = nn.Linear(3, 4), nn.Linear(4, 2), last

    def forward(self, x):
        self.head(torch.zeros(1, 4))
        return self.last(self.head(self.body(x)))


def mlp(*rest):
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), *rest)


@pytest.mark.parametrize(
    ("module", "head"),
    [
        (nn.Linear(3, 2), ""),
        (mlp(), "2"),
        (mlp(nn.Dropout(), nn.Identity(), nn.Unflatten(1, (2, 1))), "2"),
        (nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)), "0"),
        (Twice(), "head"),
        (Twice(lambda x: x[:, :1]), None),
        (Twice(lambda x: x + 0), None),
        (mlp(nn.Softmax(1)), None),
        (mlp(nn.ReLU(inplace=True)), None),
        (mlp(nn.Sigmoid()), None),
        (nn.Sequential(nn.Flatten(), nn.ReLU()), None),
    ],
)
def test_find_head(module, head):
    module.train()
    x = torch.randn(5, 3)
    kept = x.clone()
    assert find_head(module, x) == head
    assert module.training
    assert torch.equal(x, kept)
    assert not any(part._forward_hooks for part in module.modules())


def test_find_head_of_a_module_with_two_inputs():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 1)

        def forward(self, x, shift):
            return self.b(F.relu(self.a(x)) + shift).squeeze(1)

    assert find_head(Pair(), (torch.ones(4, 3), torch.ones(4, 3))) == "b"
    assert find_head(Pair(), {"x": torch.ones(4, 3), "shift": torch.ones(4, 3)}) == "b"


def test_layers_in_order_of_execution():
    # A layer that is called twice counts where it ends.
    assert list(layer_shapes(Twice(), torch.ones(2, 3))) == ["body", "head", ""]
    module = mlp()
    module.add_module("idle", nn.Identity())
    module.forward = lambda x: module[2](module[1](module[0](x)))
    assert list(layer_shapes(module, torch.ones(2, 3))) == ["0", "1", "2", ""]


def test_capture_keeps_graphs_and_unhooks():
    module, x = mlp(), torch.ones(2, 3, requires_grad=True)
    with Capture(module, inputs_of=["2", ""], outputs_of=["0"]) as seen:
        out = module(x)
    assert torch.equal(module[2](seen.inputs["2"]), out)
    assert seen.inputs[""] is x
    assert seen.outputs["0"].shape == (2, 4)
    assert torch.autograd.grad(seen.inputs["2"].sum(), x)[0].shape == x.shape
    module(x * 2)
    assert seen.inputs[""] is x
    assert not any(part._forward_hooks for part in module.modules())


def test_capture_of_keywords_and_after_an_error():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            return self.layer(input=x)

    module = Named()
    with Capture(module, inputs_of=["layer"]) as seen:
        module(torch.ones(4, 3))
    assert seen.inputs["layer"].shape == (4, 3)
    with pytest.raises(RuntimeError), Capture(module, inputs_of=["layer"]):
        module(torch.ones(4, 7))
    assert not module.layer._forward_hooks


def test_unknown_layer_is_named():
    with pytest.raises(ValueError, match=r"no layer named \['9'\]; there are: \['0', '1', '2'\]"):
        Capture(mlp(), inputs_of=["9"])
