"""The promises of weighted conformal prediction under rows of another law."""

import numpy as np
import pytest

import trustml
from trustml.conformal import CovariateShift, WeightedClassifier, WeightedRegressor, metrics

# A row of much weight gets everything, and a hard shift leaves few rows: parts of the law.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*(hold more than|rows of equal weight):trustml.warnings.CoverageWarning"
)

RESPLITS = 200
PROBABILITIES = trustml.precomputed("probabilities")


def at_least(covered: np.ndarray, alpha: float) -> bool:
    """Whether the mean coverage of independent runs is 1 - alpha, less 3 standard errors."""
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
