"""Recurrent layers: unrolled they give torch's outputs, and the loop's gradients."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from trustml.core._recurrent import can_unroll, unroll
from trustml.core.gradients import PerExampleGradients
from trustml.core.parameters import ParameterSpace
from trustml.warnings import BackendWarning

LAYERS = {
    "lstm": lambda: nn.LSTM(3, 4),
    "lstm projected": lambda: nn.LSTM(3, 4, num_layers=2, proj_size=2, bidirectional=True),
    "lstm no bias": lambda: nn.LSTM(3, 4, bias=False, batch_first=True),
    "gru": lambda: nn.GRU(3, 4, num_layers=2, batch_first=True, dropout=0.5),
    "gru both ways": lambda: nn.GRU(3, 4, num_layers=2, bidirectional=True),
    "rnn": lambda: nn.RNN(3, 4),
    "rnn relu": lambda: nn.RNN(3, 4, nonlinearity="relu", bidirectional=True, batch_first=True),
}


class Reader(nn.Module):
    """Uses the outputs, the last hidden states and an initial state that is learnt."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.out = layer, nn.LazyLinear(2)
        hidden = layer.proj_size or layer.hidden_size
        self.start = nn.Parameter(torch.randn(layer.num_layers * (1 + layer.bidirectional), hidden))

    def forward(self, x):
        axis = 0 if self.layer.batch_first else 1
        state = self.start[:, None].expand(-1, len(x), -1).contiguous()
        if isinstance(self.layer, nn.LSTM):
            cell = torch.ones(len(state), len(x), self.layer.hidden_size, dtype=x.dtype)
            state = (state, cell)
        steps, end = self.layer(x if axis == 0 else x.transpose(0, 1), state)
        ends = end if isinstance(end, tuple) else (end,)
        return self.out(torch.cat([steps.mean(1 - axis), *(e[-1] for e in ends)], dim=1))


def reader(name):
    torch.manual_seed(0)
    module, x = Reader(LAYERS[name]()).double(), torch.randn(6, 5, 3, dtype=torch.float64)
    module(x)
    return module, x


def towards(outputs):
    return torch.stack([outputs.cos(), outputs.sin() + 1], dim=1)


@pytest.mark.parametrize("name", list(LAYERS))
def test_gradients_are_the_loops(name):
    module, x = reader(name)
    layers = ParameterSpace(module, ["layer", "out"])
    gradients = PerExampleGradients(module, layers)
    outputs, rows = gradients.rows(x, towards)
    expected, reference = PerExampleGradients(module, layers, "loop").rows(x, towards)
    assert gradients.backend == "hooks"
    torch.testing.assert_close(outputs, expected)
    torch.testing.assert_close(rows, reference)
    vectors = torch.randn(layers.size, 3, dtype=torch.float64)
    torch.testing.assert_close(gradients.dot(x, towards, vectors)[1], reference @ vectors)


@pytest.mark.parametrize("name", list(LAYERS))
def test_unrolled_layer_returns_what_the_layer_returns(name):
    layer = LAYERS[name]().double().eval()
    x = torch.randn(6, 5, 3, dtype=torch.float64)
    expected, end = layer(x)
    found, last = unroll(layer, (x,), {}, lambda *_: None)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(last, end)


def test_subset_of_a_layers_parameters():
    module, x = reader("gru")
    space = ParameterSpace(module, "layer.weight_hh_l1")
    _, rows = PerExampleGradients(module, space, "hooks").rows(x, towards)
    _, reference = PerExampleGradients(module, space, "loop").rows(x, towards)
    torch.testing.assert_close(rows, reference)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_what_is_not_torchs_own_layer_is_left_alone():
    assert can_unroll(nn.GRU(2, 2))
    assert not can_unroll(nn.GRUCell(2, 2))
    assert not can_unroll(nn.utils.weight_norm(nn.GRU(2, 2), "weight_hh_l0"))
    assert not can_unroll(type("Mine", (nn.GRU,), {})(2, 2))
    assert unroll(nn.GRU(2, 2), (torch.ones(3, 2),), {}, lambda *_: None) is None


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.GRU(3, 2, batch_first=True)

    def forward(self, x):
        lengths = torch.full((len(x),), x.shape[1])
        packed = pack_padded_sequence(x, lengths, batch_first=True)
        return self.layer(packed)[1][-1]


def test_packed_sequences_take_the_loop():
    torch.manual_seed(0)
    module, x = Packed().double(), torch.randn(4, 5, 3, dtype=torch.float64)
    gradients = PerExampleGradients(module, ParameterSpace(module))
    with pytest.warns(BackendWarning, match="one backward pass a row"):
        _, rows = gradients.rows(x, towards)
    assert gradients.backend == "loop"
    assert bool((rows[0] != rows[1]).any())
