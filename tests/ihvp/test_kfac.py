"""K-FAC against factors that are computed here, by autodiff with respect to layers' outputs."""

import pytest
import torch
from torch import nn

from trustml import ihvp
from trustml.core.losses import Autodiff
from trustml.ihvp import BlockDiagonal, GaussNewton, Kfac, Objective
from trustml.warnings import BackendWarning


def sides(objective, layer, windows):
    """Inputs (n, t, i) of a layer, and S_i' times the Jacobian of its outputs, (n, r, t, o)."""
    X, seen = objective.data.inputs, {}

    def outputs(shift):
        def hook(_, args, out):
            seen["input"] = args[0].detach()
            return out + shift

        handle = layer.register_forward_hook(hook)
        found = objective.module(X)
        handle.remove()
        return found

    probe = []
    handle = layer.register_forward_hook(lambda *found: probe.append(found[2]))
    objective.outputs(X)
    handle.remove()
    shape = probe[0].shape
    jacobian = torch.autograd.functional.jacobian(outputs, torch.zeros(shape, dtype=X.dtype))
    rows = torch.stack([jacobian[i, :, i] for i in range(len(X))])  # (n, c, *out)
    root = objective.loss.hessian_factor(objective.outputs(X), objective.data.targets)
    rows = torch.einsum("ncr,nc...->nr...", root, rows)
    return windows(seen["input"]), rows


def reference(objective, layer, windows, positions_last, shared):
    """B ⊗ A of one layer, as (o m, o m), by the definitions of Eschenhagen et al. (2023)."""
    inputs, gradients = sides(objective, layer, windows)
    gradients = gradients.flatten(3).transpose(2, 3) if positions_last else gradients
    if layer.bias is not None:
        inputs = torch.cat([inputs, torch.ones_like(inputs[..., :1])], dim=-1)
    n, t = inputs.shape[:2]
    if shared == "reduce":
        inputs, gradients, t = inputs.mean(1, keepdim=True), gradients.sum(2, keepdim=True), 1
    a = torch.einsum("nti,ntj->ij", inputs, inputs) / (n * t)
    b = torch.einsum("nrto,nrtp->op", gradients, gradients) / n
    return torch.kron(b, a)


def unfolded(x):
    return nn.functional.unfold(x, 3, padding=1).mT


def joined(objective, weight, bias):
    """The block of a layer's weight and bias, ordered (o, m) with the bias last."""
    shapes, slices = objective.space.shapes, objective.space.slices
    every = torch.arange(objective.space.size)
    where = every[slices[weight]].reshape(shapes[weight][0], -1)
    if bias is not None:
        where = torch.cat([where, every[slices[bias]][:, None]], dim=1)
    return where.reshape(-1)


@pytest.mark.parametrize("shared", ["expand", "reduce"])
@pytest.mark.parametrize("bias", [True, False])
def test_convolution_against_its_definition(shared, bias, layered):
    J = layered.convolution(bias=bias)
    where = joined(J, "0.weight", "0.bias" if bias else None)
    expected = reference(J, J.module[0], unfolded, True, shared) + 0.03 * torch.eye(len(where))
    matrix = Kfac(J, shared=shared).dense()
    torch.testing.assert_close(matrix[where][:, where], expected)
    rest = torch.ones(J.space.size, dtype=torch.bool)
    rest[where] = False
    assert matrix[where][:, rest].abs().max() == 0


@pytest.mark.parametrize("shared", ["expand", "reduce"])
def test_a_layer_at_several_positions_against_its_definition(shared, layered):
    J = layered.positions()
    where = joined(J, "layer.weight", "layer.bias")
    expected = reference(J, J.module.layer, lambda x: x, False, shared)
    matrix = Kfac(J, shared=shared).dense()
    torch.testing.assert_close(matrix[where][:, where], expected)


def test_expand_is_reduce_where_nothing_is_shared(objective):
    torch.testing.assert_close(
        Kfac(objective).dense(), Kfac(objective, shared="reduce").dense(), atol=1e-14, rtol=1e-12
    )


def test_a_deep_linear_network_is_exact(layered):
    net = layered.randomised(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 5), nn.Linear(5, 2)))
    J = Objective(
        net, nn.MSELoss(), (layered.draw(12, 4), layered.draw(12, 2, seed=1)), weight_decay=0.1
    )
    torch.testing.assert_close(Kfac(J).dense(), BlockDiagonal(J).dense())


def test_one_layer_and_one_row_is_gauss_newton(layered):
    J = Objective(
        layered.randomised(nn.Linear(4, 3)), None, (layered.draw(1, 4), layered.labels(1))
    )
    torch.testing.assert_close(Kfac(J).dense(), GaussNewton(J).dense())


def test_a_weight_kept_the_other_way_round(layered):
    straight, turned = nn.Linear(4, 5), layered.Conv1D(5, 4)
    J = layered.positions(straight)
    T = layered.positions(turned)
    with torch.no_grad():
        turned.weight.copy_(straight.weight.T)
        turned.bias.copy_(straight.bias)
        T.module.head.load_state_dict(J.module.head.state_dict())
    A, B = Kfac(J), Kfac(T)
    assert B.uncovered == ()
    every = torch.arange(J.space.size)
    every[:20] = every[:20].reshape(5, 4).T.reshape(-1)
    torch.testing.assert_close(B.dense(), A.dense()[every][:, every])


def test_groups_have_a_block_each(layered):
    A = Kfac(layered.convolution(groups=2))
    assert len(A.blocks) == 3
    assert A.uncovered == ()
    one, two = A.blocks[0].where.reshape(-1), A.blocks[1].where.reshape(-1)
    assert A.dense()[one][:, two].abs().max() == 0
    assert sorted(torch.cat([one, two]).tolist()) == list(range(2 * 1 * 9 * 2 + 4))


@pytest.mark.parametrize("kind", [Kfac, ihvp.Ekfac])
def test_what_has_no_factors_is_named_and_has_its_exact_diagonal(kind, layered):
    J = layered.tied()
    A = kind(J)
    named = ("table.weight", "norm.weight", "norm.bias", "first.bias", "second.bias")
    assert set(A.uncovered) == set(named)
    assert all(name in repr(A) for name in named)
    exact = GaussNewton(J).diagonal()
    for name in named:
        where = J.space.slices[name]
        torch.testing.assert_close(A.diagonal()[where], exact[where])
    covered = [J.space.slices[name] for name in ("first.weight", "twice.weight", "twice.bias")]
    assert all((A.diagonal()[where] > 0).all() for where in covered)


def test_without_any_factors_it_is_the_diagonal_and_says_so(layered):
    class Free(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.empty(4, 3))

        def forward(self, x):
            return torch.tanh(x) @ self.w

    J = Objective(layered.randomised(Free()), None, (layered.draw(8, 4), layered.labels(8)))
    with pytest.warns(BackendWarning, match="diagonal"):
        A = Kfac(J)
    assert A.uncovered == ("w",)
    torch.testing.assert_close(A.dense(), torch.diag(GaussNewton(J).diagonal()))


@pytest.mark.parametrize("kind", [Kfac, ihvp.Ekfac])
@pytest.mark.parametrize("fisher", ["exact", "monte-carlo", "empirical"])
def test_batches_do_not_matter(kind, fisher, mlp, classification):
    def dense(batch_size):
        J = Objective(mlp(), None, classification(n=43), batch_size=batch_size)
        return kind(J, fisher=fisher).dense()

    whole = dense(43)
    for size in (1, 7, 42):
        torch.testing.assert_close(dense(size), whole, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("kind", [Kfac, ihvp.Ekfac])
def test_rows_left_out_weigh_nothing(kind, objective):
    A, B = kind(objective).dense(), kind(objective.without(range(40))).dense()
    shift = torch.diag(objective.weight_decay)
    assert (B - shift).trace() < (A - shift).trace()
    assert torch.linalg.eigvalsh(B)[0] > -1e-12


def test_a_function_as_loss_has_factors_of_its_positive_part(layered):
    J = Objective(
        layered.randomised(nn.Linear(4, 1)),
        Autodiff(lambda f, y: (f[:, 0] - y) ** 4),
        (layered.draw(1, 4), layered.draw(1)),
    )
    torch.testing.assert_close(Kfac(J).dense(), GaussNewton(J).dense())


def test_misuse(objective):
    with pytest.raises(ValueError, match="fisher must be one of"):
        Kfac(objective, fisher="type-2")
    with pytest.raises(ValueError, match="shared must be one of"):
        Kfac(objective, shared="both")
    with pytest.raises(ValueError, match="samples"):
        Kfac(objective, samples=0)
    with pytest.raises(TypeError, match="Objective"):
        Kfac(objective.module)
