"""trustml's conformal prediction, through its public face."""

import copy

import numpy as np
import torch
from _phases import Phases, main
from sklearn.linear_model import LogisticRegression, Ridge

import trustml
from _conformal_tasks import ALPHA, FOLDS, Arrays, hits, network, trained
from trustml.conformal import (
    Aps,
    CvPlusRegressor,
    FullClassifier,
    JackknifePlusRegressor,
    Lac,
    Raps,
    RiskControllingPredictionSets,
    SplitClassifier,
    WeightedClassifier,
)
from trustml.evidence import mean_upper_bound, pvalues, quantile


def stored() -> trustml.Model:
    """The model of stored probabilities: a new one each time, since it learns its classes."""
    return trustml.precomputed("probabilities")


def plus(data: Arrays, phase: Phases, kind: type, **options: object) -> tuple:
    with phase("fit"):
        model = trustml.wrap(
            Ridge(alpha=1.0).fit(data["X"], data["y"]), train=(data["X"], data["y"])
        )
        cp = kind(model, **options).fit()
    with phase("predict"):
        found = cp.predict_interval(data["Xq"], ALPHA)
    if kind is CvPlusRegressor and not np.array_equal(cp.fold_, data["fold"]):
        raise RuntimeError("the folds are not those that the other contenders have")
    return found, {}


def network_plus(data: Arrays, phase: Phases, refit: bool) -> tuple:
    X, y, n, decay = data["X"], data["y"], len(data["y"]), float(data["decay"])
    start = trained(network(), X, y, n, decay)
    with phase("fit"):
        model = trustml.wrap(
            copy.deepcopy(start), task="regression", train=(X, y), weight_decay=decay,
            train_fn=lambda X, y: trained(start, X, y, n, decay),
        )  # fmt: skip
        cp = JackknifePlusRegressor(model, refit=refit).fit()
    with phase("predict"):
        ends = cp.predict_interval(data["Xq"], ALPHA)
    seen = np.abs(y - np.asarray(model.predict(X)).ravel())
    return np.concatenate([seen, cp.residuals_, ends[:, 0], ends[:, 1]]), {}


def full(data: Arrays, phase: Phases, score: str, refit: bool = False, few: int = 0) -> tuple:
    X, y, Xq = data["X"], data["y"], data["Xq"][: few or None]
    estimator = LogisticRegression(C=1 / (0.01 * len(y)), tol=1e-7, max_iter=5000).fit(X, y)
    with phase("fit"):
        cp = FullClassifier(trustml.wrap(estimator, train=(X, y)), score, refit=refit).fit()
    with phase("predict"):
        p = cp.p_values(Xq)
    if len(cp.classes_) != 10:
        raise RuntimeError("a digit is missing from the training rows")
    return p, {}


def split(data: Arrays, phase: Phases, score: object) -> tuple:
    cp = SplitClassifier(stored(), score, random_state=0)
    with phase("calibrate"):
        cp.fit(data["p"], data["y"])
    with phase("predict"):
        sets = cp.predict_set(data["pq"], ALPHA)
    return hits(sets, data["yq"]), {}


def resplits(data: Arrays, phase: Phases, score: object) -> tuple:
    found, n = [], data["n"]
    for seed, rows in enumerate(data["rows"]):
        cal, new = rows[:n], rows[n:]
        cp = SplitClassifier(stored(), score, random_state=seed)
        with phase("all"):
            sets = cp.fit(data["p"][cal], data["y"][cal]).predict_set(data["p"][new], ALPHA)
        found.append(hits(sets, data["y"][new]))
    return found, {}


class RatioOfRows:
    """Exact density ratios of stored probabilities, looked up by their bytes."""

    def __init__(self, p: np.ndarray, w: np.ndarray) -> None:
        self.known = {row.tobytes(): ratio for row, ratio in zip(p, w, strict=True)}

    def __call__(self, p: np.ndarray) -> np.ndarray:
        return np.array([self.known[row.tobytes()] for row in p])


def weighted(data: Arrays, phase: Phases) -> tuple:
    ratio = RatioOfRows(
        np.concatenate([data["p"], data["pq"]]), np.concatenate([data["w"], data["wq"]])
    )
    with phase("calibrate"):
        cp = WeightedClassifier(stored(), ratio).fit(data["p"], data["y"])
    with phase("predict"):
        sets = cp.predict_set(data["pq"], ALPHA)
    return hits(sets, data["yq"]), {}


def bound(data: Arrays, phase: Phases, test: str) -> tuple:
    with phase("bound"):
        found = mean_upper_bound(data["losses"].T, ALPHA, test)
    return found, {}


def chosen(data: Arrays, phase: Phases, test: str) -> tuple:
    """1 where the column of the losses is taken, though its true risk is above `alpha`."""
    rcps = RiskControllingPredictionSets(alpha=float(data["alpha"]), delta=ALPHA, test=test)
    taken = []
    for losses in data["losses"]:
        table = np.stack([np.zeros_like(losses), losses], axis=1)
        with phase("choose"):
            taken.append(rcps.fit_losses(table).index_ == 1)
    return taken, {}


def ranks(data: Arrays, phase: Phases) -> tuple:
    alphas = data["hundredths"] / 100
    with phase("quantile"):
        found = [quantile(np.arange(1.0, n + 1), list(alphas)) for n in data["sizes"]]
    return found, {}


def p_values(data: Arrays, phase: Phases, **options: object) -> tuple:
    with phase("predict"):
        p = pvalues(data["scores"], data["new"], **options)
    return p[:5], {"pairs": data["new"].size}


def predictor_p_values(data: Arrays, phase: Phases) -> tuple:
    cp = SplitClassifier(stored(), random_state=0)
    with phase("calibrate"):
        cp.fit(data["p"], data["y"])
    with phase("predict"):
        p = cp.p_values(data["pq"])
    return p[:5], {"pairs": p.size}


CONTENDERS = {
    "jackknife+": lambda d, ph: plus(d, ph, JackknifePlusRegressor),
    "minmax": lambda d, ph: plus(d, ph, JackknifePlusRegressor, method="minmax"),
    "CV+": lambda d, ph: plus(d, ph, CvPlusRegressor, folds=FOLDS, random_state=0),
    "network, one step": lambda d, ph: network_plus(d, ph, refit=False),
    "network, refits": lambda d, ph: network_plus(d, ph, refit=True),
    "full, ordinary": lambda d, ph: full(d, ph, "ordinary"),
    "full, deleted": lambda d, ph: full(d, ph, "deleted"),
    "full, ordinary, refits": lambda d, ph: full(d, ph, "ordinary", refit=True),
    "full, deleted, refits": lambda d, ph: full(d, ph, "deleted", refit=True, few=2),
    "lac": lambda d, ph: split(d, ph, Lac()),
    "aps": lambda d, ph: split(d, ph, Aps()),
    "raps": lambda d, ph: split(d, ph, Raps(penalty=0.01, k_reg=2)),
    "raps (auto)": lambda d, ph: split(d, ph, Raps("auto", "auto")),
    "lac, resplits": lambda d, ph: resplits(d, ph, Lac()),
    "aps, resplits": lambda d, ph: resplits(d, ph, Aps()),
    "raps, resplits": lambda d, ph: resplits(d, ph, Raps(penalty=0.01, k_reg=2)),
    "raps (auto), resplits": lambda d, ph: resplits(d, ph, Raps("auto", "auto")),
    "weighted": weighted,
    **{
        f"{kind} {test}": lambda d, ph, f=f, test=test: f(d, ph, test)
        for kind, f in (("bound", bound), ("chosen", chosen))
        for test in ("wsr", "hoeffding-bentkus", "empirical-bernstein", "clopper-pearson")
    },
    "ranks": ranks,
    "p-values": p_values,
    "p-values, smoothed": lambda d, ph: p_values(d, ph, random_state=0),
    "SplitClassifier.p_values": predictor_p_values,
}  # fmt: skip

if __name__ == "__main__":
    torch.manual_seed(0)
    main(CONTENDERS)
