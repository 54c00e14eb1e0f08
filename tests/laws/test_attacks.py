"""PGD stays in ball and box, whatever the model, the rows, the bounds and the budget."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trustml.model import wrap
from trustml.robustness import Pgd, Strong, attack


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    eps=st.floats(1e-6, 10.0),
    shift=st.floats(-100.0, 100.0),
    width=st.floats(1e-3, 1e3),
    steps=st.integers(1, 8),
    restarts=st.integers(1, 3),
)
def test_pgd_stays_in_ball_and_box(norm, dtype, seed, eps, shift, width, steps, restarts):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).to(dtype)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(draw(*p.shape))
    # Bounds that the dtype holds exactly, so that "inside" means the same to everyone.
    low, high = (float(torch.tensor(v, dtype=dtype)) for v in (shift, shift + width))
    X = (low + (high - low) * torch.rand(7, 6, generator=generator)).to(dtype).clamp(low, high)
    y = torch.randint(3, (7,), generator=generator)
    model = wrap(net, task="classification", train=(X, torch.arange(7) % 3), bounds=(low, high))
    result = attack(model, X, y, Pgd(steps=steps, restarts=restarts), norm, eps, random_state=seed)
    points, clean = (t.numpy().astype(np.float64) for t in (result.x_adv, X))
    order = np.inf if norm == "linf" else 2
    assert (np.linalg.norm(points - clean, order, axis=1) <= eps).all()
    assert (points >= low).all()
    assert (points <= high).all()
    np.testing.assert_array_equal(
        (model.predict(result.x_adv) != y).numpy(), result.success.numpy()
    )


def test_strong_reaches_the_optimum_of_linear_models_with_many_classes():
    """The optimum over classes is the smallest linear radius; one climb often ends elsewhere."""
    generator = torch.Generator().manual_seed(1)
    net = nn.Linear(12, 6).double()
    with torch.no_grad():
        net.weight.copy_(torch.randn(6, 12, generator=generator))
        net.bias.zero_()
    X = torch.randn(60, 12, generator=generator, dtype=torch.float64)
    y = net(X).argmax(1)
    model = wrap(net, task="classification", train=(X, y), bounds=(-100.0, 100.0))
    logits, weight = net(X).detach(), net.weight.detach()
    gaps = logits.gather(1, y[:, None]) - logits
    slopes = torch.cdist(weight[y], weight, p=1)
    radius = torch.where(slopes > 0, gaps / slopes.clamp_min(1e-12), torch.inf).amin(1)
    eps = float(radius.median())
    result = attack(model, X, y, Strong(), "linf", eps, random_state=0)
    assert not result.success[radius > eps].any()
    assert result.success[radius < 0.999 * eps].all()
