"""Coverage in every one of several overlapping groups, and no more than the theorem allows."""

import numpy as np

import trustml
from trustml.conformal import (
    GroupConditionalClassifier,
    GroupConditionalRegressor,
    SplitClassifier,
    SplitRegressor,
)

RESPLITS, N_CAL = 200, 150


def check(hits: np.ndarray, shares: np.ndarray, n_groups: int, alpha: float) -> None:
    """Mean coverage (runs, g) is in [1 - alpha, 1 - alpha + (1 + g) / (n P(group))], 3 SE aside.

    Gibbs, Cherian and Candès (2023), theorem 2: the slack is the number of features.
    """
    mean, error = hits.mean(axis=0), hits.std(axis=0, ddof=1) / np.sqrt(len(hits))
    assert (mean >= 1 - alpha - 3 * error).all()
    assert (mean <= 1 - alpha + (1 + n_groups) / ((N_CAL + 1) * shares) + 3 * error).all()


def by_group(held: np.ndarray, groups: np.ndarray) -> np.ndarray:
    return (held[:, None] * groups).sum(axis=0) / groups.sum(axis=0)


def test_intervals_cover_in_overlapping_groups() -> None:
    model, alpha = trustml.precomputed("values"), 0.1
    groups = lambda f: np.stack([f > 0.5, np.abs(f) < 1.2], axis=1)  # noqa: E731

    def draw(rng: np.random.Generator, n: int) -> tuple:
        f = rng.normal(size=n)
        return f, f + rng.normal(size=n) * np.where(f > 0.5, 3, 1)

    hits, marginal = [], []
    for seed in range(RESPLITS):
        rng = np.random.default_rng(seed)
        (f_cal, y_cal), (f, y) = draw(rng, N_CAL), draw(rng, 400)
        for kind, into in ((GroupConditionalRegressor(model, groups), hits),
                           (SplitRegressor(model), marginal)):  # fmt: skip
            low, high = kind.fit(f_cal, y_cal).predict_interval(f, alpha).T
            into.append(by_group((low <= y) & (y <= high), groups(f)))
    check(np.array(hits), np.array([0.309, 0.770]), 2, alpha)
    assert np.mean(marginal, axis=0)[0] < 0.8


def test_sets_cover_in_overlapping_groups() -> None:
    model, alpha = trustml.precomputed("probabilities"), 0.2
    groups = lambda p: np.stack([p[:, 0] > 0.4, p.max(axis=1) > 0.6], axis=1)  # noqa: E731

    def draw(rng: np.random.Generator, n: int) -> tuple:
        p = rng.dirichlet(np.ones(4), size=n)
        # The model is too sure of class 0, so rows that lean to it are hard.
        flat = np.where(p[:, :1] > 0.4, 0.3, 1.0)
        true = flat * p + (1 - flat) / 4
        return p, (true.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)

    hits, marginal, rows = [], [], []
    for seed in range(RESPLITS):
        rng = np.random.default_rng(seed)
        (p_cal, y_cal), (p, y) = draw(rng, N_CAL), draw(rng, 400)
        rows.append(groups(p).mean(axis=0))
        for kind, into in ((GroupConditionalClassifier(model, groups), hits),
                           (SplitClassifier(model), marginal)):  # fmt: skip
            sets = kind.fit(p_cal, y_cal).predict_set(p, alpha)
            into.append(by_group(sets[np.arange(len(y)), y], groups(p)))
    check(np.array(hits), np.mean(rows, axis=0), 2, alpha)
    assert np.mean(marginal, axis=0)[0] < 1 - alpha - 0.05
