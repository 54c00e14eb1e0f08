"""The promises of weighted conformal prediction under rows of another law."""

import numpy as np
import pytest

import trustml
from trustml.conformal import (
    CovariateShift,
    Decay,
    LabelShift,
    Localized,
    SplitRegressor,
    WeightedClassifier,
    WeightedRegressor,
    metrics,
)

# A row of much weight gets everything, and a hard shift leaves few rows: parts of the law.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*(hold more than|rows of equal weight):trustml.warnings.CoverageWarning"
)

RESPLITS = 200
PROBABILITIES = trustml.precomputed("probabilities")


def at_least(covered: np.ndarray, alpha: float) -> bool:
    """Whether the mean coverage of independent runs is 1 - alpha, less 3 standard errors.

    In truth it is above by about half the weight of one row, 0.8 standard errors or more here: a
    false alarm has probability 1e-4.
    """
    return covered.mean() >= 1 - alpha - 3 * covered.std(ddof=1) / np.sqrt(len(covered))


class Task:
    """Softmax labels on Gaussian rows; target rows are shifted along the first axis."""

    def __init__(self, signal: float, shift: float, seed: int) -> None:
        self.coefficients = np.random.default_rng(seed).normal(size=(2, 6)) * signal
        self.shift = shift

    def draw(self, rng: np.random.Generator, n: int, shifted: bool) -> tuple:
        X = rng.normal(size=(n, 2))
        X[:, 0] += self.shift * shifted
        logits = X @ self.coefficients
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        y = (p.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
        # The row that a model of stored probabilities sees: probabilities, then the ratio.
        return p, y, np.exp(self.shift * X[:, 0] - self.shift**2 / 2)


class RatioOfRows:
    """Exact ratios of stored probabilities, looked up by their bytes."""

    def __init__(self, *pairs: tuple[np.ndarray, np.ndarray]) -> None:
        self.known = {row.tobytes(): w for p, ratio in pairs for row, w in zip(p, ratio)}  # noqa: B905

    def __call__(self, p: np.ndarray) -> np.ndarray:
        return np.array([self.known[row.tobytes()] for row in p])


@pytest.mark.parametrize(
    ("task", "coverage", "most"),
    [(Task(0.15, 1.0, seed=0), 0.905, 5.3), (Task(8.0, 2.0, seed=3), 0.911, 1.15)],
    ids=["hard", "easy"],
)
def test_sets_under_shift_where_torchcp_sorts_weights_apart_b3(
    task: Task, coverage: float, most: float
) -> None:
    """TorchCP 1.2.1's WeightedPredictor sorts the weights by themselves, apart from the scores."""
    ours, apart = [], []
    for seed in range(10):
        rng = np.random.default_rng(100 + seed)
        p_cal, y_cal, w_cal = task.draw(rng, 2000, shifted=False)
        p, y, w = task.draw(rng, 2000, shifted=True)
        cp = WeightedClassifier(PROBABILITIES, RatioOfRows((p_cal, w_cal), (p, w)))
        sets = cp.fit(p_cal, y_cal).predict_set(p, 0.1)
        ours.append((metrics.coverage(y, sets), metrics.set_size(sets)))
        scores = np.sort(1 - p_cal[np.arange(2000), y_cal])
        reached = np.sort(w_cal).cumsum() < 0.9 * (w_cal.sum() + w)[:, None]
        sets = 1 - p <= np.append(scores, np.inf)[reached.sum(axis=1)][:, None]
        apart.append((metrics.coverage(y, sets), metrics.set_size(sets)))
    found, theirs = np.mean(ours, axis=0), np.mean(apart, axis=0)
    assert found[0] == pytest.approx(coverage, abs=0.01)
    assert found[1] <= most
    assert theirs[0] > 0.97
    assert theirs[1] > found[1] + 0.1


def test_sets_cover_under_the_shifted_law() -> None:
    task, alphas, covered, unweighted = Task(0.15, 1.0, seed=0), [0.05, 0.1, 0.3], [], []
    for seed in range(RESPLITS):
        rng = np.random.default_rng(seed)
        p_cal, y_cal, w_cal = task.draw(rng, 300, shifted=False)
        p, y, w = task.draw(rng, 200, shifted=True)
        cp = WeightedClassifier(PROBABILITIES, RatioOfRows((p_cal, w_cal), (p, w)), "lac")
        covered.append(metrics.coverage(y, cp.fit(p_cal, y_cal).predict_set(p, alphas)))
        split = WeightedClassifier(PROBABILITIES).fit(p_cal, y_cal)
        unweighted.append(metrics.coverage(y, split.predict_set(p, alphas)))
    for k, alpha in enumerate(alphas):
        assert at_least(np.array(covered)[:, k], alpha)
        # Not by being wide: above by no more than the weight of one row.
        assert np.mean(covered, axis=0)[k] < 1 - alpha + 0.03
    assert (np.mean(unweighted, axis=0)[:2] < [0.94, 0.89]).all()


@pytest.mark.parametrize("kind", ["exact", "estimated", "held out"])
def test_intervals_cover_under_the_shifted_law(kind: str) -> None:
    def draw(rng: np.random.Generator, n: int, centre: float) -> tuple:
        f = rng.normal(centre, 1, size=n)
        return f, f + rng.normal(size=n) * np.exp(f / 2)

    covered, unweighted = [], []
    for seed in range(RESPLITS):
        rng = np.random.default_rng(seed)
        (f_cal, y_cal), (f, y) = draw(rng, 300, 0.0), draw(rng, 100, 0.8)
        target, source = draw(rng, 1000, 0.8)[0], draw(rng, 1000, 0.0)[0]
        weights = {
            "exact": lambda f: np.exp(0.8 * f),
            "estimated": CovariateShift(target, folds=2),
            "held out": CovariateShift(target, source),
        }[kind]
        model = trustml.precomputed("values")
        cp = WeightedRegressor(model, weights).fit(f_cal, y_cal)
        covered.append(metrics.coverage(y, cp.predict_interval(f, 0.2)))
        split = WeightedRegressor(model).fit(f_cal, y_cal)
        unweighted.append(metrics.coverage(y, split.predict_interval(f, 0.2)))
    assert at_least(np.array(covered), 0.2)
    assert np.mean(covered) < 0.83
    assert np.mean(unweighted) < 0.74


@pytest.mark.parametrize("kind", ["known", "solved for", "solved for, held out"])
def test_sets_cover_under_other_class_frequencies(kind: str) -> None:
    before, after = np.array([0.6, 0.3, 0.1]), np.array([0.1, 0.3, 0.6])
    centres = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])

    def draw(rng: np.random.Generator, n: int, frequency: np.ndarray) -> tuple:
        y = rng.choice(3, size=n, p=frequency)
        X = centres[y] + rng.normal(size=(n, 2))
        likelihood = np.exp(-np.square(X[:, None] - centres).sum(axis=2) / 2) * before
        return likelihood / likelihood.sum(axis=1, keepdims=True), y

    covered, unweighted, alphas = [], [], [0.1, 0.2]
    model = trustml.precomputed("probabilities")
    for seed in range(RESPLITS):
        rng = np.random.default_rng(seed)
        (p_cal, y_cal), (p, y) = draw(rng, 300, before), draw(rng, 200, after)
        target, source = draw(rng, 1000, after)[0], draw(rng, 1000, before)
        weights = {
            "known": LabelShift(ratio=after / before),
            "solved for": LabelShift(target),
            "solved for, held out": LabelShift(target, source=source),
        }[kind]
        cp = WeightedClassifier(model, weights, "aps", random_state=0).fit(p_cal, y_cal)
        covered.append(metrics.coverage(y, cp.predict_set(p, alphas)))
        split = WeightedClassifier(model, None, "aps", random_state=0).fit(p_cal, y_cal)
        unweighted.append(metrics.coverage(y, split.predict_set(p, alphas)))
    for k, alpha in enumerate(alphas):
        assert at_least(np.array(covered)[:, k], alpha)
        # Not by being wide: above by no more than the weight of one row of the rare class.
        assert np.mean(covered, axis=0)[k] < 1 - alpha + 0.03
    assert (np.mean(unweighted, axis=0) < [0.84, 0.73]).all()


def test_intervals_of_decay_follow_a_drift() -> None:
    """The noise doubles 100 rows before the end; the proof counts the weight of what is older."""
    rate, covered, unweighted = 0.97, [], []
    model = trustml.precomputed("values")
    sigma = np.where(np.arange(400) < 300, 1.0, 2.0)
    for seed in range(RESPLITS):
        rng = np.random.default_rng(seed)
        y_cal, y = rng.normal(size=400) * sigma, rng.normal(size=200) * 2
        cp = WeightedRegressor(model, Decay(rate)).fit(np.zeros(400), y_cal)
        covered.append(metrics.coverage(y, cp.predict_interval(np.zeros(200), 0.1)))
        split = SplitRegressor(model).fit(np.zeros(400), y_cal)
        unweighted.append(metrics.coverage(y, split.predict_interval(np.zeros(200), 0.1)))
    weights = rate ** np.arange(400.0, 0, -1)
    older = weights[:300].sum() / (weights.sum() + 1)
    # Swapping two independent rows moves their law by at most twice what one of them moves:
    # N(0, 1) and N(0, 4) are 0.32 apart in total variation.
    assert at_least(np.array(covered), 0.1 + 0.64 * older)
    assert np.mean(unweighted) < 0.8


def test_intervals_of_decay_cover_without_a_drift() -> None:
    covered, model = [], trustml.precomputed("values")
    for seed in range(RESPLITS):
        rng = np.random.default_rng(seed)
        cp = WeightedRegressor(model, Decay(0.98)).fit(np.zeros(300), rng.normal(size=300))
        found = cp.predict_interval(np.zeros(200), 0.1)
        covered.append(metrics.coverage(rng.normal(size=200), found))
    assert at_least(np.array(covered), 0.1)
    assert np.mean(covered) < 0.93


def test_localized_intervals_cover_and_follow_the_noise() -> None:
    def draw(rng: np.random.Generator, n: int) -> tuple:
        f = rng.uniform(-1, 1, size=n)
        return f, f + rng.normal(size=n) * np.where(f > 0, 3.0, 0.5)

    covered, sides, unlocalized = [], [], []
    model = trustml.precomputed("values")
    for seed in range(RESPLITS):
        rng = np.random.default_rng(seed)
        (f_cal, y_cal), (f, y) = draw(rng, 250), draw(rng, 60)
        cp = WeightedRegressor(model, Localized(0.2, random_state=seed)).fit(f_cal, y_cal)
        found = cp.predict_interval(f, 0.2)
        covered.append(metrics.coverage(y, found))
        split = SplitRegressor(model).fit(f_cal, y_cal).predict_interval(f, 0.2)
        for inside, where in ((found, sides), (split, unlocalized)):
            where.append([metrics.coverage(y[s], inside[s]) for s in (f < 0, f > 0)])
    assert at_least(np.array(covered), 0.2)
    assert np.mean(covered) < 0.83
    quiet, loud = np.mean(sides, axis=0)
    assert abs(quiet - loud) < 0.15
    quiet, loud = np.mean(unlocalized, axis=0)
    assert quiet - loud > 0.3
