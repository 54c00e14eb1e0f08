import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf

from trustml.ihvp import Covariance, factorize
from trustml.ihvp.covariance import Moments


def features(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)) * np.arange(1, d + 1)


@pytest.mark.parametrize("n", [4, 30])
def test_pooled_covariance_is_numpys(n):
    X = features(n, 6)
    S = Covariance(X, shrinkage=0.0)
    np.testing.assert_allclose(S.dense().numpy(), np.cov(X.T, bias=True), atol=1e-12)
    np.testing.assert_allclose(S.diagonal().numpy(), X.var(0), atol=1e-12)
    np.testing.assert_allclose(S.mean.numpy(), X.mean(0), atol=1e-12)
    assert S.means.shape == (1, 6)
    assert S.classes is None


def test_within_class_covariance_takes_any_labels():
    X = features(30, 3)
    labels = np.array(["b", "a", "c"])[np.arange(30) % 3]
    S = Covariance(X, labels, shrinkage=0.0)
    assert S.classes.tolist() == ["a", "b", "c"]
    centred = X.copy()
    for k, name in enumerate("abc"):
        mean = X[labels == name].mean(0)
        np.testing.assert_allclose(S.means[k].numpy(), mean)
        centred[labels == name] -= mean
    np.testing.assert_allclose(S.dense().numpy(), centred.T @ centred / 30, atol=1e-12)


def test_shrinkage_is_relative_and_scale_free():
    X = features(20, 4)
    S = np.cov(X.T, bias=True)
    expected = 0.9 * S + 0.1 * np.trace(S) / 4 * np.eye(4)
    np.testing.assert_allclose(Covariance(X, shrinkage=0.1).dense().numpy(), expected)
    np.testing.assert_allclose(
        Covariance(1e-3 * X, shrinkage=0.1).dense().numpy(), 1e-6 * expected, rtol=1e-9
    )


def test_ledoit_wolf_is_scikit_learns():
    X = features(20, 4)
    S, reference = Covariance(X, shrinkage="ledoit-wolf"), LedoitWolf().fit(X)
    assert S.shrinkage == pytest.approx(reference.shrinkage_)
    np.testing.assert_allclose(S.dense().numpy(), reference.covariance_)


@pytest.mark.parametrize("method", ["cholesky", "dual", "cg"])
def test_more_features_than_rows_is_solvable_by_every_method(method):
    S = Covariance(features(10, 40), shrinkage=1e-2)
    B = torch.eye(40, dtype=torch.float64)[:, :3]
    inverse = factorize(S, method, tol=1e-9)
    torch.testing.assert_close(inverse.solve(B).x, torch.linalg.solve(S.dense(), B))
    form = torch.linalg.solve(S.dense(), B).diagonal()
    torch.testing.assert_close(inverse.quadratic_form(B), form)


def test_float32_features_are_taken_in_float64():
    S = Covariance(torch.randn(9, 3, generator=torch.Generator().manual_seed(0)) + 1e4)
    assert S.dtype == torch.float64
    assert torch.linalg.eigvalsh(S.dense())[0] > 0


@pytest.mark.parametrize(("n", "d", "batch"), [(300, 6, 1), (300, 6, 7), (20, 40, 3), (50, 5, 50)])
def test_batches_in_any_order_give_the_moments_of_all_rows(n, d, batch):
    X = features(n, d) + 1e6  # far from zero: squares would lose all digits
    labels = torch.arange(n) % 4 * 2  # with gaps
    order = torch.as_tensor(np.random.default_rng(1).permutation(n))
    X = torch.tensor(X)
    moments = Moments()
    for rows in order.split(batch):
        moments.update(X[rows], labels[rows])
    together = Covariance(X, labels, shrinkage=0.0)
    merged = Covariance.of(moments, shrinkage=0.0)
    assert moments.n == n
    assert merged.classes.tolist() == together.classes.tolist() == [0, 2, 4, 6]
    torch.testing.assert_close(merged.dense(), together.dense(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(merged.means, together.means, rtol=1e-14, atol=0)
    torch.testing.assert_close(merged.mean, together.mean, rtol=1e-14, atol=0)
    assert len(moments.root()) <= max(n, d)
    assert sum(len(part) for part in moments._rows) <= 4 * d + batch + 4, "rows are not kept"


def test_moments_of_classes_join():
    X, labels = features(50, 4), torch.arange(50) % 3
    parts = [Moments().update(X[labels == k]) for k in range(3)]
    joined, together = Moments.join(parts), Moments().update(X, labels)
    torch.testing.assert_close(joined.means, together.means)
    torch.testing.assert_close(joined.counts, together.counts)
    S = Covariance.of(joined, 0.1).dense()
    torch.testing.assert_close(S, Covariance.of(together, 0.1).dense())
    joined.update(X[:7], torch.zeros(7, dtype=torch.long))
    assert (joined.n, parts[0].n) == (57, 17)


def test_pooled_moments_forget_the_classes():
    X = features(50, 4)
    moments = Moments().update(X[:30], torch.arange(30) % 3 * 2).update(X[30:], torch.arange(20))
    S = Covariance.of(moments.pooled(), 0.1)
    torch.testing.assert_close(S.dense(), Covariance(X, shrinkage=0.1).dense())
    torch.testing.assert_close(S.mean, Covariance(X).mean)


def test_moments_go_on_after_they_were_asked():
    X = features(30, 4)
    moments = Moments().update(X[:10])
    Covariance.of(moments)
    merged = Covariance.of(moments.update(X[10:]), shrinkage=0.2)
    torch.testing.assert_close(merged.dense(), Covariance(X, shrinkage=0.2).dense())
    with pytest.raises(ValueError, match="4 columns"):
        moments.update(X[:, :3])
    with pytest.raises(ValueError, match="ledoit-wolf"):
        Covariance.of(moments, "ledoit-wolf")


def test_bad_input():
    X = features(8, 3)
    with pytest.raises(ValueError, match=r"\(n, d\)"):
        Covariance(X[:, 0])
    with pytest.raises(ValueError, match="empty"):
        Covariance(X[:0])
    with pytest.raises(ValueError, match="NaN"):
        Covariance(np.where(X > 0, np.nan, X))
    with pytest.raises(ValueError, match="same length"):
        Covariance(X, [0, 1])
    for wrong in (-0.1, 1.5, np.nan, "oas", True):
        with pytest.raises(ValueError, match="shrinkage must be"):
            Covariance(X, shrinkage=wrong)
