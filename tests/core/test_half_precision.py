"""Gradients of half-precision models and passes: float32 sums, near those of float32."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from trustml.core.gradients import PerExampleGradients
from trustml.core.modes import mixed_precision
from trustml.core.parameters import ParameterSpace
from trustml.core.projections import RandomProjection


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.layer = nn.Embedding(7, 4), nn.LayerNorm(4)
        self.rms, self.out = nn.RMSNorm(4), nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.rms(self.layer(self.words(x))).mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.pair = nn.LSTM(3, 4, batch_first=True), nn.Bilinear(4, 4, 2)

    def forward(self, x):
        last = self.cell(x)[0][:, -1]
        return self.pair(last, last.flip(1))


MODELS = {
    "images": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(4, 2, 2),
        nn.InstanceNorm2d(2, affine=True, track_running_stats=True),
        nn.Flatten(),
        nn.Linear(72, 2),
    ),
    "attention": lambda: nn.Sequential(
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Flatten(), nn.Linear(20, 2)
    ),
    "tokens": Tokens,
    "recurrent": Recurrent,
}
INPUTS = {"images": (3, 5, 5), "attention": (5, 4), "recurrent": (5, 3)}


def setting(name):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    if name == "tokens":
        return MODELS[name](), torch.randint(0, 7, (6, 5), generator=generator)
    return MODELS[name](), torch.randn(6, *INPUTS[name], generator=generator)


@pytest.mark.parametrize("how", ["autocast", "model"])
@pytest.mark.parametrize("name", list(MODELS))
def test_gradients_are_float32_and_near_those_of_float32(name, how):
    module, x = setting(name)
    space = ParameterSpace(module)
    _, reference = PerExampleGradients(module, space).rows(x, torch.ones_like)
    if how == "model":
        module = deepcopy(module).bfloat16()
        space = space.on(module)
        x = x.bfloat16() if x.is_floating_point() else x
    gradients = PerExampleGradients(module, space)
    with mixed_precision(torch.bfloat16 if how == "autocast" else None):
        _, rows = gradients.rows(x, torch.ones_like)
        _, products = gradients.dot(x, torch.ones_like, reference.T)
        norms = gradients.squared_norm(x, torch.ones_like)
        projection = RandomProjection(space, 4)
        _, projected = gradients.project(x, torch.ones_like, projection)
    assert gradients.backend == "hooks"
    assert {rows.dtype, products.dtype, norms.dtype, projected.dtype} == {torch.float32}
    assert float((rows - reference).norm() / reference.norm()) < 0.05  # 8 bits, a few layers
    torch.testing.assert_close(products, rows @ reference.T, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(norms, rows.square().sum(1), rtol=1e-3, atol=1e-3)
    expected = rows @ projection.dense(torch.float32)
    torch.testing.assert_close(projected, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("backend", ["hooks", "vmap", "loop"])
def test_many_positions_are_added_up_in_float32(backend):
    """2048 equal terms of 1: bfloat16 would stop adding at 256."""
    module = nn.Linear(1, 1, bias=False).bfloat16()
    gradients = PerExampleGradients(module, ParameterSpace(module), backend)
    x = torch.ones(2, 2048, 1, dtype=torch.bfloat16)
    _, rows = gradients.rows(x, torch.ones_like)
    assert rows.dtype == torch.float32
    assert rows.flatten().tolist() == [2048.0, 2048.0]
