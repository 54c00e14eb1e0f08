"""What every attribution method of ``trustml.influence`` promises, whatever it computes."""

import copy
import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import nn

from trustml import influence
from trustml.influence import InfluenceScores
from trustml.model import wrap

N, Q = 40, 6
METHODS = [
    thing
    for thing in (getattr(influence, name) for name in influence.__all__)
    if inspect.isclass(thing) and hasattr(thing, "scores") and hasattr(thing, "fit")
]


def problem(seed=0):
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    X = torch.randn(N + Q, 3, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (N + Q,), generator=generator)
    return net, X, y


def fitted(method, order=None, seed=0):
    net, X, y = problem(seed)
    rows = torch.arange(N) if order is None else order
    model = wrap(net, train=(X[rows], y[rows]), weight_decay=0.05)
    return method(model).fit(), X[N:], y[N:]


@pytest.mark.parametrize("method", METHODS)
class TestAttribution:
    def test_scores_have_shape_sign_and_certificate(self, method):
        attribution, Xq, yq = fitted(method)
        scores = attribution.scores(Xq, yq)
        assert isinstance(scores, InfluenceScores)
        assert scores.values.shape == (Q, N)
        assert torch.isfinite(scores.values).all()
        assert scores.unit
        assert "helps" in scores.sign
        assert str(scores.certificate)

    def test_kind_of_the_queries_is_kept(self, method):
        attribution, Xq, yq = fitted(method)
        arrays = attribution.scores(Xq.numpy(), yq.numpy()).values
        assert isinstance(arrays, np.ndarray)
        np.testing.assert_allclose(arrays, attribution.scores(Xq, yq).values.numpy())
        lists = attribution.scores(Xq.tolist(), yq.tolist()).values
        np.testing.assert_allclose(lists, arrays)

    def test_a_row_helps_itself(self, method):
        attribution, *_ = fitted(method)
        train = attribution.model_.train
        own = attribution.scores(train.inputs, train.targets).values.diagonal()
        assert (own >= 0).all()

    def test_a_query_does_not_depend_on_its_neighbours(self, method):
        attribution, Xq, yq = fitted(method)
        whole = attribution.scores(Xq, yq).values
        torch.testing.assert_close(attribution.scores(Xq[2:3], yq[2:3]).values, whole[2:3])

    def test_a_second_fit_forgets_and_repeats(self, method):
        attribution, Xq, yq = fitted(method)
        first = attribution.scores(Xq, yq).values
        torch.testing.assert_close(attribution.fit().scores(Xq, yq).values, first)
        again = clone(attribution)
        with pytest.raises(NotFittedError):
            again.scores(Xq, yq)

    def test_nothing_of_the_users_is_changed(self, method):
        net, X, y = problem()
        net.train()
        before = copy.deepcopy(net.state_dict())
        data = X.clone(), y.clone()
        seeds = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        method(wrap(net, train=(X[:N], y[:N]))).fit().scores(X[N:], y[N:])
        assert net.training
        assert all(p.grad is None and p.requires_grad for p in net.parameters())
        assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
        assert torch.equal(X, data[0])
        assert torch.equal(y, data[1])
        assert torch.equal(torch.get_rng_state(), seeds[0])
        np.testing.assert_array_equal(np.random.get_state()[1], seeds[1])  # noqa: NPY002

    def test_bad_input_is_refused(self, method):
        attribution, Xq, yq = fitted(method)
        with pytest.raises(ValueError, match="y="):
            attribution.scores(Xq)
        with pytest.raises(ValueError, match="NaN"):
            attribution.scores(Xq * torch.nan, yq)
        with pytest.raises(ValueError, match="training data"):
            method(wrap(problem()[0], task="classification")).fit()


@pytest.mark.parametrize("method", METHODS)
@given(st.permutations(list(range(N))), st.integers(0, 5))
@settings(max_examples=10, deadline=None)
def test_the_order_of_the_training_rows_only_orders_the_columns(method, order, seed):
    order = torch.tensor(order)
    base, Xq, yq = fitted(method, seed=seed)
    mixed, *_ = fitted(method, order=order, seed=seed)
    want = base.scores(Xq, yq).values[:, order]
    torch.testing.assert_close(mixed.scores(Xq, yq).values, want, rtol=1e-6, atol=1e-9)


def test_there_are_methods():
    assert METHODS
