"""Consistency against a naive loop, against AIF360, and its invariances."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trustml.fairness import _consistency as module
from trustml.fairness import consistency


def naive(x, y, k, include_self=False):
    """Of distinct distances."""
    total = 0.0
    for i in range(len(x)):
        apart = ((x - x[i]) ** 2).sum(1)
        order = [j for j in np.argsort(apart, kind="stable") if include_self or j != i]
        total += abs(y[i] - np.mean(y[order[:k]]))
    return 1 - total / len(x)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.booleans())
def test_it_is_the_formula(seed, k, include_self):
    rng = np.random.default_rng(seed)
    x, y, p = rng.normal(size=(40, 3)), rng.integers(0, 2, 40), rng.random(40)
    kwargs = {"n_neighbors": k, "include_self": include_self}
    assert consistency(x, y, **kwargs) == pytest.approx(naive(x, y, k, include_self))
    assert consistency(x, p, **kwargs) == pytest.approx(naive(x, p, k, include_self))
    assert consistency(1e4 * x - 7, y, **kwargs) == pytest.approx(consistency(x, y, **kwargs))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 8))
def test_equal_rows_in_any_order_give_the_same_number(seed, k):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 2, (50, 3)), rng.integers(0, 3, 50)
    order = rng.permutation(50)
    want = consistency(x, y, n_neighbors=k)
    assert consistency(x[order], y[order], n_neighbors=k) == pytest.approx(want, abs=1e-12)
    assert 0 <= want <= 1


def test_ties_share_the_last_place():
    x = np.array([[0.0], [1.0], [-1.0], [50.0], [50.0]])
    y = np.array([1, 1, 0, 0, 0])
    # Row 0 has two neighbours at distance 1 and asks for one: half of it decides as row 0 does.
    assert consistency(x, y, n_neighbors=1) == pytest.approx((0.5 + 1 + 0 + 1 + 1) / 5)


@pytest.mark.peers
def test_aif360_counts_a_row_as_its_own_neighbour():
    aif360 = pytest.importorskip("aif360.sklearn.metrics")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4))
    y = (x[:, 0] + rng.normal(size=200) > 0).astype(int)
    theirs = aif360.consistency_score(x, y, n_neighbors=5)
    assert consistency(x, y, n_neighbors=5, include_self=True) == pytest.approx(theirs)
    # Without its own vote, a row disagrees more by k / (k - 1).
    four = consistency(x, y, n_neighbors=4)
    assert 1 - theirs == pytest.approx(4 / 5 * (1 - four))
    assert consistency(x, y, n_neighbors=1, include_self=True) == 1


def test_kinds_of_arrays_and_labels():
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 2)), rng.integers(0, 2, 60)
    want = consistency(x, y)
    assert consistency(torch.tensor(x), torch.tensor(y)) == want
    assert consistency(pd.DataFrame(x, columns=["a", "b"]), pd.Series(y)) == want
    assert consistency(x.tolist(), np.array(["no", "yes"])[y]) == want
    assert consistency(x, 2 * y - 1) == want


def test_blocks_do_not_matter(monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(70, 2)), rng.integers(0, 2, 70)
    want = consistency(x, y)
    monkeypatch.setattr(module, "_BLOCK", 70 * 8)
    assert consistency(x, y) == pytest.approx(want)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_the_device():
    x, y = torch.randn(80, 3, generator=torch.Generator().manual_seed(0)), torch.arange(80) % 2
    assert consistency(x.cuda(), y.cuda()) == pytest.approx(consistency(x, y))


def test_bad_input_names_the_fix():
    x, y = np.zeros((5, 2)), np.arange(5) % 2
    with pytest.raises(ValueError, match="needs more than 5 rows"):
        consistency(x, y)
    with pytest.raises(ValueError, match="same length"):
        consistency(x, y[1:])
    with pytest.raises(TypeError, match="encode it first"):
        consistency(np.array([["a"]] * 5), y, 2)
    with pytest.raises(ValueError, match="NaN"):
        consistency(x * np.nan, y, 2)
    with pytest.raises(TypeError):
        consistency(x, y, 2, True)
