"""RelatIF against dense inverses."""

import pytest
import torch
from torch import nn

from trustml.influence import InfluenceFunctions, RelatIF, TracIn
from trustml.model import wrap

N, Q = 25, 4


def seeded(net, generator):
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return net.double()


@pytest.fixture(scope="module")
def case():
    generator = torch.Generator().manual_seed(0)
    net = seeded(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), generator)
    X = torch.randn(N + Q, 3, generator=generator, dtype=torch.float64)
    y = torch.randint(2, (N + Q,), generator=generator)
    return wrap(net, train=(X[:N], y[:N]), weight_decay=0.01), X[N:], y[N:]


@pytest.mark.parametrize("kind", ["theta", "loss"])
def test_scores_are_divided_by_what_the_row_moves(case, kind):
    model, X, y = case
    influence = InfluenceFunctions(model, damping=0.1).fit()
    rows, asked = model.objective.rows(), model.objective.rows((X, y))
    H = influence.operator_.dense() + 0.1 * torch.eye(rows.shape[1], dtype=rows.dtype)
    solved = torch.linalg.solve(H, rows.T)
    sizes = solved.norm(dim=0) if kind == "theta" else (rows.T * solved).sum(0).sqrt()
    made = RelatIF(influence, kind).fit()
    assert made.influence_ is influence
    torch.testing.assert_close(made.sizes_, sizes)
    found = made.scores(X, y)
    torch.testing.assert_close(found.values, asked @ solved / sizes)
    assert found.certificate.converged
    assert found.curvature == "GaussNewton"


def test_a_row_that_counts_twice_as_much_scores_no_more():
    generator = torch.Generator().manual_seed(0)
    net = seeded(nn.Linear(3, 1), generator)
    X = torch.randn(N, 3, generator=generator, dtype=torch.float64)
    outputs = net(X).detach()
    gaps = torch.ones_like(outputs)
    gaps[0] = 5.0  # the gradient of row 0 is five times as long
    values = []
    for gap in (torch.ones_like(outputs), gaps):
        model = wrap(net, task="regression", train=(X, outputs + gap), weight_decay=0.1)
        influence = InfluenceFunctions(model, damping=0.1)
        values.append(RelatIF(influence).fit().scores(X[:5], outputs[:5] + 1.0).values[:, 0])
    torch.testing.assert_close(values[0], values[1])


def test_it_fits_influence_functions_of_its_own(case):
    model, X, y = case
    made = RelatIF(model).fit()
    want = RelatIF(InfluenceFunctions(model, correction="none").fit()).fit()
    torch.testing.assert_close(made.scores(X, y).values, want.scores(X, y).values)
    unfitted = InfluenceFunctions(model, damping=0.1)
    RelatIF(unfitted).fit()
    assert not hasattr(unfitted, "inverse_")


def test_a_row_without_a_gradient_scores_nothing():
    X = torch.eye(3, dtype=torch.float64)
    net = seeded(nn.Linear(3, 1), torch.Generator().manual_seed(0))
    y = net(X).detach() + torch.tensor([[0.0], [1.0], [-1.0]], dtype=torch.float64)
    model = wrap(net, task="regression", train=(X, y), weight_decay=0.1)
    found = RelatIF(InfluenceFunctions(model, damping=0.1)).fit().scores(X, y + 1)
    assert torch.equal(found.values[:, 0], torch.zeros(3, dtype=torch.float64))
    assert bool((found.values[:, 1:] != 0).any())


def test_another_normalisation_is_refused(case):
    with pytest.raises(ValueError, match="normalisation must be one of 'theta', 'loss'"):
        RelatIF(case[0], normalisation="l2").fit()


def test_another_method_is_refused(case):
    with pytest.raises(TypeError, match="TracIn is"):
        RelatIF(TracIn(case[0])).fit()
