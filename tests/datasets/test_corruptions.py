from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trustml.datasets import CORRUPTIONS, corrupt, diabetes_risk, digits, foreign_images

IMAGES = digits(0).test.X[:40]
TABLE = diabetes_risk(0).test.X[:60]
ON_IMAGES = [name for name, c in CORRUPTIONS.items() if c.on != "tables"]
ON_TABLES = [name for name, c in CORRUPTIONS.items() if c.on != "images"]


@pytest.mark.parametrize("kind", ON_IMAGES)
@pytest.mark.parametrize("shape", [(64,), (8, 8), (1, 8, 8), (3, 8, 8)])
def test_images(kind, shape):
    X = np.repeat(IMAGES.reshape(40, 1, 8, 8), 3, axis=1) if shape[0] == 3 else IMAGES
    X = X.reshape(40, *shape)
    before = X.copy()
    image_shape = (8, 8) if shape == (64,) else None
    result = corrupt(X, kind, 3, bounds=(0, 1), image_shape=image_shape)
    np.testing.assert_array_equal(X, before)
    assert result.shape == X.shape
    assert result.dtype == X.dtype
    assert result.min() >= 0
    assert result.max() <= 1
    assert not np.allclose(result, X)


@pytest.mark.parametrize("kind", ON_TABLES)
def test_tables(kind):
    result = corrupt(TABLE, kind, 3, reference=TABLE)
    assert result.shape == TABLE.shape
    assert not np.allclose(result, TABLE)
    np.testing.assert_array_equal(result, corrupt(TABLE, kind, 3, reference=TABLE))


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_severity_grows(kind):
    images = kind in ON_IMAGES
    X = IMAGES.astype(float) if images else TABLE
    how = {"image_shape": (8, 8), "bounds": (0, 1)} if images else {}
    moved = [np.abs(corrupt(X, kind, s, **how) - X).mean() for s in (1, 2, 3, 4, 5)]
    assert all(b >= a for a, b in pairwise(moved))
    assert moved[-1] > 1.5 * moved[0]


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from([k for k in CORRUPTIONS if k != "feature_permutation"]),
    rows=st.lists(st.integers(0, 39), min_size=1, max_size=6, unique=True),
    severity=st.integers(1, 5),
    seed=st.integers(0, 100),
)
def test_a_row_is_spoilt_the_same_alone_and_in_a_batch(kind, rows, severity, seed):
    if kind in ON_IMAGES:
        how = {"image_shape": (8, 8), "bounds": (0, 1)}
        X = IMAGES
    else:
        how, X = {"reference": TABLE}, TABLE
    whole = corrupt(X, kind, severity, seed, **how)
    part = corrupt(X[rows], kind, severity, seed, **how)
    np.testing.assert_allclose(part, whole[rows], rtol=1e-6, atol=1e-7)


def test_permutation_keeps_each_columns_values():
    result = corrupt(TABLE, "feature_permutation", 5)
    np.testing.assert_array_equal(np.sort(result, axis=0), np.sort(TABLE, axis=0))


def test_tensors_come_back():
    X = torch.as_tensor(IMAGES).half()
    result = corrupt(X, "contrast", 2, image_shape=(8, 8))
    assert isinstance(result, torch.Tensor)
    assert result.dtype == torch.float16
    bytes_in = corrupt((IMAGES * 255).astype(np.uint8), "contrast", 2, image_shape=(8, 8))
    assert bytes_in.dtype == np.float64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "fog"}, "kind must be one of"),
        ({"kind": "contrast", "severity": 0}, "severity"),
        ({"kind": "contrast", "severity": 6}, "severity"),
        ({"kind": "contrast"}, "image_shape"),
        ({"kind": "scaling", "image_shape": (8, 8)}, "tables"),
        ({"X": IMAGES[:0], "kind": "scaling"}, "rows"),
        ({"X": IMAGES[0], "kind": "scaling"}, "rows"),
        ({"X": IMAGES * np.nan, "kind": "scaling"}, "NaN"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        corrupt(**{"X": IMAGES, **arguments})


@pytest.mark.parametrize("kind", ["both", "photographs", "textures"])
@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (1, 8, 8), (3, 16, 12)])
def test_foreign_images(kind, shape):
    if kind != "textures":
        pytest.importorskip("PIL")
    images = foreign_images(12, shape, random_state=1, kind=kind, bounds=(-1, 1))
    assert images.shape == (12, *shape)
    assert images.dtype == np.float32
    assert images.min() >= -1
    assert images.max() <= 1
    assert len(np.unique(images.reshape(12, -1), axis=0)) == 12
    np.testing.assert_array_equal(images, foreign_images(12, shape, 1, kind=kind, bounds=(-1, 1)))


def test_foreign_images_are_no_digits():
    from sklearn.neighbors import NearestNeighbors

    train = digits(0).train.X
    near = NearestNeighbors(n_neighbors=1).fit(train)
    inside = near.kneighbors(digits(0).test.X)[0]
    outside = near.kneighbors(foreign_images(100, (8, 8), kind="textures").reshape(100, -1))[0]
    assert np.median(outside) > np.quantile(inside, 0.99)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"n": 0}, ValueError),
        ({"n": 2.0}, TypeError),
        ({"n": 2, "shape": (64,)}, ValueError),
        ({"n": 2, "kind": "faces"}, ValueError),
    ],
)
def test_bad_foreign_arguments(arguments, error):
    with pytest.raises(error):
        foreign_images(**arguments)
