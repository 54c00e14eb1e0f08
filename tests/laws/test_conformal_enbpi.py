"""EnbPI's promise: the asked coverage on a stationary series, regained after its noise changes."""

import numpy as np
from sklearn.linear_model import Ridge

import trustml
from trustml.conformal import EnbPi, metrics


def stream(rng: np.random.Generator, steps: int, change: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (last value, season) and the next value; noise triples at ``change``."""
    y = np.zeros(steps + 1)
    season = np.sin(np.arange(steps) / 7)
    for t in range(steps):
        y[t + 1] = 0.5 * y[t] + season[t] + rng.standard_t(5) * (1 if t < change else 3)
    return np.stack([y[:-1], season], axis=1), y[1:]


def test_coverage_on_a_stationary_series() -> None:
    X, y = stream(np.random.default_rng(0), 2300, change=2300)
    model = trustml.wrap(Ridge(1.0).fit(X[:300], y[:300]), train=(X[:300], y[:300]))
    alphas = [0.05, 0.1, 0.3]
    for symmetric in (True, False):
        cp = EnbPi(model, 20, block=10, symmetric=symmetric, random_state=0).fit()
        found = []
        for start in range(300, 2300, 100):
            rows = slice(start, start + 100)
            found.append(cp.predict_interval(X[rows], alphas))
            cp.update(X[rows], y[rows])
        covered = metrics.coverage(y[300:], np.concatenate(found))
        # Residuals of the right model are independent: 4 standard errors of 2000 steps and of the
        # windows, which together hold 2300. The shortest of many intervals covers a little less.
        room = 4 * np.sqrt(np.array([0.0475, 0.09, 0.21]) * (1 / 2000 + 1 / 2000))
        assert (np.abs(covered - (1 - np.array(alphas))) < room + (0 if symmetric else 0.02)).all()


def test_a_change_of_noise_is_followed_within_a_window() -> None:
    X, y = stream(np.random.default_rng(1), 1300, change=400)
    model = trustml.wrap(Ridge(1.0).fit(X[:300], y[:300]), train=(X[:300], y[:300]))
    cp = EnbPi(model, 20, random_state=0).fit()
    fixed = metrics.coverage(y[700:], cp.predict_interval(X[700:], 0.1))
    cp.update(X[300:700], y[300:700])  # the window of 300 now holds the new noise alone
    moved = metrics.coverage(y[700:], cp.predict_interval(X[700:], 0.1))
    assert fixed < 0.65
    # 600 rows against a window of 300: 4.5 standard errors.
    assert abs(moved - 0.9) < 4.5 * np.sqrt(0.09 * (1 / 600 + 1 / 300))
