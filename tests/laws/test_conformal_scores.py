"""Scores that learn, tie, or meet two classes only keep the promise of split conformal sets.

A resplit of one pool is a random permutation of it: with scores that do not tie the number of
covered rows is Beta-Binomial exactly, with ties at least that. Each bound is placed so that a
correct predictor breaks it less often than once in ten thousand runs.
"""

import warnings
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import betabinom, binom
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB

import trustml
from trustml.conformal import Aps, Entmax, Knn, Raps, Score, SplitClassifier, metrics
from trustml.evidence import beta_binomial_band, ks_test

RESPLITS, N_CAL, N_TEST, FALSE_ALARM = 200, 150, 120, 1e-4
EVERY = ["lac", "aps", "raps", "saps", "topk", "margin", "entmax", "knn"]


@pytest.fixture(scope="module")
def pool() -> SimpleNamespace:
    X, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(1)
    order = rng.permutation(len(y))
    X, y = X[order] / 16 + rng.normal(scale=0.4, size=X.shape), y[order]
    train, kept = slice(0, 300), slice(300, 300 + N_CAL + N_TEST)
    fitted = LogisticRegression(C=0.05).fit(X[train], y[train])
    return SimpleNamespace(
        X_train=X[train], y_train=y[train], X=X[kept], y=y[kept], p=fitted.predict_proba(X[kept])
    )


def resplits() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(5)
    for _ in range(RESPLITS):
        order = rng.permutation(N_CAL + N_TEST)
        yield order[:N_CAL], order[N_CAL:]


def coverages(model: object, X: np.ndarray, y: np.ndarray, score: object, alphas: list) -> tuple:
    found = []
    for cal, test in resplits():
        cp = SplitClassifier(model, score, random_state=0).fit(X[cal], y[cal])
        sets = cp.predict_set(X[test], alphas)
        assert (np.diff(sets.astype(int), axis=2) >= 0).all()  # nested: alphas fall
        found.append(metrics.coverage(y[test], sets, classes=cp.classes_))
    return np.array(found), cp.n_calibration_


def check_exact(covered: np.ndarray, n_cal: int, alpha: float) -> None:
    low, high = beta_binomial_band(n_cal, N_TEST, alpha, level=0.95)
    inside = np.sum((covered >= low - 1e-12) & (covered <= high + 1e-12))
    assert inside >= binom.ppf(FALSE_ALARM, RESPLITS, 0.95)
    misses = int(np.floor((n_cal + 1) * alpha + 1e-9))
    law, counts = betabinom(N_TEST, n_cal + 1 - misses, misses), np.rint(covered * N_TEST)
    jitter = np.random.default_rng(0).random(RESPLITS)
    assert ks_test(law.cdf(counts - 1) + jitter * law.pmf(counts)).p_value > FALSE_ALARM


def check_at_least(covered: np.ndarray, n_cal: int, alpha: float) -> None:
    low, _ = beta_binomial_band(n_cal, N_TEST, alpha, level=0.95)
    assert np.sum(covered < low - 1e-12) <= binom.ppf(1 - FALSE_ALARM, RESPLITS, 0.025)
    spread = covered.std(ddof=1) / np.sqrt(RESPLITS)
    assert covered.mean() >= 1 - alpha - 4 * spread


@pytest.mark.parametrize(
    "score",
    [Raps("auto", "auto"), Raps("auto", 3, randomized=False), Entmax(1.0), Entmax(1.5),
     Entmax(2.0), Entmax("auto"), Aps(randomized=False), Raps(randomized=False)],
    ids=["raps-auto", "raps-auto-plain", "log-margin", "entmax", "sparsemax", "entmax-auto",
         "aps-plain", "raps-plain"],
)  # fmt: skip
def test_coverage_of_scores_of_probabilities(pool: SimpleNamespace, score: Score) -> None:
    # Rows differ in their probabilities, so scores tie only at the 0 of Entmax: below the model's
    # error rate the threshold is above it, and the law exact.
    alphas = [0.2, 0.1]
    assert (pool.p.argmax(1) != pool.y).mean() > 0.2 + 0.05
    covered, n_cal = coverages(trustml.precomputed("probabilities"), pool.p, pool.y, score, alphas)
    assert n_cal == N_CAL - np.ceil(score.share * N_CAL)
    for k, alpha in enumerate(alphas):
        check_exact(covered[:, k], n_cal, alpha)


@pytest.mark.parametrize("score", [Knn(3), Knn(5, share=0.4)], ids=["train", "aside"])
def test_coverage_of_nearest_neighbours(pool: SimpleNamespace, score: Score) -> None:
    model = trustml.precomputed("features", train=(pool.X_train, pool.y_train))
    covered, n_cal = coverages(model, pool.X, pool.y, score, [0.2, 0.1])
    for k, alpha in enumerate((0.2, 0.1)):
        check_exact(covered[:, k], n_cal, alpha)


@pytest.mark.parametrize("score", EVERY)
def test_coverage_of_binary_tasks(pool: SimpleNamespace, score: str) -> None:
    # MAPIE 1.6.0 refuses all scores but LAC for two classes.
    hard, y = pool.X_train[:, ::7], pool.y > 4
    fitted = LogisticRegression(C=0.05).fit(hard, pool.y_train > 4)
    if score == "knn":
        model = trustml.precomputed("features", train=(hard, pool.y_train > 4))
        rows = pool.X[:, ::7]
    else:
        model, rows = trustml.precomputed("probabilities"), fitted.predict_proba(pool.X[:, ::7])
        y = y.astype(int)
    covered, n_cal = coverages(model, rows, y, score, [0.2, 0.1])
    for k, alpha in enumerate((0.2, 0.1)):
        check_at_least(covered[:, k], n_cal, alpha)
        if score not in ("entmax", "raps"):
            check_exact(covered[:, k], n_cal, alpha)


@pytest.fixture(scope="module")
def zeros(pool: SimpleNamespace) -> dict:
    # Copies of every column drive naive Bayes to exact zeros, as correlated columns do.
    wide = lambda X: np.tile(X, (1, 80))  # noqa: E731
    forest = RandomForestClassifier(8, random_state=0).fit(pool.X_train, pool.y_train)
    bayes = GaussianNB().fit(wide(pool.X_train), pool.y_train)
    return {
        "forest": forest.predict_proba(pool.X),
        "bayes": bayes.predict_proba(wide(pool.X)),
    }


@pytest.mark.parametrize(
    ("kind", "score"),
    [("forest", score) for score in [*EVERY[:-1], Raps("auto", "auto")]]
    + [("bayes", score) for score in ("lac", "aps", "margin", "entmax")],
    ids=lambda v: v if isinstance(v, str) else f"{v.name}-auto",
)
def test_coverage_with_zeros_and_ties(
    pool: SimpleNamespace, zeros: dict, kind: str, score: object
) -> None:
    # Probabilities that are exactly 0, and rows that tie (MAPIE #254, #266, #456): never too few.
    p = zeros[kind]
    assert (p == 0).any()
    covered, n_cal = coverages(trustml.precomputed("probabilities"), p, pool.y, score, [0.3, 0.1])
    for k, alpha in enumerate((0.3, 0.1)):
        check_at_least(covered[:, k], n_cal, alpha)


@pytest.mark.parametrize("score", ["lac", "margin", "entmax"])
def test_rows_that_are_all_equal_are_covered(score: str) -> None:
    p, y = np.full((60, 4), 0.25), np.arange(60) % 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cp = SplitClassifier(trustml.precomputed("probabilities"), score).fit(p, y)
        assert cp.predict_set(p, 0.1).all()
