"""The weighted jackknife+ and the jackknife+-after-bootstrap keep their coverage over resplits."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.tree import DecisionTreeRegressor

import trustml
from trustml.conformal import (
    JackknifePlusAfterBootstrapRegressor,
    JackknifePlusRegressor,
    metrics,
)


def drawn(rng: np.random.Generator, n: int, tilt: float = 0.0) -> tuple:
    """Rows whose noise grows with x; tilted ones lie where it is large."""
    x = rng.normal(tilt, 1, size=n)
    return x[:, None], x + np.exp(x / 2) * rng.normal(size=n)


def coverage(make: object, estimator: object, tilt: float = 0.0, resplits: int = 200) -> np.ndarray:
    rng, covered = np.random.default_rng(1), np.empty(resplits)
    for i in range(resplits):
        (X, y), (new, values) = drawn(rng, 60), drawn(rng, 30, tilt)
        model = trustml.wrap(estimator.fit(X, y), train=(X, y))
        covered[i] = metrics.coverage(values, make(model, i).fit().predict_interval(new, 0.2))
    return covered


@pytest.mark.filterwarnings("ignore::trustml.warnings.CoverageWarning")  # far rows are the line
def test_weighted_jackknife_under_covariate_shift() -> None:
    # The exact ratio of N(1, 1) to N(0, 1). Proven: 1 - 2 alpha; seen on a stable model: 1 - alpha.
    weighted = coverage(
        lambda m, i: JackknifePlusRegressor(
            m, weights=lambda X: np.exp(X[:, 0] - 0.5), damping=0.0
        ),
        Ridge(),
        tilt=1.0,
    )
    assert weighted.mean() > 0.8 - 4 * weighted.std() / np.sqrt(200)
    assert weighted.mean() < 0.8 + 0.08
    plain = coverage(lambda m, i: JackknifePlusRegressor(m), Ridge(), tilt=1.0, resplits=30)
    assert plain.mean() < 0.8 - 0.05  # or there was nothing to correct


def test_jackknife_after_bootstrap() -> None:
    covered = coverage(
        lambda m, i: JackknifePlusAfterBootstrapRegressor(m, 30, random_state=i),
        DecisionTreeRegressor(max_depth=2),
    )
    assert covered.mean() > 0.8 - 4 * covered.std() / np.sqrt(200)
    assert covered.mean() < 0.8 + 0.05
