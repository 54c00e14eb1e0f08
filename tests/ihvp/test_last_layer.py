"""A last layer on its features: the same objective and curvature as through the network."""

import pytest
import torch
from torch import nn

from trustml import ihvp
from trustml.influence import InfluenceFunctions
from trustml.model import wrap


class Counted(nn.Module):
    """Passes its input on and counts the rows."""

    def __init__(self):
        super().__init__()
        self.rows = 0

    def forward(self, x):
        self.rows += len(x)
        return x


def network(outputs=3, bias=True, tail=(), dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(
        Counted(), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, outputs, bias=bias), *tail
    ).to(dtype)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) / 2)
    return net


def data(kind, outputs=3, n=29, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(n, 4, generator=generator, dtype=torch.float64).to(dtype)
    if kind == "classes":
        return X, torch.randint(outputs, (n,), generator=generator)
    y = torch.randn(n, outputs, generator=generator, dtype=torch.float64).to(dtype)
    return X, (y > 0).to(dtype) if kind == "labels" else y


CASES = {
    "softmax": (network(), None, data("classes")),
    "softmax, no bias": (network(bias=False), None, data("classes")),
    "weighted softmax": (
        network(),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2, 3]).double(), label_smoothing=0.1),
        data("classes"),
    ),
    "squared error": (network(2), nn.MSELoss(), data("values", 2)),
    "labels": (network(2), nn.BCEWithLogitsLoss(), data("labels", 2)),
    "poisson": (network(2), nn.PoissonNLLLoss(), data("labels", 2)),
    "one output": (network(1), nn.MSELoss(), data("values", 1)),
    "no axis of outputs": (
        network(1, tail=[nn.Flatten(0)]),
        nn.BCEWithLogitsLoss(),
        (data("labels", 1)[0], data("labels", 1)[1][:, 0]),
    ),
}


def restricted(net, loss, rows, selection="last_layer", **kwargs):
    decay = {r"^3\.weight": 0.2, r"^1\.": 0.1}
    return ihvp.Objective(net, loss, rows, selection, decay, batch_size=8, **kwargs)


@pytest.fixture(params=list(CASES))
def objective(request):
    return restricted(*CASES[request.param])


def autodiff_hessian(objective):
    """∇²J by autodiff through the whole network."""

    def value(vector):
        parts = objective.space.unflatten(vector)
        outputs = torch.func.functional_call(objective.module, parts, objective.data.inputs)
        return objective.loss(outputs, objective.data.targets).sum() / objective.n

    return (
        torch.autograd.functional.hessian(value, objective.space.vector())
        + objective.weight_decay.diag()
    )


def test_it_is_the_same_objective(objective):
    last = ihvp.on_features(objective)
    assert last is not objective
    assert last.data.inputs.shape == (29, 6)
    assert last.value() == pytest.approx(objective.value(), rel=1e-13)
    for found, expected in [
        (last.gradient(), objective.gradient()),
        (last.rows(), objective.rows()),
        (last.weight_decay, objective.weight_decay),
        (last.space.vector(), objective.space.vector()),
    ]:
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("kind", [ihvp.GaussNewton, ihvp.Fisher, ihvp.Hessian])
def test_its_curvature_is_the_second_derivative_through_the_network(objective, kind):
    # The outputs are linear in the last layer: all three are ∇²J.
    expected = autodiff_hessian(objective)
    found = kind(ihvp.on_features(objective))
    close = {"rtol": 1e-11, "atol": 1e-13}
    torch.testing.assert_close(found.dense(), expected, **close)
    torch.testing.assert_close(found.diagonal(), expected.diagonal(), **close)
    V = torch.randn(found.size, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(found @ V, expected @ V, **close)
    if kind is not ihvp.Hessian:
        rows = torch.cat([part.flatten(0, 1) for _, part in found.factors()])
        torch.testing.assert_close(found.factor_norms().flatten(), rows.square().sum(1), **close)
        torch.testing.assert_close(
            found.scale * rows.T @ rows + found.shift.diag(), expected, **close
        )


def test_a_linear_model_itself_takes_the_same_products():
    X, y = data("classes")
    layer = network()[1]
    objective = ihvp.Objective(layer, None, (X, y), weight_decay=0.3, batch_size=8)
    assert ihvp.on_features(objective) is objective
    expected = autodiff_hessian(objective)
    for kind in (ihvp.GaussNewton, ihvp.Hessian):
        torch.testing.assert_close(kind(objective).dense(), expected, rtol=1e-12, atol=1e-14)


def test_a_float32_network_has_the_curvature_of_its_float64_copy():
    rows = data("classes", dtype=torch.float32)
    objective = restricted(network(dtype=torch.float32), None, rows)
    found = ihvp.GaussNewton(ihvp.on_features(objective))
    assert found.dtype == torch.float32
    expected = autodiff_hessian(objective.double())
    torch.testing.assert_close(found.dense(), expected, rtol=1e-11, atol=1e-13)


def test_features_are_computed_once_in_one_pass():
    net, _, rows = CASES["softmax"]
    objective = restricted(net, None, rows)
    counted = net[0]
    copies = []
    whole = objective.double
    objective.double = lambda: copies.append(whole()) or copies[-1]
    counted.rows = 0
    last = ihvp.on_features(objective)
    G = ihvp.GaussNewton(last) + ihvp.choose_damping(ihvp.GaussNewton(last), last)
    for method in ("cholesky", "dual", "cg"):
        ihvp.solve(G, torch.ones(G.size, dtype=torch.float64), method, tol=1e-6)
    probes = 10  # a few rows to look at the module
    assert counted.rows + copies[0].module[0].rows <= 29 + 2 * probes


class Tied(nn.Module):
    """The last layer's weight is the embedding's, too."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens):
        return self.head(torch.tanh(self.table(tokens).mean(1)))


class Twice(nn.Module):
    """The last layer's weight is used by hand before."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 4)

    def forward(self, x):
        return self.head(torch.tanh(x @ self.head.weight))


class Sequence(nn.Module):
    """Outputs for each position."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.first(x[:, None].expand(-1, 2, -1))))


def test_other_parameters_and_layers_used_elsewhere_stay_as_they_are():
    X, y = data("classes")
    tokens = torch.randint(5, (9, 3), generator=torch.Generator().manual_seed(1))
    hooked = network()
    hooked[3].register_forward_hook(lambda module, args, out: 2 * out)
    cases = [
        ihvp.Objective(network(), None, (X, y)),
        ihvp.Objective(network(), None, (X, y), "1"),
        ihvp.Objective(network(), None, (X, y), ["1.bias", "3"]),
        ihvp.Objective(network(), None, (X, y), "last_layer", autocast=torch.bfloat16),
        ihvp.Objective(Tied().double(), None, (tokens, tokens[:, 0])),
        ihvp.Objective(Twice().double(), None, (X, y), "head"),
        ihvp.Objective(Sequence().double(), None, (X, torch.stack([y, y], 1)), "head"),
        ihvp.Objective(hooked, None, (X, y), "3"),
    ]
    for objective in cases:
        assert ihvp.on_features(objective) is objective
    with pytest.raises(TypeError, match="must be an ihvp"):
        ihvp.on_features(network())


@pytest.mark.parametrize(
    ("method", "correction"), [("cholesky", "leverage"), ("dual", "none"), ("cg", "none")]
)
def test_influence_on_features_is_influence_through_the_network(method, correction, monkeypatch):
    net, _, rows = CASES["softmax"]
    queries = data("classes", n=7)

    def answers():
        model = wrap(net, train=rows, weight_decay=0.05)
        influence = InfluenceFunctions(
            model, parameters="last_layer", damping=0.1, method=method, correction=correction
        ).fit()
        moved = influence.remove([2, 5])
        return (
            influence.scores(*queries).values,
            influence.scores(*queries, scale="raw").values,
            torch.as_tensor(influence.self_influence()),
            influence.parameter_changes([3, 4]),
            influence.group_effect([2, 5], *queries, order=2),
            influence.rows_effect(torch.arange(21.0, dtype=torch.float64)),
            influence.leave_one_out_outputs(),
            moved.module[3].weight.detach(),
            moved.module[1].weight.detach(),
        )

    found = answers()
    monkeypatch.setattr(
        "trustml.influence._influence_functions.on_features", lambda objective: objective
    )
    for one, other in zip(found, answers(), strict=True):
        # Both are certified to 1e-3 with conjugate gradients, exact otherwise.
        close = 2e-3 if method == "cg" else 1e-9
        torch.testing.assert_close(one, other, rtol=close, atol=close * float(other.abs().max()))
