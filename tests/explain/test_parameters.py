"""Derivatives of attributions with respect to the parameters, against finite differences."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from trustml.explain import InputXGradient, IntegratedGradients, KernelShap, Saliency, uncertainty
from trustml.explain._parameters import attribution_gradients
from trustml.influence import InfluenceFunctions
from trustml.model import wrap
from trustml.warnings import BackendWarning, ConvergenceWarning


def finite_difference(make, model, X, target, direction, step=1e-5):
    space = model.objective.space
    ends = [
        make(model.replace(space, space.vector() + s * direction)).attribute(X, target).values
        for s in (step, -step)
    ]
    return (ends[0] - ends[1]) / (2 * step)


@pytest.mark.parametrize(
    "activation", [nn.Tanh, nn.GELU, nn.ReLU, nn.LeakyReLU], ids=lambda a: a.__name__
)
def test_integrated_gradients_see_the_kinks_move(build, activation):
    """On ReLU nets, gradients at fixed nodes alone miss the motion of the kinks."""
    model, X = build(activation)
    generator = torch.Generator().manual_seed(3)
    direction = torch.randn(model.objective.space.size, generator=generator, dtype=torch.float64)

    def make(m):
        return IntegratedGradients(m, baseline="mean")

    rows = attribution_gradients(make(model), X[:3], 1, None, model.objective, torch.flatten)
    found = torch.stack([gradients @ direction for gradients in rows])
    expected = finite_difference(make, model, X[:3], 1, direction)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [Saliency, InputXGradient])
def test_other_gradient_methods(build, kind):
    model, X = build(nn.Tanh)
    generator = torch.Generator().manual_seed(3)
    direction = torch.randn(model.objective.space.size, generator=generator, dtype=torch.float64)
    rows = attribution_gradients(kind(model), X[:3], 0, None, model.objective, torch.flatten)
    found = torch.stack([gradients @ direction for gradients in rows])
    expected = finite_difference(kind, model, X[:3], 0, direction)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_max_pooling_has_kinks_too():
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Conv1d(1, 2, 3), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(4, 2)).double()
    X = torch.randn(20, 1, 6, generator=generator, dtype=torch.float64)
    model = wrap(net, task="classification", train=(X, torch.arange(20) % 2))
    direction = torch.randn(model.objective.space.size, generator=generator, dtype=torch.float64)
    rows = attribution_gradients(
        IntegratedGradients(model), X[:2], 0, None, model.objective, torch.flatten
    )
    found = torch.stack([g @ direction for g in rows]).reshape(2, 1, 6)
    expected = finite_difference(IntegratedGradients, model, X[:2], 0, direction)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_single_precision_models_are_differentiated_in_double(build):
    """Kinks that drown in the rounding of float32 still carry much of the derivative."""
    single, X = build(nn.ReLU, sizes=(6, 40, 40, 3), dtype=torch.float32)
    wide, y = deepcopy(single.module).double(), torch.arange(60) % 3
    double = wrap(wide, task="classification", train=(X.double(), y))
    found, exact = (
        torch.stack(list(attribution_gradients(
            IntegratedGradients(m), rows[:3], 1, None, m.objective, torch.flatten
        )))
        for m, rows in ((single, X), (double, X.double()))
    )  # fmt: skip
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-5)


def test_modules_that_refuse_double_warn(build):
    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 2)

        def forward(self, x):
            return self.inner(x.float())

    X = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    model = wrap(Single(), task="classification", train=(X, torch.arange(10) % 2))
    rows = attribution_gradients(Saliency(model), X[:2], 1, None, model.objective, torch.flatten)
    with pytest.warns(BackendWarning, match="does not run in float64"):
        found = torch.stack(list(rows))
    expected = torch.zeros(4, 10)  # the gradient of output 1 is its row of weights
    expected[:, 4:8] = torch.eye(4)
    torch.testing.assert_close(found, expected.expand(2, 4, 10))


def test_unresolved_kinks_are_noticed(build):
    model, X = build(nn.ReLU, sizes=(6, 64, 64, 3))
    coarse = IntegratedGradients(model, max_passes=5)
    rows = attribution_gradients(coarse, X[:2], 1, None, model.objective, torch.flatten)
    with pytest.warns(ConvergenceWarning, match="do not add up"):
        assert len(list(rows)) == 2


def test_a_part_of_the_parameters(build):
    model, X = build(nn.ReLU)
    part = InfluenceFunctions(model, parameters="last_layer", correction="none").fit()
    errors = uncertainty(IntegratedGradients(model), X[:2], 1, influence=part)
    assert errors.shape == (2, 6)
    assert (errors > 0).all()


def test_who_cannot_be_differentiated(build, ridge):
    model, X = build()
    with pytest.raises(TypeError, match="KernelShap cannot be differentiated"):
        uncertainty(KernelShap(model, X[:5]), X[:2])
    other = InfluenceFunctions(ridge[0]).fit()
    with pytest.raises(ValueError, match="another model"):
        uncertainty(Saliency(model), X[:2], influence=other)
    with pytest.raises(ValueError, match="correction must be one of"):
        uncertainty(Saliency(model), X[:2], correction="bootstrap")
    bare = wrap(model.module, task="classification")
    with pytest.raises(ValueError, match="train="):
        uncertainty(Saliency(bare), np.zeros((2, 6)))
