"""Two ways to the same posterior variance: of the last layer alone, and of chosen parameters."""

import numpy as np
import torch
from torch import nn

import trustml
from trustml.ood import FullLaplace, LastLayerLaplace


def test_full_laplace_of_the_last_layer_is_last_layer_laplace():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    model = trustml.wrap(net, task="classification")
    X = np.random.default_rng(0).normal(size=(40, 3))
    one = LastLayerLaplace(model, damping=1e-3).fit(X).score(3 * X)
    other = FullLaplace(model, damping=1e-3, parameters="last_layer").fit(X).score(3 * X)
    np.testing.assert_allclose(one, other, rtol=1e-8)
