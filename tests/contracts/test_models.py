"""Small models of every make: gradients, curvatures and influence scores equal a dense reference.

The reference is torch.autograd alone: one row after the other, dense matrices, float64.
"""

import warnings
from copy import deepcopy
from functools import cache, partial
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import trustml
from trustml.ihvp import EmpiricalFisher, GaussNewton, Hessian, Objective, curvature, solve

DAMPING = 0.1
N, QUERIES = 5, 2


class Case(NamedTuple):
    """A model with N + QUERIES rows of data, and its loss written out once more.

    ``plain`` maps the outputs (1, ...) and the target of one row to its loss.
    """

    module: nn.Module
    inputs: object
    targets: torch.Tensor
    plain: object
    loss: object = None
    parameters: object = None
    decay: object = 0.0
    batch: object = 3
    dtype: torch.dtype = torch.float64
    warns: object = None
    differences: bool = False  # where torch's own second derivatives are missing or wrong
    tolerance: float = 1e-7


CASES = {}


def case(make):
    """Register a function that returns a Case under its name."""
    CASES[make.__name__.replace("_", " ")] = make
    return make


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classes(c, n=N + QUERIES, seed=1):
    return torch.randint(0, c, (n,), generator=torch.Generator().manual_seed(seed))


def tokens(length, vocabulary, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocabulary, (N + QUERIES, length), generator=generator)


def squared(outputs, target):
    return (outputs.flatten() - target.flatten().to(outputs)).square().sum()


def entropy(outputs, target):
    return F.cross_entropy(outputs, target[None], reduction="sum")


def next_token(outputs, target):
    counted = (target != -100).sum().clamp_min(1)
    return F.cross_entropy(outputs[0], target, reduction="sum") / counted


def mlp(*widths, bias=True, activation=nn.Tanh):
    layers = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b, bias=bias), activation()]
    return nn.Sequential(*layers[:-1])


def classifier(module, *shape, **kwargs):
    return Case(module, normal(N + QUERIES, *shape), classes(3), entropy, **kwargs)


def regression(module, *shape, outputs=2, **kwargs):
    return Case(
        module, normal(N + QUERIES, *shape), normal(N + QUERIES, outputs, seed=3), squared, **kwargs
    )


@case
def perceptron():
    return classifier(mlp(4, 5, 3), 4, decay=0.01)


@case
def without_bias():
    return classifier(mlp(4, 5, 3, bias=False), 4)


@case
def logistic_regression_of_one_output():
    def plain(f, y):
        return F.binary_cross_entropy_with_logits(f.flatten(), y.flatten().to(f))

    targets = classes(2).double()[:, None]
    return Case(nn.Linear(4, 1), normal(N + QUERIES, 4), targets, plain, nn.BCEWithLogitsLoss())


@case
def convolutions():
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 2, 3, padding="same", bias=False),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2, 3),
    )
    return classifier(net, 2, 4, 4)


@case
def convolution_of_sequences():
    net = nn.Sequential(
        nn.Conv1d(2, 3, 3, dilation=2, padding=1, padding_mode="circular"), nn.GELU()
    )
    return classifier(nn.Sequential(*net, nn.AdaptiveAvgPool1d(1), nn.Flatten()), 2, 7)


@case
def convolution_of_volumes():
    net = nn.Sequential(nn.Conv3d(1, 2, 2, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(2, 2))
    return regression(net, 1, 3, 2, 3)


@case
def transposed_convolutions():
    net = nn.Sequential(
        nn.ConvTranspose1d(2, 4, 3, stride=2, output_padding=1, groups=2),
        nn.Tanh(),
        nn.Unflatten(2, (4, 2)),
        nn.ConvTranspose2d(4, 1, 2, padding=1),
        nn.Flatten(),
    )
    return regression(net, 2, 3, outputs=3)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.conv, self.last = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.last(self.conv(x)))
        return self.head(x.mean((2, 3)))


@case
def residual_network_with_batch_norm():
    torch.manual_seed(0)
    net = Residual()
    net(torch.randn(20, 1, 4, 4))  # running statistics of its own
    return classifier(net.train(), 1, 4, 4)


class Recurrent(nn.Module):
    def __init__(self, kind, last_state=False, **kwargs):
        super().__init__()
        self.layer = kind(2, 3, batch_first=True, **kwargs)
        self.head, self.last_state = nn.Linear(3 * (1 + self.layer.bidirectional), 3), last_state

    def forward(self, x):
        steps, state = self.layer(x)
        if self.last_state:
            return self.head(state[0][-1])
        return self.head(steps[:, -1])


@case
def long_short_term_memory():
    return classifier(Recurrent(nn.LSTM, last_state=True), 4, 2)


@case
def gated_recurrent_units():
    return classifier(Recurrent(nn.GRU, bidirectional=True), 4, 2)


class Block(nn.Module):
    """One block of a small GPT: causal attention of its own, learnt positions, a tied head."""

    def __init__(self, vocabulary=5, width=4, length=4):
        super().__init__()
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x):
        x = self.words(x) + self.places(torch.arange(x.shape[1]))
        q, k, v = (
            part.unflatten(2, (2, -1)).transpose(1, 2)
            for part in self.queries(self.first(x)).chunk(3, dim=2)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.mix(mixed.transpose(1, 2).flatten(2))
        return self.head(x + self.down(F.gelu(self.up(self.second(x)))))


def language_model(module, length=4, vocabulary=5, plain=next_token, **kwargs):
    text = tokens(length + 1, vocabulary)
    return Case(module, text[:, :-1], text[:, 1:].contiguous(), plain, **kwargs)


@case
def block_of_a_language_model():
    return language_model(Block())


@case
def language_model_with_ignored_tokens():
    made = language_model(Block())
    targets = made.targets.clone()
    targets[0], targets[1:, 0] = -100, -100
    return made._replace(targets=targets, loss=nn.CrossEntropyLoss())


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.MultiheadAttention(4, 2, batch_first=True)
        self.query = nn.Linear(4, 4, bias=False)

    def forward(self, x):
        return self.mix(self.query(x), x, x, need_weights=False)[0][:, 0, :3]


@case
def attention():
    return classifier(Attention(), 3, 4)


@case
def encoder():
    layer = nn.TransformerEncoderLayer(4, 2, 4, dropout=0.5, batch_first=True)
    net = nn.Sequential(nn.TransformerEncoder(layer, 1), nn.Flatten(), nn.Linear(8, 3))
    return classifier(net.train(), 2, 4)


@case
def norms():
    net = nn.Sequential(
        nn.Conv1d(2, 4, 2), nn.GroupNorm(2, 4), nn.InstanceNorm1d(4, affine=True), nn.PReLU(),
        nn.Flatten(), nn.RMSNorm(8, eps=1e-6), nn.Linear(8, 3), nn.LayerNorm(3),
    )  # fmt: skip
    return classifier(net, 2, 3)


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(6, 3, padding_idx=0), nn.Linear(3, 3)

    def forward(self, x):
        return self.head(self.words(x).mean(1))


@case
def bag_of_tokens():
    return classifier(Bag())._replace(inputs=tokens(4, 6))


@case
def embedding_bag():
    net = nn.Sequential(nn.EmbeddingBag(6, 3, mode="mean"), nn.Linear(3, 3))
    return classifier(net, differences=True)._replace(inputs=tokens(4, 6))


@case
def gpt2_of_hugging_face():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.GPT2Config(
        vocab_size=6, n_positions=4, n_embd=4, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    return language_model(transformers.GPT2LMHeadModel(config), vocabulary=6)


@case
def bert_of_hugging_face():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.BertConfig(
        vocab_size=6, hidden_size=4, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=4, max_position_embeddings=5, type_vocab_size=1, num_labels=3,
    )  # fmt: skip
    torch.manual_seed(0)
    mask = torch.ones(N + QUERIES, 4, dtype=torch.long)
    mask[:4, -1] = 0
    inputs = {"input_ids": tokens(4, 6), "attention_mask": mask}
    return classifier(transformers.BertForSequenceClassification(config))._replace(inputs=inputs)


@case
def low_rank_adapters():
    peft = pytest.importorskip("peft", reason="peft is not installed")
    torch.manual_seed(0)
    config = peft.LoraConfig(
        r=2, target_modules=["0", "2"], lora_dropout=0.3, init_lora_weights=False
    )
    return classifier(peft.get_peft_model(mlp(4, 6, 3), config).train(), 4)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(4, 4), nn.Linear(4, 4)
        self.decode.weight = self.encode.weight

    def forward(self, x):
        return self.decode(torch.tanh(self.encode(x)))[:, :2]


@case
def tied_weights():
    return regression(Tied(), 4)


@case
def a_layer_used_twice():
    layer = nn.Linear(4, 4)
    return classifier(nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(4, 3)), 4)


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.unused, self.used = nn.Linear(3, 2), mlp(4, 4, 3)

    def forward(self, x):
        return self.used(x)


@case
def an_unused_layer():
    return classifier(Unused(), 4)


@case
def frozen_parts():
    net = mlp(4, 5, 3)
    net[0].requires_grad_(False)
    return classifier(net, 4)


@case
def frozen_parts_asked_about_by_name():
    net = mlp(4, 5, 3).requires_grad_(False)
    return classifier(net, 4, parameters=["0.weight", "2.bias"])


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.out = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, *, values, scale):
        return self.out(torch.tanh(self.inner(values))) * scale


@case
def dictionary_of_inputs():
    inputs = {"values": normal(N + QUERIES, 3), "scale": normal(N + QUERIES, 1, seed=4)}
    return classifier(Named())._replace(inputs=inputs)


@case
def tuple_of_inputs():
    return regression(nn.Bilinear(3, 2, 2))._replace(
        inputs=(normal(N + QUERIES, 3), normal(N + QUERIES, 2, seed=5))
    )


@case
def one_batch():
    return classifier(mlp(4, 5, 3), 4, batch="auto")


@case
def batches_of_one():
    return classifier(mlp(4, 5, 3), 4, batch=1)


@case
def one_row():
    made = classifier(mlp(3, 2, 3), 3)
    return made._replace(inputs=made.inputs[: 1 + QUERIES], targets=made.targets[: 1 + QUERIES])


@case
def flat_output():
    targets = normal(N + QUERIES, seed=6)
    return regression(nn.Sequential(mlp(4, 3, 1), nn.Flatten(0)), 4)._replace(targets=targets)


@case
def column_output_and_flat_targets():
    return regression(mlp(4, 3, 1), 4)._replace(targets=normal(N + QUERIES, seed=6))


@case
def single_precision_targets():
    made = regression(mlp(4, 3, 2), 4)
    return made._replace(targets=made.targets.float())


@case
def integer_targets_of_a_regression():
    made = regression(mlp(4, 3, 1), 4)
    return made._replace(targets=classes(4)[:, None], loss=nn.MSELoss())


@case
def perfect_fit():
    net = nn.Linear(3, 2).double()
    inputs = normal(N + QUERIES, 3)
    return regression(net, 3)._replace(inputs=inputs, targets=net(inputs).detach())


@case
def duplicate_rows():
    made = classifier(mlp(4, 5, 3), 4)
    same = torch.zeros(N + QUERIES, dtype=torch.long)
    return made._replace(inputs=made.inputs[same], targets=made.targets[same])


@case
def several_labels():
    def plain(f, y):
        weights = torch.tensor([1.0, 2.0, 3.0]).to(f)
        return F.binary_cross_entropy_with_logits(
            f[0], y.to(f), pos_weight=weights, reduction="sum"
        )

    loss = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0, 3.0]))
    targets = (normal(N + QUERIES, 3, seed=7) > 0).double()
    return Case(mlp(4, 3, 3), normal(N + QUERIES, 4), targets, plain, loss)


@case
def counts():
    def plain(f, y):
        return F.poisson_nll_loss(f.flatten(), y.flatten().to(f), reduction="sum")

    targets = classes(5).double()[:, None]
    return Case(mlp(4, 3, 1), normal(N + QUERIES, 4), targets, plain, nn.PoissonNLLLoss())


@case
def class_weights():
    def plain(f, y):
        return F.cross_entropy(f, y[None], torch.tensor([1.0, 0.0, 2.5]).to(f), reduction="sum")

    return classifier(
        mlp(4, 5, 3), 4, loss=nn.CrossEntropyLoss(torch.tensor([1.0, 0.0, 2.5]))
    )._replace(plain=plain)


@case
def label_smoothing():
    plain = partial(F.cross_entropy, label_smoothing=0.2)
    made = classifier(mlp(4, 5, 3), 4, loss=nn.CrossEntropyLoss(label_smoothing=0.2))
    return made._replace(plain=lambda f, y: plain(f, y[None]))


@case
def loss_of_ones_own():
    def loss(outputs, targets):
        return ((outputs - targets).abs() + 1).log().sum(1)

    return regression(mlp(4, 3, 2), 4, loss=loss)._replace(
        plain=lambda f, y: loss(f, y[None]).sum()
    )


@case
def huber_loss():
    def plain(f, y):
        return F.huber_loss(f[0], y.to(f), reduction="sum")

    return regression(mlp(4, 3, 2), 4, loss=nn.HuberLoss())._replace(plain=plain)


@case
def weight_decay_by_parameter():
    return classifier(mlp(4, 5, 3), 4, decay={"weight": 0.3, "2.bias": 0.1})


@case
def strided_inputs():
    made = classifier(mlp(4, 5, 3), 4)
    return made._replace(inputs=normal(4, 2 * (N + QUERIES)).T[::2])


@case
def saturated_classifier():
    net = mlp(4, 5, 3)
    with torch.no_grad():
        net[-1].weight.mul_(200)
    return classifier(net, 4)


@case
def module_without_a_rule():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.inner = nn.Parameter(torch.ones(3)), nn.Linear(4, 3)

        def forward(self, x):
            return self.inner(x) * self.scale.exp()

    return classifier(Scaled(), 4)


@case
def module_with_control_flow():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.eye(4, 3))

        def forward(self, x):
            return x @ self.weight * (2.0 if float(x.detach().sum()) > 1e9 else 1.0)

    return classifier(Branching(), 4, warns=trustml.warnings.BackendWarning)


@case
def parametrised_layer():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    return classifier(nn.Sequential(layer, nn.Tanh(), nn.Linear(3, 3)), 4, differences=True)


@case
def single_precision():
    return classifier(mlp(4, 5, 3), 4, dtype=torch.float32, tolerance=1e-4)


@case
def half_precision():
    return classifier(mlp(4, 5, 3), 4, dtype=torch.bfloat16, tolerance=0.05)


@case
def logistic_regression_of_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    X, y = normal(N + QUERIES, 4), classes(3)
    model = trustml.wrap(linear_model.LogisticRegression(C=2.0).fit(X[:N], y[:N]))
    return Case(model.module, X, y, entropy, decay={"weight": 0.5 / N}, tolerance=1e-6)


@case
def ridge_pipeline_of_scikit_learn():
    pipeline = pytest.importorskip("sklearn.pipeline")
    linear_model = pytest.importorskip("sklearn.linear_model")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    X, y = normal(N + QUERIES, 4), normal(N + QUERIES, seed=3)
    steps = pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.Ridge())
    model = trustml.wrap(steps.fit(X[:N], y[:N]))
    return Case(model.module, X, y, squared, decay=0.2, tolerance=1e-6)


def row(inputs, i):
    if isinstance(inputs, dict):
        return {key: part[i : i + 1] for key, part in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(part[i : i + 1] for part in inputs)
    return inputs[i : i + 1]


def cast(inputs, dtype):
    if isinstance(inputs, dict):
        return {key: cast(part, dtype) for key, part in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(cast(part, dtype) for part in inputs)
    return inputs.to(dtype) if inputs.is_floating_point() else inputs


def call(module, inputs):
    inputs = cast(inputs, torch.float64)
    if isinstance(inputs, dict):
        inputs = {key: part.clone() for key, part in inputs.items()}
        out = module(**inputs)
    else:
        out = module(*inputs) if isinstance(inputs, tuple) else module(inputs.clone())
    return getattr(out, "logits", out)


class Reference(NamedTuple):
    gradients: torch.Tensor  # of all rows, (n + queries, p)
    gauss_newton: torch.Tensor
    empirical_fisher: torch.Tensor
    hessian: torch.Tensor


def flat_gradients(output, parameters, **kwargs):
    found = torch.autograd.grad(
        output, parameters, allow_unused=True, materialize_grads=True, **kwargs
    )
    return torch.cat([part.reshape(-1) for part in found])


def mean_loss(made, module, n):
    losses = [made.plain(call(module, row(made.inputs, i)), made.targets[i]) for i in range(n)]
    return torch.stack(losses).mean()


def difference(value, parameters, step=1e-5):
    """Return the Hessian as central differences of gradients."""
    columns = []
    for p in parameters:
        for k in range(p.numel()):
            sides = []
            for move in (step, -2 * step):
                with torch.no_grad():
                    p.view(-1)[k] += move
                sides.append(flat_gradients(value(), parameters))
            with torch.no_grad():
                p.view(-1)[k] += step
            columns.append((sides[0] - sides[1]) / (2 * step))
    return torch.stack(columns)


def refer(made, names, decay):
    """Return gradients and curvatures by nothing but torch.autograd."""
    module = deepcopy(made.module).double().eval()
    for name, p in module.named_parameters():
        p.requires_grad_(name in names)
    parameters = [p for name, p in module.named_parameters() if name in names]
    total, n = len(made.targets), len(made.targets) - QUERIES
    gradients, gauss_newton, losses = [], 0.0, 0.0
    with sdpa_kernel(SDPBackend.MATH):
        for i in range(total):
            output = call(module, row(made.inputs, i))
            loss = made.plain(output, made.targets[i])
            gradients.append(flat_gradients(loss, parameters, retain_graph=True))
            if i >= n:
                continue
            losses = losses + loss / n
            jacobian = torch.stack(
                [flat_gradients(f, parameters, retain_graph=True) for f in output.flatten()]
            )
            middle = torch.autograd.functional.hessian(
                lambda f, i=i, like=output: made.plain(f.view_as(like), made.targets[i]),
                output.detach().flatten(),
            )
            values, vectors = torch.linalg.eigh(middle)
            root = (vectors * values.clamp_min(0).sqrt()).T @ jacobian
            gauss_newton = gauss_newton + root.T @ root / n
        if made.differences:
            hessian = difference(lambda: mean_loss(made, module, n), parameters)
        else:
            gradient = flat_gradients(losses, parameters, create_graph=True)
            columns = [flat_gradients(g, parameters, retain_graph=True) for g in gradient]
            hessian = torch.stack(columns)
    rows = torch.stack(gradients)
    wd = torch.diag(decay.double())
    fisher = rows[:n].T @ rows[:n] / n
    return Reference(rows, gauss_newton + wd, fisher + wd, hessian + wd)


@cache
def setting(name):
    """Return the case, its objective and the reference."""
    torch.manual_seed(0)
    made = CASES[name]()
    module = made.module.to(made.dtype)
    made = made._replace(module=module, inputs=cast(made.inputs, made.dtype))
    n = len(made.targets) - QUERIES
    data = (take(made.inputs, slice(0, n)), made.targets[:n])
    objective = Objective(
        module, made.loss, data, made.parameters, made.decay, batch_size=made.batch
    )
    if made.dtype == torch.bfloat16:  # both see the rounded weights
        made = made._replace(module=deepcopy(module))
    return made, objective, refer(made, set(objective.space.names), objective.weight_decay)


def take(inputs, where):
    if isinstance(inputs, dict):
        return {key: part[where] for key, part in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(part[where] for part in inputs)
    return inputs[where]


def queries(made):
    n = len(made.targets) - QUERIES
    return take(made.inputs, slice(n, None)), made.targets[n:]


def close(found, expected, tolerance):
    error = float((found.double() - expected).norm())
    assert torch.isfinite(found).all()
    assert error <= tolerance * max(float(expected.norm()), 1e-3), error


def test_there_are_enough_models():
    assert len(CASES) >= 40


@pytest.mark.parametrize("name", list(CASES))
def test_model(name):
    made, objective, reference = setting(name)
    before = {key: value.clone() for key, value in made.module.state_dict().items()}
    modes = [part.training for part in objective.module.modules()]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        rows = objective.rows()
    assert {note.category for note in seen} == ({made.warns} if made.warns else set())
    n, tolerance = len(rows), made.tolerance
    close(rows, reference.gradients[:n], tolerance)
    asked = objective.rows(queries(made))
    close(asked, reference.gradients[n:], tolerance)

    generator = torch.Generator().manual_seed(8)
    V = torch.randn(objective.space.size, 3, generator=generator).to(objective.space.dtype)
    close(objective.dot(V), reference.gradients[:n] @ V.double(), tolerance)
    gauss_newton = GaussNewton(objective)
    close(gauss_newton @ V, reference.gauss_newton @ V.double(), tolerance)
    close(EmpiricalFisher(objective) @ V, reference.empirical_fisher @ V.double(), tolerance)
    close(Hessian(objective) @ V, reference.hessian @ V.double(), tolerance)

    eye = torch.eye(objective.space.size, dtype=torch.float64)
    inverse = torch.linalg.inv(reference.gauss_newton + DAMPING * eye)
    expected = reference.gradients[n:] @ inverse @ reference.gradients[:n].T
    methods = ("cholesky", "dual", "cg", "minres", "auto")
    # Eight bits are too few for the Lanczos recurrence of minres, which says so.
    for method in [m for m in methods if m != "minres" or made.dtype != torch.bfloat16]:
        solution = solve(gauss_newton + DAMPING, asked.T.to(V.dtype), method, tol=made.tolerance)
        close(solution.x.T.double() @ rows.T.double(), expected, 10 * tolerance)
    for part, training in zip(objective.module.modules(), modes, strict=True):
        assert part.training == training
    for key, value in objective.module.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("kind", ["kfac", "ekfac"])
@pytest.mark.parametrize("name", list(CASES))
def test_approximate_curvature_is_symmetric_and_positive(name, kind):
    made, objective, _ = setting(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", trustml.warnings.BackendWarning)
        operator = curvature(kind, objective)
        generator = torch.Generator().manual_seed(9)
        V = torch.randn(objective.space.size, 3, generator=generator).to(objective.space.dtype)
        product = (operator @ V).double()
        squares = V.double().T @ product
    assert torch.isfinite(product).all()
    scale = max(float(squares.norm()), 1e-9)
    assert float((squares - squares.T).norm()) <= max(made.tolerance, 1e-6) * scale
    assert float(torch.linalg.eigvalsh((squares + squares.T) / 2)[0]) >= -made.tolerance * scale
    assert set(getattr(operator, "uncovered", ())) <= set(objective.space.names)
