import threading
from functools import partial

import pytest
import torch
from torch import nn

from trustml import ihvp
from trustml.core.losses import Autodiff
from trustml.ihvp import EmpiricalFisher, GaussNewton, Hessian, Objective


def by_autodiff(objective, X, y, loss):
    """Hessian, Gauss-Newton and empirical Fisher of J as dense matrices, by torch alone."""
    theta = objective.space.vector()

    def outputs(vector):
        parts = objective.space.unflatten(vector)
        return torch.func.functional_call(objective.module, parts, (X,))

    def mean_loss(vector):
        return loss(outputs(vector), y).mean()

    decay = torch.diag(objective.weight_decay)
    J = torch.autograd.functional.jacobian(outputs, theta).reshape(len(X), -1, len(theta))
    f = outputs(theta).detach()
    gauss_newton = torch.zeros_like(decay)
    for i in range(len(X)):
        block = torch.autograd.functional.hessian(
            lambda v, i=i: loss(v.reshape(f[i : i + 1].shape), y[i : i + 1]).sum(),
            f[i].reshape(-1),
        )
        gauss_newton += J[i].T @ block @ J[i] / len(X)
    g = torch.autograd.functional.jacobian(lambda v: loss(outputs(v), y), theta)
    hessian = torch.autograd.functional.hessian(mean_loss, theta)
    return hessian + decay, gauss_newton + decay, g.T @ g / len(X) + decay


def cross_entropy(f, y):
    return nn.functional.cross_entropy(f, y, reduction="none")


def binary(f, y):
    y = y.reshape(-1).double()
    return nn.functional.binary_cross_entropy_with_logits(f[:, 0], y, reduction="none")


def squared(f, y):
    return (f[:, 0] - y.reshape(-1).double()).square()


def quartic(f, y):
    return (f[:, 0] - y).pow(4)


CASES = {
    "cross-entropy": (nn.CrossEntropyLoss(), cross_entropy, 3),
    "two classes": (nn.CrossEntropyLoss(), cross_entropy, 2),
    "binary": (nn.BCEWithLogitsLoss(), binary, 1),
    "squared error": (nn.MSELoss(), squared, 1),
    "autodiff": (Autodiff(quartic), quartic, 1),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch_size", ["auto", 10])
def test_curvatures_against_dense_autodiff(case, batch_size, mlp, classification):
    loss, plain, c = CASES[case]
    X, y = classification(c=max(c, 2))
    targets = y if c > 1 else y[:, None].double()
    if case == "autodiff":
        targets = y.double()
    J = Objective(mlp(c=c), loss, (X, targets), None, {"weight": 0.05}, batch_size=batch_size)
    references = by_autodiff(J, X, y, plain)
    V = torch.randn(
        J.space.size, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    for kind, reference in zip((Hessian, GaussNewton, EmpiricalFisher), references, strict=True):
        A = kind(J)
        torch.testing.assert_close(A @ V, reference @ V)
        torch.testing.assert_close(A @ V, reference @ V)  # from the kept graphs
        torch.testing.assert_close(A.dense(), reference)
        torch.testing.assert_close(A.diagonal(), reference.diagonal())


def test_factors_make_up_gauss_newton(objective):
    G = GaussNewton(objective)
    total = torch.diag(objective.weight_decay)
    seen = []
    for indices, K in G.factors():
        assert K.shape == (len(indices), 2, objective.space.size)  # softmax: rank c - 1
        total += torch.einsum("brp,brq->pq", K, K) / objective.n
        seen += indices.tolist()
    assert seen == list(range(43))
    torch.testing.assert_close(total, G.dense())
    assert sum(K.shape[0] * K.shape[1] for _, K in G.factors()) == G.n_factors


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.MSELoss()])
def test_gauss_newton_is_the_hessian_where_outputs_are_linear(loss, classification):
    X, y = classification()
    targets = y if isinstance(loss, nn.CrossEntropyLoss) else nn.functional.one_hot(y).double()
    J = Objective(nn.Linear(5, 3).double(), loss, (X, targets), weight_decay=0.01)
    torch.testing.assert_close(GaussNewton(J).dense(), Hessian(J).dense())


def test_weight_decay_is_in_every_curvature(mlp, classification):
    def trace(decay, kind):
        return kind(Objective(mlp(), None, classification(), weight_decay=decay)).dense().trace()

    for kind in (Hessian, GaussNewton, EmpiricalFisher):
        assert (trace(0.5, kind) - trace(0.0, kind)).item() == pytest.approx(0.5 * 57)


def test_without_a_row_the_others_keep_their_weight(objective):
    full = GaussNewton(objective).dense()
    gone = next(K for _, K in GaussNewton(objective).factors())[0]
    less = GaussNewton(objective.without([0])).dense()
    torch.testing.assert_close(less, full - gone.T @ gone / 43)
    parts = [Hessian(objective.without(list(rows))).dense() for rows in (range(20), range(20, 43))]
    decay = torch.diag(objective.weight_decay)
    torch.testing.assert_close(parts[0] + parts[1] - decay, Hessian(objective).dense())


def test_dense_is_float64_arithmetic_whatever_the_model(mlp, classification):
    single = Objective(mlp(dtype=torch.float32), None, classification(dtype=torch.float32))
    for kind in (Hessian, GaussNewton, EmpiricalFisher):
        A = kind(single)
        torch.testing.assert_close(A.dense(), kind(single.double()).dense(), atol=1e-14, rtol=1e-12)
        assert (A @ torch.ones(57)).dtype == torch.float32


def test_a_loss_that_is_not_convex_in_the_outputs_stays_psd(mlp, classification):
    def wavy(f, y):
        return torch.sin(3 * f[:, 0])

    X, y = classification()
    J = Objective(mlp(c=1), wavy, (X, y.double()))
    G = GaussNewton(J)
    values = torch.linalg.eigvalsh(G.dense())
    assert values[0] > -1e-12 * values[-1]
    assert torch.linalg.eigvalsh(Hessian(J).dense())[0] < -1e-3
    V = torch.eye(G.size, dtype=torch.float64)
    torch.testing.assert_close(G @ V, G.dense())


def test_convolutions_embeddings_and_sequences_have_curvature():
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3)
    )
    X = torch.randn(6, 1, 6, 6, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (6,), generator=generator)
    J = Objective(net.double(), None, (X, y), batch_size=4)
    hessian, gauss_newton, _ = by_autodiff(J, X, y, cross_entropy)
    torch.testing.assert_close(Hessian(J).dense(), hessian)
    torch.testing.assert_close(GaussNewton(J).dense(), gauss_newton)
    words = nn.Sequential(nn.Embedding(7, 3), nn.Linear(3, 4)).double()
    tokens = torch.randint(0, 7, (5, 6), generator=generator)
    J = Objective(words, nn.CrossEntropyLoss(), (tokens, tokens % 4))
    G = GaussNewton(J)
    torch.testing.assert_close(G @ torch.eye(G.size, dtype=torch.float64), G.dense())


def test_graphs_beyond_the_budget_are_rebuilt(objective, columns, monkeypatch):
    expected = Hessian(objective) @ columns
    H = Hessian(objective)
    monkeypatch.setattr(
        "trustml.ihvp.graphs._GRAPH_BUDGET", 25 * H._sum._row_bytes(objective.leaves())
    )
    torch.testing.assert_close(H @ columns, expected)
    assert len(H._sum._held.kept) == 2
    torch.testing.assert_close(H @ columns, expected)


def test_curvature_by_name(objective):
    kinds = {"auto": GaussNewton, "gauss_newton": GaussNewton, "hessian": Hessian}
    for name, kind in kinds.items():
        assert isinstance(ihvp.curvature(name, objective), kind)
    assert isinstance(ihvp.curvature("empirical_fisher", objective), EmpiricalFisher)
    diagonal = ihvp.curvature("diagonal", objective)
    torch.testing.assert_close(diagonal.diagonal(), GaussNewton(objective).diagonal())
    named = {
        "fisher": ihvp.Fisher,
        "ekfac": ihvp.Ekfac,
        "kfac": ihvp.Kfac,
        "block_diagonal": ihvp.BlockDiagonal,
    }
    for name, kind in named.items():
        assert type(ihvp.curvature(name, objective)) is kind
    own = ihvp.curvature(partial(ihvp.Ekfac, fisher="monte-carlo"), objective)
    assert own.fisher == "monte-carlo"
    with pytest.raises(TypeError, match="operator"):
        ihvp.curvature(lambda J: J.gradient(), objective)
    with pytest.raises(ValueError, match="gauss_newton"):
        ihvp.curvature("newton", objective)
    with pytest.raises(TypeError, match="Objective"):
        ihvp.curvature("auto", objective.module)


@pytest.mark.parametrize("kind", [ihvp.Hessian, ihvp.GaussNewton, ihvp.EmpiricalFisher])
def test_curvatures_are_of_objectives(kind, mlp):
    with pytest.raises(TypeError, match=r"ihvp\.Objective, got Sequential"):
        kind(mlp())


def test_threads_that_share_a_module_get_the_same_numbers_and_leave_it_alone():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (40,), generator=generator)
    layers = nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Tanh(), nn.Linear(6, 3)
    net = nn.Sequential(*layers).double().train()
    J = ihvp.Objective(net, nn.CrossEntropyLoss(), (X, y), batch_size=3)
    shared, V = ihvp.GaussNewton(J), torch.eye(J.space.size, dtype=torch.float64)[:, :4]
    rows, product, mean = J.per_example_gradients(), ihvp.GaussNewton(J) @ V, net[1].running_mean
    before, wrong = mean.clone(), []

    def ask() -> None:
        for _ in range(4):
            found = J.per_example_gradients(), shared @ V, ihvp.GaussNewton(J) @ V
            for one, expected in zip(found, (rows, product, product), strict=True):
                if not torch.allclose(one, expected, rtol=1e-9, atol=1e-12):
                    wrong.append(one)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert all(part.training for part in net.modules())
    assert torch.equal(mean, before)
