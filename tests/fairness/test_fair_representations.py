"""Zemel et al.'s prototypes."""

import numpy as np
import pandas as pd
import pytest
import torch

from trustml.fairness import FairRepresentation
from trustml.fairness._fair_representations import _distance, _shares, _unexplained
from trustml.warnings import TrustmlWarning


def sample(seed=0, n=400):
    rng = np.random.default_rng(seed)
    s = rng.choice(["a", "b", "c"], n)
    X = np.column_stack([rng.normal(size=n) + 1.5 * (s == "c"), rng.normal(size=(n, 2))])
    y = (X[:, 0] + 2 * X[:, 1] + rng.normal(size=n) > 0.5).astype(int)
    return X, y, s


def fit(X, y, s, **settings):
    settings = {"max_iter": 60, "random_state": 0, **settings}
    return FairRepresentation(**settings).fit(X, y, sensitive_features=s)


def naive_shares(fair, X, train):
    scale = train.std(0)
    gap = (X[:, None] - fair.prototypes_[None]) / scale
    power = np.exp(-(gap**2 @ fair.column_weights_))
    return power / power.sum(1, keepdims=True)


def test_the_formula_of_new_rows():
    X, y, s = sample()
    fair = fit(X[:300], y[:300], s[:300])
    m = naive_shares(fair, X, X[:300])
    np.testing.assert_allclose(fair.transform(X), m @ fair.prototypes_)
    p = fair.predict_proba(X)[:, 1]
    np.testing.assert_allclose(p, m @ fair.prototype_probabilities_)
    np.testing.assert_array_equal(fair.predict(X), p > 0.5)
    means = [m[:300][s[:300] == g].mean(0) for g in "abc"]
    apart = max(abs(a - b).sum() / 2 for a in means for b in means)
    assert fair.group_distance_ == pytest.approx(apart)
    rebuilt = (m[:300] @ fair.prototypes_) / X[:300].std(0)
    assert fair.kept_variance_ == pytest.approx(rebuilt.var(0).mean())


def test_the_reconstruction_error_without_large_arrays():
    generator = torch.Generator().manual_seed(0)
    rows, v, logw = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((30, 4), (5, 4), (4,))
    )
    share = torch.rand(30, generator=generator, dtype=torch.float64)
    share /= share.sum()
    m = _shares(rows, v, logw)
    far = (rows[:, None] - v[None]).square() @ logw.exp()
    torch.testing.assert_close(m, torch.softmax(-far, 1))
    naive = (share @ (m @ v - rows).square()).sum()
    torch.testing.assert_close(
        _unexplained(rows, share, m, v) + share @ rows.square().sum(1), naive
    )
    assert float(_distance(m, torch.full((30, 2), 1 / 30, dtype=torch.float64))) < 1e-12


def test_the_factors_trade_fairness_for_accuracy():
    X, y, s = sample()
    free, fair = (fit(X, y, s, lambda_fair=f) for f in (0.0, 2.0))
    assert free.group_distance_ > 0.2
    assert fair.group_distance_ < 0.1
    gaps, hits = [], []
    for one in (free, fair):
        d = one.predict(X)
        gaps.append(np.ptp([d[s == g].mean() for g in "abc"]))
        hits.append((d == y).mean())
    assert gaps[1] < gaps[0] / 2
    assert hits[1] > 0.7
    assert fit(X, y, s, lambda_reconst=1.0).kept_variance_ > fair.kept_variance_


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_units_of_the_columns_do_not_matter(scale):
    X, y, s = sample(1, n=200)
    plain, scaled = fit(X, y, s, max_iter=40), fit(X * scale + 3, y, s, max_iter=40)
    np.testing.assert_allclose(
        scaled.predict_proba(X * scale + 3), plain.predict_proba(X), rtol=1e-6
    )
    np.testing.assert_allclose(scaled.transform(X * scale + 3), plain.transform(X) * scale + 3)


def test_frames_rows_alone_and_seeds():
    X, y, s = sample(2, n=200)
    frame = pd.DataFrame(X, columns=["p", "q", "r"], index=np.arange(200) + 9)
    fair = fit(frame, y, pd.Series(s), max_iter=20)
    moved = fair.transform(frame)
    assert list(moved.columns) == ["p", "q", "r"]
    assert moved.index.equals(frame.index)
    plain = fit(X, y, s, max_iter=20)
    np.testing.assert_allclose(plain.transform(X[4:5])[0], moved.to_numpy()[4])
    settings = {"max_iter": 20, "random_state": 0}
    same = FairRepresentation(**settings).fit_transform(X, y, sensitive_features=s)
    np.testing.assert_array_equal(same, plain.transform(X))
    assert not np.allclose(fit(X, y, s, max_iter=20, random_state=1).transform(X), same)


def test_collapse_is_said():
    X, y, s = sample(3, n=200)
    with (
        pytest.warns(TrustmlWarning, match="decides alike"),
        pytest.warns(TrustmlWarning, match="collapsed: all rows become one point"),
    ):
        fair = fit(X, y, s, n_prototypes=1, max_iter=20)
    assert fair.kept_variance_ < 1e-12
    assert fair.group_distance_ < 1e-12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_prototypes": 0}, "n_prototypes must be a positive"),
        ({"max_iter": 0}, "max_iter must be a positive"),
        ({"lambda_fair": -1}, "lambda_fair must not be negative"),
    ],
)
def test_bad_parameters(settings, message):
    with pytest.raises(ValueError, match=message):
        fit(*sample(4, n=150), **settings)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_another_device_gives_the_same():
    X, y, s = sample(5, n=200)
    here, there = (fit(X, y, s, max_iter=20, device=d) for d in ("cpu", "cuda"))
    np.testing.assert_allclose(there.predict_proba(X), here.predict_proba(X), rtol=1e-6)
