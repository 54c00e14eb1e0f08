import pytest
import torch
from torch import nn

from trustml import ihvp
from trustml.core.modes import precision
from trustml.core.parameters import ParameterSpace
from trustml.core.projections import RandomProjection
from trustml.core.store import Store
from trustml.errors import StoreMismatchError
from trustml.ihvp import Objective
from trustml.warnings import DeterminismWarning


def plain(objective, X, y, loss=nn.functional.cross_entropy):
    """J as a function of the flat vector, written out with torch alone."""

    def J(vector):
        theta = objective.space.unflatten(vector)
        out = torch.func.functional_call(objective.module, theta, (X,))
        return loss(out, y) + 0.5 * (objective.weight_decay * vector.square()).sum()

    return J


@pytest.mark.parametrize("batch_size", ["auto", 1, 10, 43])
def test_value_and_gradient_are_those_of_the_full_batch(batch_size, mlp, classification):
    X, y = classification()
    J = Objective(mlp(), None, (X, y), weight_decay={"weight": 0.05}, batch_size=batch_size)
    theta = J.space.vector()
    reference = plain(J, X, y)
    assert J.value() == pytest.approx(reference(theta).item(), rel=1e-12)
    expected = torch.autograd.functional.jacobian(reference, theta)
    torch.testing.assert_close(J.gradient(), expected)


def test_gradient_is_the_mean_of_the_rows_plus_the_regulariser(objective):
    rows = objective.per_example_gradients()
    regulariser = objective.weight_decay * objective.space.vector()
    torch.testing.assert_close(objective.gradient(), rows.mean(0) + regulariser)
    V = torch.randn(rows.shape[1], 3, dtype=rows.dtype, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(objective.dot(V), rows @ V)


def test_rows_of_other_data_and_other_measurements(objective, classification):
    X, y = classification(7, seed=5)
    rows = objective.per_example_gradients(X, y)
    torch.testing.assert_close(rows[2:3], objective.per_example_gradients(X[2:3], y[2:3]))

    def first_logit(outputs, inputs, targets):
        return nn.functional.one_hot(torch.zeros(len(outputs), dtype=torch.long), 3).to(outputs)

    measured = objective.rows(X, first_logit)
    theta = objective.space.vector()

    def logit(vector):
        parts = objective.space.unflatten(vector)
        return torch.func.functional_call(objective.module, parts, (X,))[:, 0]

    torch.testing.assert_close(measured, torch.autograd.functional.jacobian(logit, theta))
    with pytest.raises(ValueError, match="needs targets"):
        objective.rows(X)


NETS = {
    "mlp": (nn.Linear(12, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 3)),
    "cnn": (nn.Unflatten(1, (1, 3, 4)), nn.Conv2d(1, 4, 2), nn.Flatten(), nn.Linear(24, 3)),
    "bilinear": (nn.Unflatten(1, (2, 6)), nn.Conv1d(2, 3, 3), nn.Flatten(), nn.Linear(12, 3)),
}


@pytest.mark.parametrize("name", NETS)
def test_autocast_keeps_gradients_close_and_products_exact(name, mlp, classification):
    net = nn.Sequential(*NETS[name])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) / 3)
    X, y = classification(40, d=12, dtype=torch.float32)
    exact = Objective(net, None, (X, y), batch_size=16)
    low = Objective(net, None, (X, y), batch_size=16, autocast=torch.bfloat16)
    V = torch.randn(exact.space.size, 3, generator=generator)
    for ask in (
        lambda J: J.gradient(),
        lambda J: J.per_example_gradients(),
        lambda J: J.dot(V),
        lambda J: J.project(RandomProjection(J.space, 4)),
    ):
        wanted, found = ask(exact), ask(low)
        error = float((found - wanted).norm() / wanted.norm())
        assert 0 < error < 0.03  # bfloat16 has 8 bits
        assert found.dtype == torch.float32
    assert low.value() == pytest.approx(exact.value(), rel=0.01)
    assert torch.equal(ihvp.Hessian(low) @ V, ihvp.Hessian(exact) @ V)
    assert torch.equal(low.double().gradient(), exact.double().gradient())
    assert not torch.is_autocast_enabled("cpu")
    with pytest.raises(ValueError, match="autocast must be"):
        Objective(net, None, (X, y), autocast=torch.float32)


def test_projections_are_those_of_one_whole_batch(objective, classification):
    X, y = classification()
    projection = RandomProjection(objective.space, 5, random_state=3)
    whole = objective.gradients.project(
        X, lambda outputs: objective.loss.gradient(outputs, y), projection
    )[1]
    torch.testing.assert_close(objective.project(projection), whole)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda net: net[2].weight.data.mul_(2), "model.weights"),
        (lambda net: net.__setitem__(1, nn.ReLU()), "model.structure"),
    ],
)
def test_a_fingerprint_tells_models_apart(change, named, objective, mlp, classification, tmp_path):
    Store(tmp_path, objective.fingerprint(damping=0.1))
    Store(tmp_path, objective.fingerprint(damping=0.1))
    net = mlp()
    same = Objective(net, nn.CrossEntropyLoss(), classification(), weight_decay={"weight": 0.05})
    Store(tmp_path, same.fingerprint(damping=0.1))  # neither the object nor the batches count
    change(net)
    with pytest.raises(StoreMismatchError, match=named):
        Store(tmp_path, same.fingerprint(damping=0.1))


def test_a_fingerprint_tells_data_loss_and_settings_apart(objective, mlp, classification):
    net, (X, y) = mlp(), classification()
    decay = {"weight": 0.05}
    others = {
        "data": Objective(net, None, (X, y.flip(0)), weight_decay=decay),
        "loss": Objective(net, nn.CrossEntropyLoss(label_smoothing=0.1), (X, y), None, decay),
        "weight_decay": Objective(net, None, (X, y), weight_decay={"weight": 0.06}),
        "parameters": Objective(net, None, (X, y), "0.*", weight_decay=decay),
        "n": Objective(net, None, (X, y), weight_decay=decay, n=44),
    }
    mine = objective.fingerprint()
    for named, other in others.items():
        theirs = other.fingerprint()
        assert theirs[named] != mine[named], named
    assert objective.fingerprint(seed=1) != objective.fingerprint(seed=2)


def test_without_keeps_n_and_the_regulariser(objective, classification):
    X, y = classification()
    less = objective.without([0, 5])
    losses = nn.functional.cross_entropy(objective.module(X), y, reduction="none")
    dropped = (losses[0] + losses[5]).item() / 43
    assert less.n == 43
    assert len(less.data) == 41
    assert less.value() == pytest.approx(objective.value() - dropped, rel=1e-12)
    rows = objective.per_example_gradients()
    torch.testing.assert_close(less.gradient(), objective.gradient() - (rows[0] + rows[5]) / 43)
    mask = torch.zeros(43, dtype=torch.bool)
    mask[[0, 5]] = True
    torch.testing.assert_close(objective.without(mask).gradient(), less.gradient())
    with pytest.raises(ValueError, match="every row"):
        objective.without(torch.arange(43))


def test_at_moves_a_copy(objective):
    before = objective.space.vector()
    moved = objective.at(before + 0.1)
    torch.testing.assert_close(moved.space.vector(), before + 0.1)
    torch.testing.assert_close(objective.space.vector(), before)
    assert moved.value() != objective.value()
    assert torch.equal(moved.weight_decay, objective.weight_decay)


def test_restrict_keeps_the_decay_of_what_is_left(objective, mlp, classification):
    last = objective.restrict("2")
    assert last.space.names == ("2.weight", "2.bias")
    torch.testing.assert_close(last.gradient(), objective.gradient()[-21:])
    torch.testing.assert_close(last.weight_decay, objective.weight_decay[-21:])
    named = Objective(mlp(), None, classification(), parameters="last_layer")
    assert named.space.names == ("2.weight", "2.bias")
    given = Objective(named.module, None, classification(), ParameterSpace(named.module, "0"))
    assert given.space.size == 36


def test_tied_weights_count_once(classification):
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 3, bias=False))
    net[2].weight = net[0].weight
    X, y = classification(9, 3)
    J = Objective(net.double(), None, (X, y))
    assert J.space.size == 9
    net[0].weight.grad = None
    nn.functional.cross_entropy(net(X), y).backward()
    torch.testing.assert_close(J.gradient(), net[0].weight.grad.reshape(-1))


def test_float32_gives_float32_and_double_the_same_numbers_in_float64(mlp, classification):
    J = Objective(mlp(dtype=torch.float32), None, classification(dtype=torch.float32))
    assert J.gradient().dtype == torch.float32
    twice = J.double()
    assert twice.gradient().dtype == torch.float64
    torch.testing.assert_close(twice.gradient().float(), J.gradient())
    assert next(J.module.parameters()).dtype == torch.float32


def test_the_module_is_left_as_it_was(classification):
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))
    net = net.double().train()
    net[1].eval()
    net[0].weight.requires_grad_(False)
    state = {k: v.clone() for k, v in net.state_dict().items()}
    random = torch.get_rng_state()
    J = Objective(net, None, classification(), weight_decay=0.1)
    ihvp.solve(ihvp.GaussNewton(J) + 1e-3, J.gradient(), method="cg")
    ihvp.Hessian(J).dense()
    assert net[0].training
    assert not net[1].training
    assert not net[0].weight.requires_grad
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())


def test_a_loader_and_a_dataset_are_data_too(mlp, classification):
    X, y = classification()
    dataset = torch.utils.data.TensorDataset(X, y)
    loader = torch.utils.data.DataLoader(dataset, batch_size=7)
    net = mlp()
    for data in (dataset, loader, [X, y], (X.numpy(), y.numpy())):
        torch.testing.assert_close(
            Objective(net, None, data).gradient(), Objective(net, None, (X, y)).gradient()
        )


def test_bad_input(mlp, classification):
    X, y = classification()
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        Objective("net", None, (X, y))
    with pytest.raises(ValueError, match="no targets"):
        Objective(mlp(), None, X)
    with pytest.raises(ValueError, match="NaN"):
        Objective(mlp(), None, (X * torch.nan, y))
    with pytest.raises(ValueError, match="length"):
        Objective(mlp(), None, (X, y[:-1]))
    shuffled = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, y), shuffle=True)
    with pytest.raises(ValueError, match="shuffle"):
        Objective(mlp(), None, shuffled)
    batch_statistics = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3, track_running_stats=False))
    with pytest.raises(ValueError, match="track_running_stats"):
        Objective(batch_statistics, None, (X, y))
    with pytest.raises(ValueError, match="ends in"):
        Objective(nn.Sequential(nn.Linear(5, 3), nn.Tanh()).double(), None, (X, y), "last_layer")
    with pytest.raises(ValueError, match="batch_size must be"):
        Objective(mlp(), None, (X, y), batch_size=0)
    with pytest.raises(TypeError, match="n must be"):
        Objective(mlp(), None, (X, y), n=4.5)
    with pytest.raises(ValueError, match="V must have shape"):
        Objective(mlp(), None, (X, y)).dot(torch.ones(3, 2))


def test_a_random_module_is_named(classification):
    class Noisy(nn.Linear):
        def forward(self, x):
            return super().forward(x) + torch.rand(3, dtype=x.dtype)

    with pytest.warns(DeterminismWarning, match="different outputs"):
        Objective(Noisy(5, 3).double(), None, classification())


def test_outputs_that_are_nan_are_refused_with_their_rows(classification):
    X, y = classification()
    layer = nn.Linear(5, 3).double()

    class UnitRows(nn.Module):
        def forward(self, x):
            return x / x.norm(dim=1, keepdim=True)

    X = X.index_fill(0, torch.tensor([1]), 0.0)
    with pytest.raises(ValueError, match=r"training rows \[1\] are NaN.*0 / 0 in forward"):
        ihvp.Objective(nn.Sequential(UnitRows(), layer), None, (X, y))
    with torch.no_grad():
        layer.bias[0] = float("nan")
    with pytest.raises(ValueError, match="are NaN in eval mode; look for NaN weights"):
        ihvp.Objective(layer, None, (X, y))
    # A class that is ruled out has a logit of -inf.
    with torch.no_grad():
        layer.bias[0] = -float("inf")
    assert ihvp.Objective(layer, None, (X, y.clamp(1))).n == len(X)


def test_callers_may_have_switched_gradients_off(objective, columns):
    expected = ihvp.Hessian(objective) @ columns, ihvp.GaussNewton(objective) @ columns
    with torch.no_grad():
        torch.testing.assert_close(ihvp.Hessian(objective) @ columns, expected[0])
        torch.testing.assert_close(ihvp.GaussNewton(objective) @ columns, expected[1])
        assert objective.gradient().abs().sum() > 0
        assert ihvp.choose_damping(ihvp.Hessian(objective), objective).value > 0


def test_graphs_go_when_their_operator_goes(objective, columns):
    import gc
    import weakref

    H = ihvp.Hessian(objective)
    H @ columns
    leaf = weakref.ref(next(iter(H._sum._held.leaves.values())))
    gc.disable()
    try:
        del H
        assert leaf() is None  # no cycle keeps a graph alive
    finally:
        gc.enable()


def test_held_parameters_get_no_graph(objective):
    last = objective.restrict("2")
    leaves = last.leaves()
    outputs = last.call(leaves, last.data.rows(0, 3).inputs)
    (body,) = torch.autograd.grad(
        outputs.sum(), objective.module[0].weight, allow_unused=True, retain_graph=True
    )
    assert body is None


def test_rows_that_do_not_fit_are_named_by_their_shape(mlp, classification):
    X, y = classification()
    with pytest.raises(ValueError, match=r"inputs of shape \(2, 3\)"):
        Objective(mlp(), None, (X[:, :3], y))
    J = Objective(mlp(), None, (X, y))
    with pytest.raises(ValueError, match=r"inputs of shape \(1, 2\)"):
        J.per_example_gradients(X[:, :2], y)


def test_inference_mode_is_refused(mlp, classification):
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        Objective(mlp(), None, classification())


def test_a_module_that_writes_into_its_inputs_is_looked_at_as_any_other(mlp, classification):
    class Writer(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

        def forward(self, x):
            x *= 2
            return self.net(x)

    X, y = classification()
    kept = X.clone()
    J, plain_one = Objective(Writer(), None, (X, y)), Objective(mlp(), None, (2 * X, y))
    torch.testing.assert_close(J.gradient(), plain_one.gradient())
    torch.testing.assert_close(J.per_example_gradients(), plain_one.per_example_gradients())
    torch.testing.assert_close(ihvp.Hessian(J).dense(), ihvp.Hessian(plain_one).dense())
    assert torch.equal(X, kept)


def test_an_interrupt_leaves_nothing_broken(mlp, classification):
    class Stoppable(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.calls, self.stop_at = mlp(), 0, None

        def forward(self, x):
            self.calls += 1
            if self.calls == self.stop_at:
                raise KeyboardInterrupt
            return self.net(x)

    net = Stoppable().train()
    J = Objective(net, None, classification(), batch_size=10, autocast=torch.bfloat16)
    V = torch.ones(J.space.size, 2, dtype=torch.float64)
    asks = {
        "gradient": lambda: J.gradient(),
        "rows": lambda: J.per_example_gradients(),
        "hessian": lambda: A @ V,
        "dense": lambda: ihvp.GaussNewton(J).dense(),
    }
    for name, ask in asks.items():
        A = ihvp.Hessian(J)
        wanted = ask()
        A = ihvp.Hessian(J)
        net.stop_at = net.calls + 3
        with pytest.raises(KeyboardInterrupt):
            ask()
        net.stop_at = None
        torch.testing.assert_close(ask(), wanted, msg=name)
        torch.testing.assert_close(ask(), wanted, msg=name)
        assert net.training
        assert net.net.training
        assert not torch.is_autocast_enabled("cpu")
        assert precision() is None
