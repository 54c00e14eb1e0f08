"""Venn-Abers pairs against brute-force refits, exactly; their face and bounds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import NotFittedError
from sklearn.isotonic import IsotonicRegression

import trustml
from trustml.conformal import VennAbers
from trustml.conformal._venn_abers import _looked_up, _table

CPU = torch.device("cpu")


def refitted(scores: np.ndarray, labels: np.ndarray, new: float) -> tuple[float, float]:
    pair = []
    for label in (0, 1):
        x, y = np.append(scores, new), np.append(labels, label).astype(float)
        pair.append(IsotonicRegression().fit(x, y).predict([new])[0])
    return pair[0], pair[1]


def looked_up(scores: np.ndarray, labels: np.ndarray, new: np.ndarray) -> np.ndarray:
    return _looked_up(_table(scores, labels, CPU), torch.from_numpy(new)).numpy()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=25),
    st.lists(st.integers(-1, 14), min_size=1, max_size=8),
)
def test_the_pair_is_that_of_refits(rows: list, new: list) -> None:
    # Scores 0, 2, ..., 12 with ties; new ones at, between and beyond them.
    scores = np.array([2.0 * s for s, _ in rows])
    labels = np.array([label for _, label in rows])
    at = np.array(new, dtype=float)
    expected = [refitted(scores, labels, s) for s in at]
    np.testing.assert_allclose(looked_up(scores, labels, at), expected, atol=1e-12)


@pytest.mark.parametrize("n", [3, 50, 400])
def test_many_scores_against_refits(n: int) -> None:
    rng = np.random.default_rng(n)
    scores = rng.normal(size=n)
    labels = rng.random(n) < 1 / (1 + np.exp(-scores))
    at = np.concatenate([rng.normal(size=30), scores[:10]])
    expected = [refitted(scores, labels, s) for s in at]
    np.testing.assert_allclose(looked_up(scores, labels, at), expected, atol=1e-12)


def test_tables_rise_and_p0_is_below_p1() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=3000).round(2)
    low_at, low, high_at, high = _table(scores, rng.random(3000) < 0.3, CPU)
    for at, values in ((low_at, low), (high_at, high)):
        assert (values.diff() > 0).all()
        assert (at.diff() > 0).all()
        assert len(values) == len(at) + 1 < 100
    assert low[0] == 0
    assert high[-1] == 1
    at = looked_up(scores, rng.random(3000) < 0.3, rng.normal(size=500))
    assert (at[:, 0] < at[:, 1]).all()


def test_binary_columns_mirror_each_other_and_merge(digits: object) -> None:
    p = np.random.default_rng(1).dirichlet([1, 1], size=200)
    y = (np.random.default_rng(2).random(200) < p[:, 1] ** 2).astype(int)
    cal = VennAbers(trustml.precomputed("probabilities")).fit(p[:150], y[:150])
    bounds, merged = cal.predict_bounds(p[150:]), cal.predict_proba(p[150:])
    np.testing.assert_allclose(bounds[:, 0], 1 - bounds[:, 1, ::-1], atol=1e-12)
    low, high = bounds[:, 1].T
    np.testing.assert_allclose(merged[:, 1], high / (1 - low + high), rtol=1e-12)
    assert ((low <= merged[:, 1]) & (merged[:, 1] <= high)).all()
    np.testing.assert_allclose(merged.sum(1), 1)


def test_only_the_order_of_the_scores_counts() -> None:
    p = np.random.default_rng(3).dirichlet([1, 1], size=120)
    y = (np.random.default_rng(4).random(120) < p[:, 1]).astype(int)
    squared = p**2 / (p**2).sum(1, keepdims=True)
    model = trustml.precomputed("probabilities")
    np.testing.assert_allclose(
        VennAbers(model).fit(p[:90], y[:90]).predict_bounds(p[90:]),
        VennAbers(model).fit(squared[:90], y[:90]).predict_bounds(squared[90:]),
    )


def test_many_classes_labels_and_batches(digits: object) -> None:
    names = np.array([f"d{k}" for k in range(10)])
    p_cal = digits.model.predict_proba(digits.X_cal)
    p = digits.model.predict_proba(digits.X)
    model = trustml.precomputed("probabilities", class_names=names)
    cal = VennAbers(model).fit(p_cal, names[digits.y_cal])
    found = cal.predict_proba(p)
    assert found.shape == (600, 10)
    np.testing.assert_allclose(found.sum(1), 1)
    bounds = cal.predict_bounds(p)
    assert bounds.shape == (600, 10, 2)
    assert (bounds[..., 0] < bounds[..., 1]).all()
    assert (cal.predict(p) == digits.y).mean() > 0.85
    np.testing.assert_allclose(cal.predict_proba(p[:1]), found[:1], rtol=1e-12)
    order = np.random.default_rng(0).permutation(600)
    shuffled = VennAbers(model).fit(p_cal[order], names[digits.y_cal][order])
    np.testing.assert_array_equal(shuffled.predict_proba(p), found)


def test_extreme_logits_keep_their_order() -> None:
    # Probabilities of these round to one; the log-odds still tell them apart.
    logits = torch.stack([torch.zeros(40), torch.arange(40.0) * 5 + 50], dim=1)
    y = (torch.arange(40) >= 20).long()
    cal = VennAbers(trustml.precomputed("logits")).fit(logits, y)
    found = cal.predict_proba(logits)
    assert isinstance(found, torch.Tensor)
    assert found[0, 1] < 0.1
    assert found[-1, 1] > 0.9


def test_bad_input(digits: object, diabetes: object) -> None:
    cal = VennAbers(digits.model)
    for call in (cal.predict_proba, cal.predict_bounds, cal.predict):
        with pytest.raises(NotFittedError):
            call(digits.X)
    with pytest.raises(TypeError, match="needs a classifier"):
        VennAbers(diabetes.model).fit(diabetes.X_cal, diabetes.y_cal)
    with pytest.raises(ValueError, match="600 rows"):
        cal.fit(digits.X_cal, digits.y_cal[1:])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tables_follow_the_rows_to_their_device() -> None:
    logits = torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
    y = logits.argmax(1)
    cal = VennAbers(trustml.precomputed("logits")).fit(logits, y)
    found = cal.predict_proba(logits.cuda())
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), cal.predict_proba(logits))
