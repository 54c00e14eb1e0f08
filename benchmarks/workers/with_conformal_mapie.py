"""MAPIE 1.6.0."""

import numpy as np
import torch
from _phases import Phases, main
from mapie.classification import SplitConformalClassifier
from mapie.conformity_scores import RAPSConformityScore
from mapie.regression import CrossConformalRegressor
from mapie.risk_control.methods import get_r_hat_plus
from mapie.utils import _compute_classification_quantile, _compute_regression_quantile
from sklearn.linear_model import Ridge
from sklearn.model_selection import PredefinedSplit

from _conformal_tasks import (
    ALPHA,
    Arrays,
    StoredProbabilities,
    WarmNetwork,
    hits,
    network,
    trained,
)


def plus(data: Arrays, phase: Phases, method: str, folds: bool, estimator: object = None) -> tuple:
    cv = PredefinedSplit(data["fold"]) if folds else -1
    with phase("fit"):
        cp = CrossConformalRegressor(
            estimator or Ridge(alpha=1.0), confidence_level=1 - ALPHA, method=method, cv=cv
        ).fit_conformalize(data["X"], data["y"])
    with phase("predict"):
        ends = cp.predict_interval(data["Xq"])[1][:, :, 0]
    return ends, {}


def network_plus(data: Arrays, phase: Phases) -> tuple:
    n, decay = len(data["y"]), float(data["decay"])
    start = trained(network(), data["X"], data["y"], n, decay)
    ends, _ = plus(data, phase, "plus", folds=False, estimator=WarmNetwork(start, n, decay))
    return np.concatenate([ends[:, 0], ends[:, 1]]), {}


def predictor(classes: int, score: object, seed: int = 0) -> SplitConformalClassifier:
    return SplitConformalClassifier(
        StoredProbabilities(classes), confidence_level=1 - ALPHA, conformity_score=score,
        prefit=True, random_state=np.random.RandomState(seed),  # an int would draw the same twice
    )  # fmt: skip


def sets_of(cp: SplitConformalClassifier, X: np.ndarray, last: object) -> np.ndarray:
    options = {"conformity_score_params": {"include_last_label": last}} if last else {}
    return cp.predict_set(X, **options)[1][:, :, 0]


def split(data: Arrays, phase: Phases, score: object, last: object = None) -> tuple:
    cp = predictor(data["p"].shape[1], score)
    with phase("calibrate"):
        cp.conformalize(data["p"], data["y"])
    with phase("predict"):
        sets = sets_of(cp, data["pq"], last)
    return hits(sets, data["yq"]), {}


def resplits(data: Arrays, phase: Phases, score: object, last: object = None) -> tuple:
    found, n = [], data["n"]
    for seed, rows in enumerate(data["rows"]):
        cal, new = rows[:n], rows[n:]
        cp = predictor(data["p"].shape[1], score, seed)
        with phase("all"):
            sets = sets_of(cp.conformalize(data["p"][cal], data["y"][cal]), data["p"][new], last)
        found.append(hits(sets, data["y"][new]))
    return found, {}


def bound(data: Arrays, phase: Phases, kind: str) -> tuple:
    grid, found = np.array([0.1, 0.3, 0.5, 0.7, 0.9]), []
    for losses in data["losses"]:
        table = np.repeat(losses[:, None], len(grid), axis=1)
        with phase("bound"):
            found.append(get_r_hat_plus(table, grid, "rcps", kind, ALPHA, 0.25)[1][0])
    return found, {}


def full_by_halves(data: Arrays, phase: Phases) -> tuple:
    """What MAPIE has instead of full conformal prediction: half of the rows calibrate."""
    from sklearn.linear_model import LogisticRegression

    X, y = data["X"], data["y"]
    half = len(y) // 2
    model = LogisticRegression(C=1 / (0.01 * half), tol=1e-7, max_iter=5000)
    with phase("fit"):
        cp = SplitConformalClassifier(
            model.fit(X[:half], y[:half]), confidence_level=1 - ALPHA, conformity_score="lac",
            prefit=True,
        ).conformalize(X[half:], y[half:])  # fmt: skip
    with phase("predict"):
        sets = cp.predict_set(data["Xq"])[1][:, :, 0]
    return hits(sets, np.searchsorted(model.classes_, data["yq"])), {}


def ranks(data: Arrays, phase: Phases, regression: bool) -> tuple:
    found = np.full((len(data["sizes"]), len(data["hundredths"])), np.nan)
    for i, n in enumerate(data["sizes"]):
        column = np.arange(1.0, n + 1)[:, None]
        for j, hundredth in enumerate(data["hundredths"]):
            level = np.array([hundredth / 100])
            try:
                if regression:
                    found[i, j] = _compute_regression_quantile(column, 1 - level).ravel()[0]
                else:
                    found[i, j] = _compute_classification_quantile(column, level).ravel()[0]
            except ValueError:  # a rank beyond n, whether the truth is or the floats say so
                found[i, j] = np.inf
    return found, {}


AUTO = RAPSConformityScore(size_raps=0.2)
CONTENDERS = {
    "jackknife+": lambda d, ph: plus(d, ph, "plus", folds=False),
    "minmax": lambda d, ph: plus(d, ph, "minmax", folds=False),
    "CV+": lambda d, ph: plus(d, ph, "plus", folds=True),
    "network, refits": network_plus,
    "halves, lac": full_by_halves,
    "lac": lambda d, ph: split(d, ph, "lac"),
    "aps": lambda d, ph: split(d, ph, "aps", "randomized"),
    "aps (default)": lambda d, ph: split(d, ph, "aps"),
    "raps (auto)": lambda d, ph: split(d, ph, AUTO, "randomized"),
    "lac, resplits": lambda d, ph: resplits(d, ph, "lac"),
    "aps, resplits": lambda d, ph: resplits(d, ph, "aps", "randomized"),
    "aps (default), resplits": lambda d, ph: resplits(d, ph, "aps"),
    "raps (auto), resplits": lambda d, ph: resplits(d, ph, AUTO, "randomized"),
    "bound wsr": lambda d, ph: bound(d, ph, "wsr"),
    "bound hoeffding": lambda d, ph: bound(d, ph, "hoeffding"),
    "bound bernstein": lambda d, ph: bound(d, ph, "bernstein"),
    "ranks": lambda d, ph: ranks(d, ph, regression=False),
    "ranks, regression": lambda d, ph: ranks(d, ph, regression=True),
}  # fmt: skip

if __name__ == "__main__":
    torch.manual_seed(0)
    main(CONTENDERS)
