"""Fitted models and the rows that they have not seen."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LogisticRegression, Ridge

import trustml


@pytest.fixture(scope="session")
def digits() -> SimpleNamespace:
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    X, y = X[order] / 16, y[order]
    train, cal, test = slice(0, 300), slice(300, 900), slice(900, 1500)
    fitted = LogisticRegression(C=0.05).fit(X[train], y[train])
    return SimpleNamespace(
        model=trustml.wrap(fitted, train=(X[train], y[train])),
        estimator=fitted,
        X_cal=X[cal],
        y_cal=y[cal],
        X=X[test],
        y=y[test],
    )


@pytest.fixture(scope="session")
def diabetes() -> SimpleNamespace:
    X, y = load_diabetes(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    X, y = X[order], y[order]
    fitted = Ridge(alpha=0.1).fit(X[:150], y[:150])
    return SimpleNamespace(
        model=trustml.wrap(fitted, train=(X[:150], y[:150])),
        estimator=fitted,
        X_train=X[:150],
        y_train=y[:150],
        X_cal=X[150:300],
        y_cal=y[150:300],
        X=X[300:],
        y=y[300:],
    )
