"""Token scores add up to the sequence's, and are what masking a token says."""

import pytest
import torch
from torch import nn

from trustml.influence import InfluenceFunctions, token_scores
from trustml.model import wrap

N, Q, T, V = 16, 3, 5, 6


class Running(nn.Module):
    """Each position reads the sum of the embeddings so far."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(V, 4), nn.Linear(4, V)

    def forward(self, x):
        return self.head(self.embed(x).cumsum(1).tanh())


@pytest.fixture(scope="module")
def case():
    generator = torch.Generator().manual_seed(0)
    net = Running().double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) / 2)
    X = torch.randint(V, (N + Q, T), generator=generator)
    y = X.roll(-1, 1)
    y[:, -1] = -100
    return net, X, y


def fitted(case, correction="none", **options):
    net, X, y = case
    model = wrap(net, task="language-modeling", train=(X[:N], y[:N]), **options)
    return InfluenceFunctions(model, damping=0.1, correction=correction).fit()


@pytest.mark.parametrize("of", ["train", "query"])
@pytest.mark.parametrize("correction", ["none", "leverage"])
def test_tokens_add_up_to_the_sequence(case, of, correction):
    _, X, y = case
    influence = fitted(case, correction)
    found = token_scores(influence, X[N:], y[N:], of=of)
    assert found.shape == (Q, N, T)
    torch.testing.assert_close(found.sum(2), influence.scores(X[N:], y[N:]).values)
    assert (found[..., -1] == 0).all()  # the ignored token
    small = token_scores(fitted(case, correction, batch_size=3), X[N:], y[N:], of=of)
    torch.testing.assert_close(small, found)


def test_a_token_is_the_sequence_with_that_token_alone(case):
    _, X, y = case
    influence = fitted(case)
    one = y[N:].clone()
    one[:, torch.arange(T) != 2] = -100  # a mean over one token instead of four
    want = influence.scores(X[N:], one).values / (T - 1)
    torch.testing.assert_close(token_scores(influence, X[N:], y[N:], of="query")[..., 2], want)
    masked = y[:N].clone()
    masked[:, torch.arange(T) != 2] = -100
    asked = influence.objective_.rows((X[N:], y[N:]))
    rows = influence.objective_.rows((X[:N], masked)) / (T - 1)
    want = asked @ influence.solve(rows.T).x / N
    torch.testing.assert_close(token_scores(influence, X[N:], y[N:])[..., 2], want)


def test_a_measure_has_tokens_too(case):
    _, X, _ = case
    influence = fitted(case)

    def first(outputs, *_):
        return outputs[:, 0, 0]

    found = token_scores(influence, X[N:], of="query", measure=first)
    assert (found[..., 1:] == 0).all()
    want = influence.scores(X[N:], measure=first).values
    torch.testing.assert_close(found.sum(2), want)


def test_outputs_without_tokens_are_refused():
    X, y = torch.eye(4), torch.arange(4) % 2
    net = nn.Linear(4, 2)
    nn.init.zeros_(net.weight)
    influence = InfluenceFunctions(wrap(net, train=(X, y)), damping=0.1).fit()
    for of in ("train", "query"):
        with pytest.raises(ValueError, match="one output a row"):
            token_scores(influence, X, y, of=of)
    with pytest.raises(ValueError, match="of must be one of"):
        token_scores(influence, X, y, of="both")
    with pytest.raises(TypeError, match="fitted influence functions"):
        token_scores(net, X, y)
