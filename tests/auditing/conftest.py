"""One small real model that passes, shared by the tests of the audit."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import trustml


@pytest.fixture(scope="session")
def cancer():
    """Breast cancer, shuffled: train 200, calibration 150, test 219 rows of 8 features."""
    data = load_breast_cancer()
    order = np.random.default_rng(0).permutation(len(data.target))
    X, y = data.data[order][:, :8], np.array(["malignant", "benign"])[data.target[order]]
    large = np.where(X[:, 1] > np.median(X[:, 1]), "coarse", "fine")
    train, cal, test = slice(0, 200), slice(200, 350), slice(350, None)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.5)).fit(X[train], y[train])
    return SimpleNamespace(
        X=X,
        y=y,
        train=(X[train], y[train]),
        cal=(X[cal], y[cal]),
        test=(X[test], y[test]),
        groups=large[test],
        names=[str(name) for name in data.feature_names[:8]],
        estimator=pipeline,
        model=trustml.wrap(
            pipeline, train=(X[train], y[train]), feature_names=data.feature_names[:8].tolist()
        ),
    )


@pytest.fixture(scope="session")
def forest(cancer):
    """A model without gradients."""
    return RandomForestClassifier(20, random_state=0).fit(*cancer.train)


@pytest.fixture(scope="session")
def report(cancer):
    """A full audit."""
    return trustml.audit(
        cancer.model,
        *cancer.test,
        X_cal=cancer.cal[0],
        y_cal=cancer.cal[1],
        sensitive_features={"texture": cancer.groups},
        name="cancer",
    )
