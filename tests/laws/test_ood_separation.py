"""Detectors separate digits from foreign images, and near classes from far noise."""

import warnings

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

import trustml
from trustml import ood
from trustml.ood.metrics import auroc


@pytest.fixture(scope="module")
def table():
    """AUROC of detectors on every foreign set; digits 0-7 are in distribution."""
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    X, y = X[order] / 16, y[order]
    known = y < 8
    X_train, y_train, X_test = X[known][:1000], y[known][:1000], X[known][1000:]
    net = MLPClassifier((64, 32), alpha=1e-3, max_iter=80, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 80 epochs are enough to separate
        net.fit(X_train, y_train)
    model = trustml.wrap(net)
    kinds = ["Msp", "Entropy", "Energy", "Mahalanobis", "RelativeMahalanobis", "Knn", "Gmm", "Vim"]
    kinds += ["Gram", "Fdbd", "LastLayerLaplace", "Fused"]
    suite = ood.Suite(model, kinds).fit(X_train, y_train)
    rng = np.random.default_rng(1)
    images = X_test[:200].reshape(-1, 8, 8)
    foreign = {
        "digits 8 and 9": X[~known][:200],
        "noise": rng.random((200, 64)),
        "inverted": 1 - X_test[:200],
        "shuffled pixels": rng.permuted(X_test[:200], axis=1),
        "blurred stripes": np.repeat(rng.random((200, 8)), 8, axis=1),
        "lying digits": np.rot90(images, axes=(1, 2)).reshape(-1, 64),
    }
    inside = suite.score(X_test)
    return {
        name: {d: auroc(inside[d], suite.score(Z)[d]) for d in inside.columns}
        for name, Z in foreign.items()
    }


def test_fused_separates_foreign_images(table):
    found = {name: row["Fused"] for name, row in table.items()}
    assert np.mean(list(found.values())) > 0.9, found
    assert min(found.values()) > 0.8, found


def test_relative_mahalanobis_separates_foreign_images(table):
    found = {name: row["RelativeMahalanobis"] for name, row in table.items()}
    assert np.mean(list(found.values())) > 0.9, found


def test_the_default_is_no_worse_than_the_best_single_detector(table):
    means = {d: np.mean([row[d] for row in table.values()]) for d in table["noise"]}
    best = max(value for name, value in means.items() if name != "Fused")
    assert means["Fused"] > best - 0.01, means


def test_every_detector_beats_chance_on_shuffled_pixels(table):
    # Not on all of the sets: gradient norms and feature shaping rank noise below digits here.
    assert all(value > 0.7 for value in table["shuffled pixels"].values())
