"""Projections: the matrix that they say, whatever the batch, and the law of inner products."""

import pickle
from statistics import NormalDist

import pytest
import torch
from torch import nn

from trustml.core import _terms, projections
from trustml.core._terms import Dense, Outer, Scatter, Sum, add
from trustml.core.gradients import PerExampleGradients
from trustml.core.parameters import ParameterSpace
from trustml.core.projections import LayerwiseProjection, RandomProjection

KINDS = ("rademacher", "gaussian")


class Mixed(nn.Module):
    """Convolution in groups, positions, a table that is the head too, a layer that runs twice."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(9, 6)
        self.conv = nn.Conv1d(6, 6, 2, groups=3)
        self.mix = nn.Linear(6, 6)
        self.scale = nn.LayerNorm(6)
        self.head = nn.Linear(6, 9, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens):
        x = self.conv(self.words(tokens).mT).mT
        return self.head(self.scale(torch.tanh(self.mix(torch.tanh(self.mix(x))))).mean(1))


def setting(n=7, backend="auto", dtype=torch.float64):
    torch.manual_seed(0)
    module = Mixed().to(dtype)
    tokens = torch.randint(0, 9, (n, 5), generator=torch.Generator().manual_seed(1))
    return PerExampleGradients(module, ParameterSpace(module), backend), tokens


def towards(outputs):
    weights = torch.linspace(-1, 2, outputs[0].numel(), dtype=outputs.dtype)
    return outputs.cos() * weights


@pytest.mark.parametrize("kept", [0, 2**28])
@pytest.mark.parametrize("drawn", [1, 200, 2**23])
@pytest.mark.parametrize("kind", KINDS)
def test_random_projection_is_the_rows_times_its_matrix(kind, drawn, kept, monkeypatch):
    monkeypatch.setattr(projections, "_DRAWN", drawn)
    monkeypatch.setattr(projections, "_KEPT", kept)
    monkeypatch.setattr(projections, "_BLOCK", 50)
    gradients, tokens = setting()
    projection = RandomProjection(gradients.space, 12, kind, random_state=3)
    rows = gradients.rows(tokens, towards)[1]
    outputs, found = gradients.project(tokens, towards, projection)
    torch.testing.assert_close(found, rows @ projection.dense(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(outputs, gradients.rows(tokens, towards)[0])


@pytest.mark.parametrize("backend", ["hooks", "vmap", "loop"])
@pytest.mark.parametrize("make", [RandomProjection, LayerwiseProjection])
def test_numbers_depend_neither_on_the_batch_nor_on_the_backend(make, backend):
    gradients, tokens = setting()
    expected = gradients.project(tokens, towards, make(gradients.space, 5))[1]
    other, _ = setting(backend=backend)
    projection = pickle.loads(pickle.dumps(make(other.space, 5)))
    found = [other.project(part, towards, projection)[1] for part in tokens.flip(0).split(3)]
    torch.testing.assert_close(torch.cat(found).flip(0), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_layerwise_projection_multiplies_each_parameter_on_both_sides(kind):
    gradients, tokens = setting()
    projection = LayerwiseProjection(gradients.space, 4, kind, random_state=2)
    rows = gradients.rows(tokens, towards)[1]
    parts = []
    for s, (first, second) in zip(gradients.space.slices.values(), projection._sides, strict=True):
        cube = rows[:, s].reshape(len(rows), len(first), len(second))
        parts.append((first.T @ cube @ second).flatten(1))
    found = gradients.project(tokens, towards, projection)[1]
    assert found.shape == (7, projection.size)
    torch.testing.assert_close(found, torch.cat(parts, 1), rtol=1e-10, atol=1e-10)


def test_layerwise_projection_that_does_not_shrink_is_a_copy():
    gradients, tokens = setting()
    found = gradients.project(tokens, towards, LayerwiseProjection(gradients.space, 20))[1]
    torch.testing.assert_close(found, gradients.rows(tokens, towards)[1])


@pytest.mark.parametrize("make", [RandomProjection, LayerwiseProjection])
@pytest.mark.parametrize("kind", KINDS)
def test_inner_products_are_kept_in_expectation(make, kind):
    """Over independent seeds the mean error lies within its own standard error.

    False alarms: 3 products in each of 4 cases at 4.5 standard errors, less than 1e-4.
    """
    gradients, tokens = setting(3)
    rows = gradients.rows(tokens, towards)[1]
    draws = [
        gradients.project(tokens, towards, make(gradients.space, 3, kind, seed))[1]
        for seed in range(400)
    ]
    products = torch.stack([z @ z.T for z in draws])
    error = products.mean(0) - rows @ rows.T
    standard_error = products.std(0) / len(draws) ** 0.5
    assert 12 * 2 * (1 - NormalDist().cdf(4.5)) < 1e-4
    assert bool((error.abs() < 4.5 * standard_error).all())
    if make is RandomProjection:  # the variance that the docstring promises
        bound = (2 / 3) ** 0.5 * rows.norm(dim=1)[:, None] * rows.norm(dim=1)
        assert bool((products.std(0) < 1.25 * bound).all())


def test_directions_and_seeds():
    gradients, tokens = setting()

    def two(outputs):
        return torch.stack([towards(outputs), -towards(outputs)], 1)

    projection = RandomProjection(gradients.space, 6)
    found = gradients.project(tokens, two, projection)[1]
    assert found.shape == (7, 2, 6)
    torch.testing.assert_close(found[:, 0], -found[:, 1])
    again = RandomProjection(gradients.space, 6, random_state=1).dense()
    assert not torch.equal(projection.dense(), again)


def test_bad_arguments():
    gradients, tokens = setting()
    space = ParameterSpace(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="6 parameters and the space has"):
        gradients.project(tokens, towards, RandomProjection(space, 2))
    with pytest.raises(ValueError, match="kind"):
        RandomProjection(space, 2, "normal")
    with pytest.raises(ValueError, match="size"):
        LayerwiseProjection(space, 0)


def term(kind, n, generator):
    def normal(*shape):
        return torch.randn(n, *shape, generator=generator, dtype=torch.float64)

    if kind == "dense":
        return Dense(normal(24))
    if kind == "outer":
        return Outer(normal(1, 1, 6), normal(1, 1, 4))
    if kind == "positions":
        return Outer(normal(1, 3, 6), normal(1, 3, 4))
    if kind == "many positions":
        return Outer(normal(1, 40, 6), normal(1, 40, 4))
    if kind == "groups":
        return Outer(normal(2, 3, 3), normal(2, 3, 4))
    if kind == "table":
        indices = torch.randint(0, 6, (n, 2), generator=generator)
        return Scatter(indices, normal(2, 4), 6)
    if kind == "long table":
        indices = torch.randint(0, 6, (n, 9), generator=generator)
        return Scatter(indices, normal(9, 4), 6)
    return add([term("table", n, generator), term("positions", n, generator)])


TERMS = ("dense", "outer", "positions", "many positions", "groups", "table", "long table", "sum")


@pytest.mark.parametrize("budget", [1, 500, 2**24])
@pytest.mark.parametrize("other", TERMS)
@pytest.mark.parametrize("one", TERMS)
def test_gram_is_that_of_the_rows(one, other, budget, monkeypatch):
    monkeypatch.setattr(_terms, "_BUDGET", budget)
    generator = torch.Generator().manual_seed(0)
    a, b = term(one, 5, generator), term(other, 3, generator)
    torch.testing.assert_close(a.gram(b), a.rows() @ b.rows().T, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("width", [1, 5, 9, 13, 100])
@pytest.mark.parametrize("kind", TERMS)
def test_pieces_and_parts_are_those_of_the_rows(kind, width):
    one = term(kind, 5, torch.Generator().manual_seed(0))
    rows = torch.zeros(5, 24, dtype=torch.float64)
    for where, piece in one.pieces(width):
        rows[:, where] += piece.rows()
    torch.testing.assert_close(rows, one.rows())
    torch.testing.assert_close(one.part(slice(1, 3)).rows(), one.rows()[1:3])
    assert isinstance(one, Sum) == (kind == "sum")


def test_gram_of_a_linear_layer_forms_no_rows(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    a, b = term("outer", 5, generator), term("outer", 3, generator)
    expected = a.rows() @ b.rows().T
    monkeypatch.setattr(Outer, "rows", None)
    torch.testing.assert_close(a.gram(b), expected)
