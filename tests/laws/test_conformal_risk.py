"""Every controller of risk keeps its promise at the law that is worst for it.

The worst law has a parameter whose risk is a hair above alpha, and nothing before it that could
stop the search: whoever takes that parameter is wrong. Violations then are Binomial(runs, q) with
q <= delta if the promise holds, and each check below fails for a correct controller with
probability at most 1e-5. All populations are known in closed form.
"""

import warnings

import numpy as np
import pytest
from scipy.stats import beta, binom

from trustml.conformal import (
    ConformalRiskControl,
    ErrorRate,
    FairnessViolation,
    LearnThenTest,
    RiskControllingPredictionSets,
    WeightedRiskControl,
)
from trustml.evidence import MEAN_METHODS
from trustml.warnings import CoverageWarning

DELTA, FALSE_ALARM = 0.1, 1e-5


@pytest.fixture(autouse=True)
def _searches_may_find_nothing() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CoverageWarning)
        yield


def at_most(violations: int, runs: int) -> bool:
    return violations <= binom.ppf(1 - FALSE_ALARM, runs, DELTA)


def boundary_tables(p: float, n: int, m: int, runs: int) -> np.ndarray:
    """Loss tables (runs, n, m): a column without loss, then m - 1 independent ones of mean p."""
    losses = (np.random.default_rng(0).random((runs, n, m)) < p).astype(float)
    losses[:, :, 0] = 0
    return losses


@pytest.mark.parametrize("test", MEAN_METHODS)
@pytest.mark.parametrize(("p", "alpha", "n"), [(0.1002, 0.1, 200), (0.3002, 0.3, 100)])
def test_rcps_of_binary_losses(test: str, p: float, alpha: float, n: int) -> None:
    runs = 400
    rcps = RiskControllingPredictionSets(alpha=alpha, delta=DELTA, test=test)
    chosen = [rcps.fit_losses(t).index_ for t in boundary_tables(p, n, 2, runs)]
    assert set(chosen) <= {0, 1}
    assert at_most(chosen.count(1), runs)


@pytest.mark.parametrize("test", ["wsr", "hoeffding-bentkus", "empirical-bernstein"])
def test_rcps_of_recall(test: str) -> None:
    # A positive scores Beta(3, 1), and each row has one to four: the risk at t is t^3.
    rng, runs, alpha, n = np.random.default_rng(1), 250, 0.2, 120
    worst = beta(3, 1).ppf(alpha + 1e-6)
    rcps = RiskControllingPredictionSets(
        risk="false-negative-rate", alpha=alpha, delta=DELTA, test=test, grid=[0.0, 0.3, worst]
    )
    chosen = []
    for _ in range(runs):
        y = np.arange(4) < rng.integers(1, 5, size=(n, 1))
        scores = np.where(y, rng.beta(3, 1, size=y.shape), rng.random(y.shape))
        chosen.append(rcps.fit(scores, y).index_)
    assert at_most(chosen.count(2), runs)
    assert chosen.count(1) + chosen.count(2) == runs  # the bound at 0.3, risk 0.027, is below 0.2


@pytest.mark.parametrize(
    "setting",
    [{"method": "bonferroni"}, {"method": "holm"}, {"method": "fixed-sequence"},
     {"method": "fixed-sequence", "starts": 4}, {"method": "holm", "test": "wsr"},
     {"method": "fixed-sequence", "starts": 2, "test": "hoeffding-bentkus"}],
    ids=str,
)  # fmt: skip
def test_learn_then_test_makes_no_false_parameter_valid(setting: dict) -> None:
    runs = 400
    ltt = LearnThenTest(alpha=0.2, delta=DELTA, **({"test": "clopper-pearson"} | setting))
    wrong = 0
    for table in boundary_tables(0.2002, 100, 9, runs):
        valid = ltt.fit_losses(table).valid_
        wrong += valid[1:].any()
        assert valid[0]
    assert at_most(int(wrong), runs)
    if setting.get("test") != "hoeffding-bentkus":
        assert wrong > 0  # near the boundary, not merely timid


def test_learn_then_test_of_two_risks() -> None:
    # The first risk is small everywhere, the second a hair above its alpha where it counts.
    runs, rng = 400, np.random.default_rng(2)
    ltt = LearnThenTest(alpha=[0.3, 0.1], delta=DELTA, test="clopper-pearson", method="holm")
    wrong = 0
    for _ in range(runs):
        first = (rng.random((150, 4)) < 0.05).astype(float)
        second = (rng.random((150, 4)) < 0.1002).astype(float)
        wrong += ltt.fit_losses([first, second]).certified_
    assert at_most(wrong, runs)
    assert wrong > 0


def test_selective_error_where_confidence_tells_nothing() -> None:
    # Every answer is wrong with probability 0.2002, however confident: no threshold is valid.
    runs, rng, n = 300, np.random.default_rng(3), 150
    ltt = LearnThenTest(
        risk="selective-error", alpha=0.2, delta=DELTA, grid=np.linspace(0.95, 0.5, 8)
    )
    wrong = 0
    for _ in range(runs):
        confidence = rng.uniform(0.5, 1, size=n)
        y = (rng.random(n) < 0.2002).astype(int)
        wrong += ltt.fit(np.stack([confidence, 1 - confidence], axis=1), y).certified_
    assert at_most(wrong, runs)


@pytest.mark.parametrize(
    ("rate", "share"), [("all", 0.2002), ("false-discovery", 0.7998), ("false-omission", 0.2002)]
)
def test_error_rates_of_scores_that_tell_nothing(rate: str, share: float) -> None:
    # Whatever the threshold, 0.2002 of the selected are negative, or of the others positive;
    # of all rows 0.2002 are wrong where nobody is selected.
    runs, rng, n = 300, np.random.default_rng(10), 150
    grid = [1.5] if rate == "all" else np.linspace(0.3, 0.7, 5)
    ltt = LearnThenTest(risk=ErrorRate(rate), alpha=0.2, delta=DELTA, grid=grid)
    wrong = sum(ltt.fit(rng.random(n), rng.random(n) < share).certified_ for _ in range(runs))
    assert at_most(wrong, runs)
    assert wrong > 0


@pytest.mark.parametrize("rate", ["false-positive", "false-negative"])
def test_error_rates_among_the_truly_alike(rate: str) -> None:
    # Uniform scores: at t the positives fail with probability t, the negatives with 1 - t. The
    # walk from the safest reaches a threshold whose rate is a hair above alpha.
    runs, rng, n, worst = 300, np.random.default_rng(11), 200, 0.2002
    grid = [0.0, 0.05, worst] if rate == "false-negative" else [1.0, 0.95, 1 - worst]
    ltt = LearnThenTest(risk=ErrorRate(rate), alpha=0.2, delta=DELTA, grid=grid)
    wrong = sum(ltt.fit(rng.random(n), rng.random(n) < 0.5).index_ == 2 for _ in range(runs))
    assert at_most(wrong, runs)
    assert wrong > 0


def test_fairness_violation_of_two_groups() -> None:
    # Selection rates 0.4 and 0.2998: the difference is a hair above alpha.
    runs, rng, n = 200, np.random.default_rng(4), 240
    group = np.arange(n) % 2
    fair = LearnThenTest(risk=FairnessViolation(), alpha=0.1, delta=DELTA, grid=[0.5])
    wrong = 0
    for _ in range(runs):
        scores = (rng.random(n) < np.where(group, 0.4, 0.2998)).astype(float)
        wrong += fair.fit(scores, np.zeros(n), sensitive_features=group).certified_
    assert at_most(wrong, runs)


def test_fairness_is_found_where_it_is() -> None:
    rng, n = np.random.default_rng(5), 3000
    group, scores = np.arange(n) % 3, rng.random(n)
    fair = LearnThenTest(risk=FairnessViolation(), alpha=0.15, delta=DELTA)
    assert fair.fit(scores, np.zeros(n), sensitive_features=group).valid_.all()


@pytest.mark.parametrize(("n", "alpha"), [(39, 0.1), (9, 0.1), (19, 0.3)])
def test_conformal_risk_control_of_miscoverage_is_tight(n: int, alpha: float) -> None:
    # Losses 1{u < t} of uniform u: the risk at t is t. (n + 1) alpha is whole, so the expected
    # risk is alpha, but for the grid's width; without the bound in the sum it would be more.
    runs, rng, grid = 1000, np.random.default_rng(6), np.linspace(0, 1, 401)
    crc = ConformalRiskControl(alpha=alpha, grid=grid)
    risks = [crc.fit_losses(rng.random((n, 1)) < grid).parameter_ for _ in range(runs)]
    law = beta(round((n + 1) * alpha), n + 1 - round((n + 1) * alpha))
    # The mean of 1000 draws is normal to all purposes: 4.3 standard errors for 1e-5.
    error = 4.3 * law.std() / np.sqrt(runs)
    assert law.mean() == pytest.approx(alpha)
    assert alpha - 1 / 400 - error <= np.mean(risks) <= alpha + error


def test_conformal_risk_control_of_recall() -> None:
    # Risk t^3 as above; a row has one to four positives, so losses lie between 0 and 1 too.
    runs, rng, alpha, n = 400, np.random.default_rng(7), 0.2, 30
    crc = ConformalRiskControl(risk="false-negative-rate", alpha=alpha)
    risks = []
    for _ in range(runs):
        y = np.arange(4) < rng.integers(1, 5, size=(n, 1))
        scores = np.where(y, rng.beta(3, 1, size=y.shape), 0.0)
        risks.append(crc.fit(scores, y).parameter_ ** 3)
    error = 4.3 * np.std(risks, ddof=1) / np.sqrt(runs)
    assert np.mean(risks) <= alpha + error
    # Theorem 2 of the paper: at least alpha - 2 B / (n + 1), and the grid's width in risk.
    assert np.mean(risks) >= alpha - 2 / (n + 1) - 0.03 - error


@pytest.mark.parametrize("n", [25, 60])
def test_weighted_control_of_rows_drawn_otherwise(n: int) -> None:
    # Two kinds of rows, the second with losses 1 - (1 - t)^3 at t where the first has t; it is
    # three tenths of the calibration rows and seven tenths of the new ones.
    runs, rng, alpha, grid = 600, np.random.default_rng(9), 0.2, np.linspace(0, 1, 101)
    kinds = np.array([[0.0, 0.0], [0.0, 1.0]])
    ratio = np.array([3 / 7, 7 / 3])

    def loss(outputs: np.ndarray, y: np.ndarray, t: float) -> np.ndarray:
        return outputs[:, 0] < t

    found = {}
    for name, weights in {"exact": lambda X: ratio[X[:, 1].astype(int)], "none": None}.items():
        crc = WeightedRiskControl(risk=loss, alpha=alpha, weights=weights, grid=grid)
        risks = []
        for _ in range(runs):
            kind = rng.random(n) < 0.3
            u = np.where(kind, rng.beta(1, 3, size=n), rng.random(n))
            crc.fit(np.stack([u, kind], axis=1), kind)
            first, second = crc.parameters(kinds)
            risks.append(0.3 * first + 0.7 * (1 - (1 - second) ** 3))
        found[name] = (np.mean(risks), 4.3 * np.std(risks, ddof=1) / np.sqrt(runs))
    mean, error = found["exact"]
    # Not above alpha, and not below by more than the share of the heaviest row and the grid.
    assert alpha - 2 * (7 / 3) / n - 3 / 100 - error <= mean <= alpha + error
    mean, error = found["none"]
    assert mean > alpha + error


def test_false_discoveries_need_no_monotone_loss() -> None:
    # True labels score uniformly above 1/2, false ones uniformly on [0, 1]: with p of the labels
    # true the share of false ones at t >= 1/2 is 1 / (1 + 2 p / (1 - p)) wherever t is.
    runs, rng, p, n = 200, np.random.default_rng(8), 0.6, 60
    alpha = 1 / (1 + 2 * p / (1 - p)) - 1e-6
    grid = np.linspace(0.8, 0.5, 6)
    ltt = LearnThenTest(risk="false-discovery-rate", alpha=alpha, delta=DELTA, grid=grid)
    wrong = 0
    for _ in range(runs):
        y = rng.random((n, 40)) < p
        scores = np.where(y, rng.uniform(0.5, 1, size=y.shape), rng.random(y.shape))
        # Of 40 labels some score above any t here but with probability 1e-6: no empty sets.
        wrong += ltt.fit(scores, y).certified_
    assert at_most(wrong, runs)
