"""Sets by clusters of classes: the split, the clusters, the null cluster, and bad input."""

import numpy as np
import pytest

import trustml
from trustml.conformal import ClusteredClassifier, SplitClassifier, quantile
from trustml.warnings import CoverageWarning

STORED = trustml.precomputed("probabilities", class_names=[str(k) for k in range(20)])


def rows(seed: int, n: int, classes: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Even classes are easy, odd ones hard."""
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=n)
    own = np.where(y % 2, rng.beta(2, 4, size=n), rng.beta(20, 2, size=n))
    p = rng.dirichlet(np.ones(20), size=n)
    p[np.arange(n), y] = 0
    p *= ((1 - own) / p.sum(axis=1))[:, None]
    p[np.arange(n), y] = own
    return p, y


def test_alike_classes_share_a_cluster_and_its_threshold() -> None:
    p, y = rows(0, 4000)
    cp = ClusteredClassifier(STORED, n_clusters=2, random_state=0).fit(p, y)
    assert cp.n_clusters_ == 2
    for parity in (0, 1):
        assert len(np.unique(cp.clusters_[parity::2])) == 1
    assert cp.clusters_[0] != cp.clusters_[1]
    # A set differs from the marginal one where the cluster's threshold does: easy classes' is low.
    marginal = SplitClassifier(STORED).fit(p, y).predict_set(p, 0.1)
    sets = cp.predict_set(p, 0.1)
    assert (sets[:, ::2] <= marginal[:, ::2]).all()
    assert (sets[:, 1::2] >= marginal[:, 1::2]).all()


def test_rows_of_the_clustering_do_not_calibrate() -> None:
    p, y = rows(0, 2000)
    cp = ClusteredClassifier(STORED, n_clusters=2, share=0.4, random_state=0).fit(p, y)
    used = sum(cp._by_cluster.sizes)
    assert used == sum(cp._marginal.sizes)
    # Binomial(2000, 0.6), 4.5 standard deviations.
    assert abs(used - 1200) < 4.5 * np.sqrt(2000 * 0.24)
    all_scores = np.concatenate(cp._by_cluster.by_group)
    assert len(np.unique(all_scores)) == used  # drawn without replacement


@pytest.mark.parametrize("score", ["lac", "aps"])
def test_sets_are_p_above_alpha_and_nested(score: str) -> None:
    p, y = rows(0, 1500)
    y[y == 3] = 5  # class 3 goes to the null cluster
    cp = ClusteredClassifier(STORED, score, 3, random_state=0)
    with pytest.warns(CoverageWarning, match=r"without calibration rows: \['?3'?\]"):
        cp.fit(p, y)
    new, alphas = rows(1, 200)[0], [0.05, 0.1, 0.3]
    sets, p_values = cp.predict_set(new, alphas), cp.p_values(new)
    for k, alpha in enumerate(alphas):
        assert (sets[..., k] == (p_values > alpha + 1e-12)).all()
    assert (np.diff(sets.astype(int), axis=2) <= 0).all()


def test_a_class_without_rows_takes_the_marginal_threshold_where_torchcp_errs_b15() -> None:
    """TorchCP 1.2.1 gives it the last cluster's threshold, unwarned; a null cluster gets +inf."""
    p, y = rows(0, 3000, classes=19)
    rare = np.flatnonzero(y == 18)[4:]
    p, y = np.delete(p, rare, axis=0), np.delete(y, rare)
    cp = ClusteredClassifier(STORED, n_clusters=2, random_state=0)
    with pytest.warns(CoverageWarning, match="no coverage is promised for them") as seen:
        cp.fit(p, y)
    assert len(seen) == 1
    assert cp.clusters_[18:].tolist() == [-1, -1]
    assert (cp.clusters_[:18] >= 0).all()
    limits = cp._limits(None, 1, [trustml.evidence.exact_alpha(0.1)])[0, :, 0]
    everything = np.concatenate(cp._marginal.by_group)
    assert (limits[18:] == quantile(everything, 0.1)).all()
    assert len(np.unique(limits)) == 3
    # "auto" is found anew by a second fit; TorchCP keeps that of the first.
    auto = ClusteredClassifier(STORED, random_state=0).fit(*rows(0, 4000))
    assert auto.n_clusters_ > 4
    assert auto.fit(*rows(0, 300)).n_clusters_ == 0


def test_few_rows_are_calibrated_as_one() -> None:
    p, y = rows(0, 300)
    cp = ClusteredClassifier(STORED, random_state=0).fit(p, y)
    assert cp.n_clusters_ == 0
    new = rows(1, 50)[0]
    split = SplitClassifier(STORED).fit(p, y)
    np.testing.assert_array_equal(cp.predict_set(new, 0.1), split.predict_set(new, 0.1))
    np.testing.assert_array_equal(cp.p_values(new), split.p_values(new))
    with pytest.warns(CoverageWarning, match="fewer than 4 classes have 9"):
        ClusteredClassifier(STORED, n_clusters=4, random_state=0).fit(p, y)
    with pytest.warns(CoverageWarning, match="at least 999"):
        assert cp.predict_set(new, 0.001).all()


@pytest.mark.parametrize(
    ("keywords", "error", "text"),
    [({"n_clusters": 0}, ValueError, "n_clusters"), ({"n_clusters": 2.5}, TypeError, "n_clusters"),
     ({"n_clusters": "many"}, TypeError, "n_clusters"), ({"share": 1.0}, ValueError, "share"),
     ({"share": "half"}, ValueError, "share"), ({"score": "nope"}, ValueError, "score must be"),
     ({"random_state": -1}, ValueError, "random_state")],
)  # fmt: skip
def test_bad_parameters(keywords: dict, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        ClusteredClassifier(STORED, **keywords).fit(*rows(0, 300))


def test_bad_rows() -> None:
    p, y = rows(0, 300)
    with pytest.raises(ValueError, match="300 rows"):
        ClusteredClassifier(STORED).fit(p, y[1:])
    with pytest.raises(ValueError, match="NaN"):
        ClusteredClassifier(STORED).fit(p * np.nan, y)
