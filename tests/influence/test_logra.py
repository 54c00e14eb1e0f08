"""LoGra against dense algebra."""

import pytest
import torch
from torch import nn

from trustml.core.projections import LayerwiseProjection
from trustml.influence import InfluenceFunctions, LoGra
from trustml.model import wrap
from trustml.warnings import ConvergenceWarning

N, Q = 40, 5


def problem():
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) / 2)
    X = torch.randn(N + Q, 6, generator=generator, dtype=torch.float64)
    return net, X, torch.randint(3, (N + Q,), generator=generator)


def test_at_full_rank_it_is_influence_by_the_empirical_fisher():
    net, X, y = problem()
    model = wrap(net, train=(X[:N], y[:N]))
    exact = InfluenceFunctions(model, "empirical_fisher", damping=0.1, correction="none").fit()
    found = LoGra(model, rank=8, damping=0.1).fit().scores(X[N:], y[N:])
    torch.testing.assert_close(found.values, exact.scores(X[N:], y[N:]).values)
    assert found.certificate.converged


def test_it_is_the_formula_in_the_projected_space():
    net, X, y = problem()
    model = wrap(net, train=(X[:N], y[:N]))
    objective = model.objective
    projection = LayerwiseProjection(objective.space, 3, random_state=5)
    rows = objective.project(projection)
    asked = objective.project(projection, (X[N:], y[N:]))
    kernel = rows.T @ rows / N + 0.1 * torch.eye(rows.shape[1], dtype=rows.dtype)
    made = LoGra(model, rank=3, damping=0.1, random_state=5).fit()
    found = made.scores(X[N:], y[N:], scale="raw").values
    torch.testing.assert_close(found, asked @ torch.linalg.solve(kernel, rows.T))
    mean = float(rows.square().sum()) / N / min(rows.shape)
    automatic = LoGra(model, rank=3, random_state=5).fit()
    assert automatic.damping_.value == pytest.approx(0.5 * mean)


def test_principal_directions_lose_nothing_that_is_not_there():
    generator = torch.Generator().manual_seed(0)
    net = nn.Linear(9, 2, bias=False).double()
    plane = torch.randn(2, 9, generator=generator, dtype=torch.float64)
    X = torch.randn(N + Q, 2, generator=generator, dtype=torch.float64) @ plane
    y = torch.randint(2, (N + Q,), generator=generator)
    with torch.no_grad():
        net.weight.copy_(torch.randn(2, 9, generator=generator, dtype=torch.float64))
    model = wrap(net, train=(X[:N], y[:N]))
    exact = InfluenceFunctions(model, "empirical_fisher", damping=0.1, correction="none").fit()
    want = exact.scores(X[N:], y[N:]).values
    made = LoGra(model, rank=2, damping=0.1, initialisation="pca").fit()
    torch.testing.assert_close(made.scores(X[N:], y[N:]).values, want)
    chance = LoGra(model, rank=2, damping=0.1).fit().scores(X[N:], y[N:]).values
    assert float((chance - want).norm() / want.norm()) > 0.1


def test_principal_directions_of_what_is_no_weight_are_random():
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Embedding(7, 4), nn.LayerNorm(4), nn.Flatten(), nn.Linear(12, 3))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    X = torch.randint(7, (20, 3), generator=generator)
    model = wrap(net, task="classification", train=(X, torch.arange(20) % 3))
    found = LoGra(model, rank=2, initialisation="pca").fit().scores(X[:4], torch.arange(4) % 3)
    assert torch.isfinite(found.values).all()
    small = wrap(net, task="classification", train=(X, torch.arange(20) % 3), batch_size=6)
    again = LoGra(small, rank=2, initialisation="pca").fit().scores(X[:4], torch.arange(4) % 3)
    torch.testing.assert_close(again.values, found.values, rtol=1e-3, atol=1e-5)


def test_checkpoints_are_averaged():
    net, X, y = problem()
    states = [{k: s * v for k, v in net.state_dict().items()} for s in (0.5, 1.2)]
    model = wrap(net, train=(X[:N], y[:N]))
    one, two = (
        LoGra(model, 3, [state], damping=0.1).fit().scores(X[N:], y[N:]).values for state in states
    )
    both = LoGra(model, 3, states, damping=0.1).fit().scores(X[N:], y[N:]).values
    torch.testing.assert_close(both, (one + two) / 2)


def test_more_dimensions_than_rows_are_damped_and_said():
    net, X, y = problem()
    with pytest.warns(ConvergenceWarning, match="would be noise"):
        made = LoGra(wrap(net, train=(X[:N], y[:N])), rank=8, damping=0.0).fit()
    assert made.damping_.value > 0


def test_bad_settings_are_refused():
    net, X, y = problem()
    model = wrap(net, train=(X[:N], y[:N]))
    with pytest.raises(ValueError, match="rank must be a positive integer"):
        LoGra(model, rank=0).fit()
    with pytest.raises(ValueError, match="initialisation must be one of"):
        LoGra(model, initialisation="kaiming").fit()
