import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.preprocessing import StandardScaler


@pytest.fixture(autouse=True)
def seeded():
    """Modules that tests make draw their weights from torch's global generator."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def iris():
    X, y = load_iris(return_X_y=True)
    return StandardScaler().fit_transform(X), y


@pytest.fixture(scope="session")
def cancer():
    X, y = load_breast_cancer(return_X_y=True)
    keep = np.random.default_rng(0).permutation(len(X))[:200]
    return StandardScaler().fit_transform(X[keep][:, :8]), y[keep]


@pytest.fixture(scope="session")
def diabetes():
    X, y = load_diabetes(return_X_y=True)
    return X[:200] * 20, y[:200] / 50
