"""Per-example gradients: every backend gives the loop's numbers, whatever the layers."""

import warnings
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from trustml.core._terms import Outer, Scatter
from trustml.core.batches import apply
from trustml.core.gradients import PerExampleGradients
from trustml.core.losses import CrossEntropy, SquaredError
from trustml.core.parameters import ParameterSpace
from trustml.warnings import BackendWarning, DeterminismWarning

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def with_statistics(module):
    """Give batch norms something else than zeros and ones to normalise with."""
    for part in module.modules():
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2.0)
            part.weight.data.normal_()
    return module


class Tokens(nn.Module):
    """Embedding with padding, positions seen by all rows, a norm, a mean over positions."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(11, 6, padding_idx=0)
        self.places = nn.Embedding(5, 6)
        self.norm = nn.LayerNorm(6)
        self.inner = nn.Linear(6, 4)
        self.out = nn.Linear(4, 3)

    def forward(self, tokens):
        places = torch.arange(tokens.shape[1], device=tokens.device)[None]
        x = self.norm(self.words(tokens) + self.places(places))
        return self.out(torch.tanh(self.inner(x)).mean(1))


class Tied(nn.Module):
    """A language model whose head is its embedding, with a layer that runs twice."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(7, 5)
        self.mix = nn.Linear(5, 5)
        self.head = nn.Linear(5, 7, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens):
        x = self.words(tokens)
        x = torch.tanh(self.mix(torch.tanh(self.mix(x))))
        return self.head(x.mean(1))


class Keyword(nn.Module):
    """Takes a dict, flattens positions into rows, returns an object with logits."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 4)
        self.out = nn.Linear(8, 2)

    def forward(self, *, values, mask):
        x = self.inner(input=values.reshape(-1, 3)).reshape(len(values), 2, 4)
        return SimpleNamespace(logits=self.out((x * mask[..., None]).flatten(1)))


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(3, 2), nn.Linear(4, 2)

    def forward(self, a, b):
        return self.left(a) * self.right(b)


def conv(dimension, **kwargs):
    kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dimension]
    return nn.Sequential(kind(4, 6, 3, **kwargs), nn.ReLU(inplace=True), nn.Flatten())


def transposed(dimension, **kwargs):
    kind = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[dimension]
    return nn.Sequential(kind(4, 6, 3, **kwargs), nn.Tanh(), nn.Flatten())


MODULES = {
    "linear": lambda: nn.Linear(4, 3),
    "no bias": lambda: nn.Sequential(nn.Linear(4, 5, bias=False), nn.Tanh(), nn.Linear(5, 2)),
    "one output": lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(True), nn.Linear(5, 1)),
    "flat output": lambda: nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)),
    "positions": lambda: nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 3)),
    "deep positions": lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)),
    "batch norm": lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(True)),
    "norms": lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.RMSNorm(6)),
    "no affine": lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6, elementwise_affine=False)),
    "images": lambda: nn.Sequential(
        nn.Conv2d(4, 6, 3, padding=1, stride=2, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 4, (2, 1), groups=2, dilation=(1, 2)),
        nn.GroupNorm(2, 4),
        nn.Flatten(),
        nn.LazyLinear(3),
    ),
    "conv 1d": lambda: conv(1, padding=2, dilation=2),
    "conv same": lambda: conv(2, padding="same", padding_mode="circular"),
    "conv same even": lambda: nn.Sequential(nn.Conv2d(4, 2, 4, padding="same"), nn.Flatten()),
    "conv reflect": lambda: conv(2, padding=(1, 2), stride=(2, 1), padding_mode="reflect"),
    "depthwise": lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), nn.Flatten()),
    "conv 3d": lambda: conv(3, stride=2),
    "transposed 1d": lambda: transposed(1, stride=3, padding=1, output_padding=2, dilation=2),
    "transposed": lambda: transposed(2, groups=2, stride=(2, 1), padding=(1, 0)),
    "transposed far": lambda: transposed(2, stride=1, dilation=3, output_padding=2),
    "transposed 3d": lambda: transposed(3, bias=False, padding=1),
    "instances": lambda: nn.Sequential(
        nn.InstanceNorm2d(4, affine=True),
        nn.Conv2d(4, 4, 2),
        nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        nn.Flatten(),
    ),
    "tokens": Tokens,
    "tied": Tied,
    "keyword": Keyword,
    "pair": Pair,
}


def make_inputs(name, n, dtype):
    def normal(*shape):
        return torch.randn(n, *shape, generator=generator, dtype=dtype)

    generator = torch.Generator().manual_seed(n)
    if name in ("tokens", "tied"):
        tokens = torch.randint(0, 7, (n, 5), generator=generator)
        tokens[:, -1] = 0
        return tokens
    if name == "keyword":
        return {"values": normal(2, 3), "mask": torch.ones(n, 2, dtype=dtype)}
    if name == "pair":
        return normal(3), normal(4)
    if name == "positions":
        return normal(6, 4)
    if name == "deep positions":
        return normal(2, 3, 4)
    if name in ("conv 1d", "transposed 1d"):
        return normal(4, 9)
    if name == "conv 3d":
        return normal(4, 5, 5, 5)
    if name == "transposed 3d":
        return normal(4, 2, 3, 2)
    if name in ("transposed", "transposed far"):
        return normal(4, 3, 4)
    if name in ("images", "instances", "depthwise") or "conv" in name:
        return normal(4, 7, 8)
    return normal(4)


def make(name, dtype, n=5):
    torch.manual_seed(0)
    module, inputs = MODULES[name]().to(dtype), make_inputs(name, n, dtype)
    if isinstance(inputs, torch.Tensor):
        module(inputs)  # gives lazy layers their shape
    return with_statistics(module.train()), inputs


def towards(outputs):
    return torch.randn(
        outputs.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    ).to(outputs)


def close(a, b):
    scale = b.abs().max().clamp_min(1e-3)
    return float((a - b).abs().max() / scale) < TOLERANCE[b.dtype]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["32", "64"])
@pytest.mark.parametrize("name", list(MODULES))
def test_backends_agree(name, dtype):
    module, inputs = make(name, dtype)
    space = ParameterSpace(module)
    loop = PerExampleGradients(module, space, "loop")
    outputs, reference = loop.rows(inputs, towards)
    vectors = torch.randn(space.size, 3, dtype=dtype)
    for backend in ("hooks", "vmap"):
        gradients = PerExampleGradients(module, space, backend)
        seen, rows = gradients.rows(inputs, towards)
        assert gradients.backend == backend
        assert not rows.requires_grad
        assert not seen.requires_grad
        assert close(seen, outputs)
        assert close(rows, reference)
        assert close(gradients.dot(inputs, towards, vectors)[1], reference @ vectors)
        assert close(gradients.squared_norm(inputs, towards), reference.square().sum(1))
    assert PerExampleGradients(module, space).rows(inputs, towards)[1].shape == (5, space.size)


@pytest.mark.parametrize("backend", ["hooks", "vmap", "loop"])
@pytest.mark.parametrize("name", ["images", "tied", "flat output", "positions", "transposed"])
def test_several_directions_are_each_alone(name, backend):
    module, inputs = make(name, torch.float64)
    space = ParameterSpace(module)
    gradients = PerExampleGradients(module, space, backend)
    with torch.no_grad():
        outputs = module.eval()(inputs)
    u = torch.randn(5, 4, *outputs.shape[1:], dtype=torch.float64)
    vectors = torch.randn(space.size, 2, dtype=torch.float64)
    _, rows = gradients.rows(inputs, lambda _: u)
    _, flat = gradients.rows(inputs, lambda _: u.reshape(5, 4, -1))
    _, products = gradients.dot(inputs, lambda _: u, vectors)
    assert rows.shape == (5, 4, space.size)
    assert torch.equal(rows, flat)
    assert close(products, rows @ vectors)
    assert close(gradients.squared_norm(inputs, lambda _: u), rows.square().sum(-1))
    for j in range(4):
        assert close(rows[:, j], gradients.rows(inputs, lambda _, j=j: u[:, j])[1])


def test_rows_add_up_to_the_gradient_of_the_sum():
    module, inputs = make("images", torch.float64)
    module.eval()
    space, loss, y = ParameterSpace(module), CrossEntropy(), torch.tensor([0, 1, 2, 0, 1])
    _, rows = PerExampleGradients(module, space).rows(inputs, lambda f: loss.gradient(f, y))
    total = torch.autograd.grad(loss(module(inputs), y).sum(), list(module.parameters()))
    assert close(rows.sum(0), torch.cat([part.flatten() for part in total]))


def test_gauss_newton_rows_of_a_linear_model():
    x = torch.randn(6, 3, dtype=torch.float64)
    module, loss, y = nn.Linear(3, 1, dtype=torch.float64), SquaredError(), torch.zeros(6, 1)
    gradients = PerExampleGradients(module, ParameterSpace(module))
    _, rows = gradients.rows(x, lambda f: loss.hessian_factor(f, y).mT)
    design = torch.cat([x, torch.ones(6, 1, dtype=torch.float64)], 1)
    gram = rows.flatten(0, 1).mT @ rows.flatten(0, 1)
    assert torch.allclose(gram, 2 * design.mT @ design)


@pytest.mark.parametrize("backend", ["auto", "hooks", "vmap", "loop"])
def test_nothing_of_the_users_changes(backend):
    module, inputs = make("images", torch.float32)
    module[0].weight.requires_grad_(False)
    module[1].eval()
    before, kept = deepcopy(module.state_dict()), inputs.clone()
    flags = [part.training for part in module.modules()]
    needs = [p.requires_grad for p in module.parameters()]
    state = torch.get_rng_state()
    space = ParameterSpace(module, [".*"])
    gradients = PerExampleGradients(module, space, backend)
    _, rows = gradients.rows(inputs, towards)
    assert rows[:, space.slices["0.weight"]].abs().sum() > 0  # frozen, and still selected
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert [part.training for part in module.modules()] == flags
    assert [p.requires_grad for p in module.parameters()] == needs
    assert all(p.grad is None for p in module.parameters())
    assert not any(part._forward_hooks for part in module.modules())
    assert torch.equal(inputs, kept)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("backend", ["hooks", "vmap", "loop"])
def test_module_that_overwrites_its_input(backend):
    module = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 2))
    x = torch.randn(4, 3)
    kept = x.clone()
    PerExampleGradients(module, ParameterSpace(module), backend).rows(x, towards)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("backend", ["hooks", "vmap", "loop"])
def test_works_where_gradients_are_switched_off(mode, backend):
    module, inputs = make("images", torch.float32)
    gradients = PerExampleGradients(module, ParameterSpace(module), backend)
    with mode():
        _, rows = gradients.rows(inputs.clone(), towards)
    assert torch.equal(rows, gradients.rows(inputs, towards)[1])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["images", "tokens", "tied", "keyword"])
def test_backends_agree_on_the_device(name):
    module, inputs = make(name, torch.float64)
    module.cuda()
    space = ParameterSpace(module)
    inputs = apply(lambda x: x.cuda(), inputs)
    _, reference = PerExampleGradients(module, space, "loop").rows(inputs, towards)
    assert reference.device.type == space.device.type == "cuda"
    for backend in ("hooks", "vmap"):
        assert close(
            PerExampleGradients(module, space, backend).rows(inputs, towards)[1], reference
        )


def test_subset_of_parameters():
    module, inputs = make("images", torch.float64)
    whole, part = ParameterSpace(module), ParameterSpace(module, ["1", "6.bias"])
    _, every = PerExampleGradients(module, whole, "loop").rows(inputs, towards)
    for backend in ("hooks", "vmap", "loop"):
        _, rows = PerExampleGradients(module, part, backend).rows(inputs, towards)
        for name in part.names:
            assert close(rows[:, part.slices[name]], every[:, whole.slices[name]])


def test_parameter_that_the_output_does_not_use_has_zero_rows():
    module = nn.ModuleDict({"used": nn.Linear(3, 2), "idle": nn.Linear(3, 2)})
    module.forward = lambda x: module["used"](x)
    for backend in ("hooks", "vmap", "loop"):
        space = ParameterSpace(module)
        _, rows = PerExampleGradients(module, space, backend).rows(torch.ones(4, 3), towards)
        assert rows[:, space.slices["idle.weight"]].abs().sum() == 0
        assert rows[:, space.slices["used.weight"]].abs().sum() > 0


class Prompted(nn.Module):
    """A layer with a parameter of its own around a layer with a rule, as in vision transformers."""

    def __init__(self):
        super().__init__()
        self.token, self.inner = nn.Parameter(torch.randn(1, 1, 4)), nn.Linear(4, 4)

    def forward(self, x):
        return torch.cat([self.token.expand(len(x), -1, -1), self.inner(x)], 1)


class Conv1D(nn.Module):
    """A linear layer that keeps its weight as (in, out), as in GPT-2."""

    def __init__(self):
        super().__init__()
        self.nf = 3
        self.weight, self.bias = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return torch.addmm(self.bias, x.reshape(-1, 4), self.weight).reshape(*x.shape[:-1], 3)


LAYERS_WITHOUT_A_RULE = {
    "prompted": lambda: nn.Sequential(Prompted(), nn.Flatten(), nn.Linear(24, 2)),
    "transposed linear": lambda: nn.Sequential(Conv1D(), nn.Flatten(), nn.Linear(15, 2)),
    "prelu": lambda: nn.Sequential(nn.PReLU(), nn.PReLU(5, init=0.1), nn.Flatten()),
    "pairwise": lambda: nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(20, 4), Conv1D())),
}


@pytest.mark.parametrize("name", list(LAYERS_WITHOUT_A_RULE))
def test_hooks_vectorise_layers_without_a_rule(name):
    torch.manual_seed(0)
    module = LAYERS_WITHOUT_A_RULE[name]().double()
    x = torch.randn(6, 5, 4, dtype=torch.float64)
    space = ParameterSpace(module)
    gradients = PerExampleGradients(module, space)
    _, rows = gradients.rows(x, towards)
    assert gradients.backend == "hooks"
    _, reference = PerExampleGradients(module, space, "loop").rows(x, towards)
    assert close(rows, reference)
    vectors = torch.randn(space.size, 2, dtype=torch.float64)
    assert close(gradients.dot(x, towards, vectors)[1], reference @ vectors)


def test_exported_module():
    x, batch = torch.randn(6, 4), torch.export.Dim("n", min=1)
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    module = torch.export.export(net, (x,), dynamic_shapes=({0: batch},)).module()
    _, rows = PerExampleGradients(module, ParameterSpace(module)).rows(x, towards)
    _, reference = PerExampleGradients(net, ParameterSpace(net), "loop").rows(x, towards)
    assert close(rows, reference)


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm"])
def test_parametrised_layer(norm):
    torch.manual_seed(0)
    layer = getattr(nn.utils.parametrizations, norm)(nn.Linear(4, 3))
    module, x = nn.Sequential(layer, nn.Linear(3, 2)).eval(), torch.randn(6, 4)
    gradients = PerExampleGradients(module, ParameterSpace(module))
    _, rows = gradients.rows(x, towards)
    assert gradients.backend == "hooks"
    _, reference = PerExampleGradients(module, ParameterSpace(module), "loop").rows(x, towards)
    assert close(rows, reference)


class Functional(nn.Module):
    """Uses a covered layer's weight a second time behind the layer's back."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return F.linear(self.layer(x), self.layer.weight)


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return x * self.scale


class SequenceFirst(nn.Module):
    """Its layer sees (t, n, d): the first axis is not the batch."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        return self.layer(x.transpose(0, 1)).transpose(0, 1).cumsum(1).mean(1)


@pytest.mark.parametrize("t", [1, 2, 3, 6])
def test_sequence_first_layers_are_not_mistaken(t):
    module, x = SequenceFirst().double(), torch.randn(3, t, 4, dtype=torch.float64)
    _, reference = PerExampleGradients(module, ParameterSpace(module), "loop").rows(x, towards)
    gradients = PerExampleGradients(module, ParameterSpace(module))
    _, rows = gradients.rows(x, towards)
    assert gradients.backend == "hooks"
    assert close(rows, reference)


class Causal(nn.Module):
    """Attention over (t, n, d) with a mask (t, t)."""

    def __init__(self):
        super().__init__()
        self.layer, self.out = nn.TransformerEncoderLayer(4, 2, 4), nn.Linear(4, 2)

    def forward(self, x):
        t = x.shape[1]
        mask = torch.ones(t, t, dtype=torch.bool).triu(1)
        return self.out(self.layer(x.transpose(0, 1), src_mask=mask).transpose(0, 1).mean(1))


@pytest.mark.parametrize("n", [1, 3, 5, 10])
def test_attention_over_the_first_axis(n):
    """Also with as many rows as positions, where the mask could be taken for rows."""
    torch.manual_seed(0)
    module, x = Causal().double(), torch.randn(10, 5, 4, dtype=torch.float64)
    gradients = PerExampleGradients(module, ParameterSpace(module), "hooks")
    _, reference = PerExampleGradients(module, ParameterSpace(module), "loop").rows(x, towards_sum)
    found = torch.cat([gradients.rows(part, towards_sum)[1] for part in x.split(n)])
    assert close(found, reference)


class Placed(nn.Module):
    """Positions looked up without a batch axis, parameters of its own, attention over positions."""

    def __init__(self):
        super().__init__()
        self.token, self.places = nn.Parameter(torch.randn(1, 1, 4)), nn.Embedding(7, 4)
        self.shift, self.mix = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        places = self.shift(self.places(torch.arange(x.shape[1])))
        x = torch.cat([self.token.expand(len(x), -1, -1), x + places], dim=1)
        return self.mix(x).cumsum(1).sin().mean(1)


@pytest.mark.parametrize("n", [1, 2, 5, 10])
def test_positions_are_not_taken_for_rows(n):
    """As many rows as positions, too: which is which follows from batches of one and two rows."""
    torch.manual_seed(0)
    module, x = Placed().double(), torch.randn(10, 5, 4, dtype=torch.float64)
    gradients = PerExampleGradients(module, ParameterSpace(module), "hooks")
    _, reference = PerExampleGradients(module, ParameterSpace(module), "loop").rows(x, towards_sum)
    found = torch.cat([gradients.rows(part, towards_sum)[1] for part in x.split(n)])
    assert close(found, reference)


def towards_sum(outputs):
    return torch.stack([torch.ones_like(outputs), outputs.cos()], dim=1)


@pytest.mark.parametrize(
    ("kind", "why"), [(Functional, "differs"), (Own, "belong to the whole module")]
)
def test_auto_leaves_hooks_where_they_do_not_explain(kind, why):
    torch.manual_seed(0)
    module, x = kind(), torch.randn(4, 3)
    gradients = PerExampleGradients(module, ParameterSpace(module))
    _, rows = gradients.rows(x, towards)
    assert gradients.backend == "vmap"
    assert why in gradients.reason
    _, reference = PerExampleGradients(module, ParameterSpace(module), "loop").rows(x, towards)
    assert close(rows, reference)
    with pytest.raises(ValueError, match="backend 'hooks' does not work"):
        PerExampleGradients(module, ParameterSpace(module), "hooks").rows(x, towards)


class Branching(Own):
    """Control flow that depends on the data: vmap cannot follow."""

    def forward(self, x):
        return super().forward(x) * (2.0 if float(x.detach().sum()) > 1e9 else 1.0)


def test_auto_ends_at_the_loop_and_says_so():
    module, x = Branching(), torch.randn(4, 3)
    gradients = PerExampleGradients(module, ParameterSpace(module))
    with pytest.warns(BackendWarning, match="one backward pass a row"):
        gradients.rows(x, towards)
    assert gradients.backend == "loop"
    assert "vmap" in gradients.reason
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradients.rows(x, towards)


def test_attention():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dtype=torch.float64)
    module = nn.Sequential(layer, nn.Flatten(), nn.Linear(24, 2, dtype=torch.float64))
    x = torch.randn(4, 3, 8, dtype=torch.float64)
    _, reference = PerExampleGradients(module, ParameterSpace(module), "loop").rows(x, towards)
    for backend in ("hooks", "vmap"):
        _, rows = PerExampleGradients(module, ParameterSpace(module), backend).rows(x, towards)
        assert close(rows, reference)
    head = PerExampleGradients(module, ParameterSpace(module, "2"))
    _, rows = head.rows(x, towards)
    assert head.backend == "hooks"
    assert close(rows, reference[:, -rows.shape[1] :])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_not_taken_for_an_error(dtype):
    torch.manual_seed(0)
    layers = [part for _ in range(12) for part in (nn.Linear(16, 16), nn.LayerNorm(16), nn.GELU())]
    module = nn.Sequential(*layers).to(dtype)
    gradients = PerExampleGradients(module, ParameterSpace(module))
    gradients.rows(torch.randn(4, 16).to(dtype), towards)
    assert gradients.backend == "hooks"


def test_one_row_and_ragged_batches_give_the_same_rows():
    module, inputs = make("images", torch.float64, n=7)
    for backend in ("hooks", "vmap"):
        gradients = PerExampleGradients(module, ParameterSpace(module), backend)
        alone = [gradients.rows(inputs[i : i + 1], torch.ones_like)[1] for i in range(7)]
        _, together = gradients.rows(inputs, torch.ones_like)
        assert close(torch.cat(alone), together)


class Centred(nn.Linear):
    def forward(self, x):
        return super().forward(x - x.mean(0))


@pytest.mark.parametrize("last", [nn.BatchNorm1d(2, track_running_stats=False), Centred(2, 1)])
def test_rows_that_mix_are_refused(last):
    module = nn.Sequential(nn.Linear(3, 2), last)
    with pytest.raises(ValueError, match="depends on the other rows"):
        PerExampleGradients(module, ParameterSpace(module)).rows(torch.randn(4, 3), towards)


def test_dropout_that_never_stops_is_named():
    class Restless(nn.Linear):
        def forward(self, x):
            return F.dropout(super().forward(x), 0.5, training=True)

    module = Restless(8, 8)
    gradients = PerExampleGradients(module, ParameterSpace(module), "loop")
    with pytest.warns(DeterminismWarning, match="different outputs"):
        gradients.rows(torch.randn(4, 8), towards)


@pytest.mark.parametrize(
    ("module", "x", "match"),
    [
        (nn.Linear(2, 1), torch.full((3, 2), float("nan")), "NaN or infinite"),
        (nn.Sequential(nn.Linear(2, 2), nn.Flatten(0)), torch.ones(3, 2), "one row for each row"),
    ],
)
def test_bad_modules(module, x, match):
    with pytest.raises(ValueError, match=match):
        PerExampleGradients(module, ParameterSpace(module)).rows(x, towards)


def test_gradient_that_is_not_finite():
    class Root(nn.Linear):
        def forward(self, x):
            return (super().forward(x) * 0).sqrt()

    module = Root(2, 1)
    with pytest.raises(ValueError, match="gradients of the module's outputs"):
        PerExampleGradients(module, ParameterSpace(module)).rows(torch.ones(3, 2), towards)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_modules_that_cannot_be_called_functionally():
    plain, x = nn.Linear(2, 1), torch.ones(3, 2)
    for module in (nn.DataParallel(plain), torch.jit.trace(plain, x)):
        with pytest.raises(TypeError, match=r"pass the plain nn\.Module"):
            PerExampleGradients(module, ParameterSpace(module))


def test_bad_arguments():
    module, x = nn.Linear(2, 1), torch.ones(3, 2)
    space = ParameterSpace(module)
    with pytest.raises(ValueError, match="backend must be one of"):
        PerExampleGradients(module, space, "magic")
    gradients = PerExampleGradients(module, space)
    with pytest.raises(ValueError, match=r"vectors must have shape \(3, k\)"):
        gradients.dot(x, torch.ones_like, torch.ones(3))
    with pytest.raises(ValueError, match="cotangents must have the shape"):
        gradients.rows(x, lambda f: torch.ones(3, 7, 2))
    assert gradients.dot(x, torch.ones_like, torch.ones(3, 2).double())[1].dtype == torch.float32


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 4),
    g=st.integers(1, 3),
    t=st.integers(1, 5),
    o=st.integers(1, 4),
    i=st.integers(1, 4),
    k=st.integers(1, 6),
)
def test_outer_terms_are_their_rows(n, g, t, o, i, k):
    left = torch.randn(n, g, t, o, dtype=torch.float64)
    term = Outer(left, torch.randn(n, g, t, i, dtype=torch.float64))
    vectors = torch.randn(g * o * i, k, dtype=torch.float64)
    rows = torch.einsum("ngto,ngti->ngoi", term.left, term.right).reshape(n, -1)
    assert torch.allclose(term.rows(), rows)
    assert torch.allclose(term.dot(vectors), rows @ vectors)
    assert torch.allclose(term.squared_norm(), rows.square().sum(1))


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 4), t=st.integers(1, 6), d=st.integers(1, 3), k=st.integers(1, 3))
def test_scatter_terms_are_their_rows(n, t, d, k):
    term = Scatter(torch.randint(0, 4, (n, t)), torch.randn(n, t, d, dtype=torch.float64), 4)
    rows = torch.zeros(n, 4, d, dtype=torch.float64)
    for row in range(n):
        for place in range(t):
            rows[row, term.indices[row, place]] += term.left[row, place]
    rows = rows.reshape(n, -1)
    vectors = torch.randn(4 * d, k, dtype=torch.float64)
    assert torch.allclose(term.rows(), rows)
    assert torch.allclose(term.dot(vectors), rows @ vectors)
    assert torch.allclose(term.squared_norm(), rows.square().sum(1))


def test_products_of_a_linear_layer_never_hold_the_rows(monkeypatch):
    def refuse(self):
        raise AssertionError("rows were formed")

    monkeypatch.setattr(Outer, "rows", refuse)
    term = Outer(torch.randn(6, 1, 1, 3), torch.randn(6, 1, 1, 5))
    assert term.dot(torch.randn(15, 2)).shape == (6, 2)
    assert term.squared_norm().shape == (6,)


def test_small_budget_gives_the_same_numbers(monkeypatch):
    module, inputs = make("positions", torch.float64)
    space = ParameterSpace(module)
    vectors = torch.randn(space.size, 40, dtype=torch.float64)
    results = []
    for budget in (2**24, 20):
        monkeypatch.setattr("trustml.core._terms._BUDGET", budget)
        for backend in ("hooks", "vmap", "loop"):
            gradients = PerExampleGradients(module, space, backend)
            products = gradients.dot(inputs, towards, vectors)[1]
            results.append((products, gradients.squared_norm(inputs, towards)))
    for products, norms in results[1:]:
        assert close(products, results[0][0])
        assert close(norms, results[0][1])
