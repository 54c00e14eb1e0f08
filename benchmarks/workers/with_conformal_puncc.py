"""puncc 0.9.3."""

import numpy as np
import torch
from _phases import Phases, main
from deel.puncc.api import nonconformity_scores, prediction_sets
from deel.puncc.api.calibration import BaseCalibrator
from deel.puncc.api.conformalization import SplitConformalPredictor
from deel.puncc.api.prediction import BasePredictor
from deel.puncc.classification import APS, LAC, RAPS
from deel.puncc.regression import CVPlus
from sklearn.linear_model import Ridge

from _conformal_tasks import ALPHA, FOLDS, Arrays, StoredProbabilities, hits


class Probabilities(BasePredictor):
    """puncc's predictors call `predict`, and want probabilities of it."""

    def predict(self, X: np.ndarray, **options: object) -> np.ndarray:
        return X[:, : self.model.classes]


def stored(classes: int) -> Probabilities:
    return Probabilities(StoredProbabilities(classes), is_trained=True)


def plus(data: Arrays, phase: Phases, folds: int) -> tuple:
    with phase("fit"):
        cp = CVPlus(BasePredictor(Ridge(alpha=1.0)), K=folds, random_state=0)
        cp.fit(data["X"], data["y"])
    with phase("predict"):
        _, low, high = cp.predict(data["Xq"], alpha=ALPHA)
    return np.stack([low, high], axis=1), {}


def indicator(lists: list, classes: int) -> np.ndarray:
    sets = np.zeros((len(lists), classes), dtype=bool)
    for row, labels in enumerate(lists):
        sets[row, np.asarray(labels, dtype=int)] = True
    return sets


KINDS = {
    "lac": lambda predictor: LAC(predictor, train=False),
    "aps": lambda predictor: APS(predictor, train=False, rand=True),
    "raps": lambda predictor: RAPS(predictor, train=False, lambd=0.01, k_reg=2, rand=True),
}


def split(data: Arrays, phase: Phases, kind: str) -> tuple:
    classes = data["p"].shape[1]
    cp = KINDS[kind](stored(classes))
    with phase("calibrate"):
        cp.fit(X_calib=data["p"], y_calib=data["y"])
    with phase("predict"):
        _, lists = cp.predict(data["pq"], alpha=ALPHA)
    return hits(indicator(lists, classes), data["yq"]), {}


def resplits(data: Arrays, phase: Phases, kind: str) -> tuple:
    found, n, classes = [], data["n"], data["p"].shape[1]
    for rows in data["rows"]:
        cal, new = rows[:n], rows[n:]
        cp = KINDS[kind](stored(classes))
        with phase("all"):
            cp.fit(X_calib=data["p"][cal], y_calib=data["y"][cal])
            _, lists = cp.predict(data["p"][new], alpha=ALPHA)
        found.append(hits(indicator(lists, classes), data["y"][new]))
    return found, {}


def weighted(data: Arrays, phase: Phases) -> tuple:
    classes = data["p"].shape[1]
    cp = SplitConformalPredictor(
        stored(classes), nonconf_score_func=nonconformity_scores.lac_score,
        pred_set_func=prediction_sets.lac_set, weight_func=lambda X: X[:, classes], train=False,
    )  # fmt: skip
    rows = [np.column_stack([data["p" + s], data["w" + s]]) for s in ("", "q")]
    with phase("calibrate"):
        cp.fit(X_calib=rows[0], y_calib=data["y"])
    with phase("predict"):
        _, lists = cp.predict(rows[1], alpha=ALPHA)
    return hits(indicator(lists, classes), data["yq"]), {}


def ranks(data: Arrays, phase: Phases) -> tuple:
    found = np.full((len(data["sizes"]), len(data["hundredths"])), np.nan)
    for i, n in enumerate(data["sizes"]):
        calibrator = BaseCalibrator(
            nonconf_score_func=nonconformity_scores.absolute_difference,
            pred_set_func=prediction_sets.constant_interval,
        )
        try:
            calibrator.fit(y_true=np.arange(1.0, n + 1), y_pred=np.zeros(n))
        except TypeError:  # one calibration row is squeezed to a number: no rank
            continue
        for j, hundredth in enumerate(data["hundredths"].tolist()):
            try:
                found[i, j] = calibrator.compute_quantile(alpha=hundredth / 100)
            except ValueError:
                found[i, j] = np.inf
    return found, {}


CONTENDERS = {
    "jackknife+": lambda d, ph: plus(d, ph, len(d["y"])),
    "CV+": lambda d, ph: plus(d, ph, FOLDS),
    **{kind: lambda d, ph, kind=kind: split(d, ph, kind) for kind in KINDS},
    **{f"{kind}, resplits": lambda d, ph, kind=kind: resplits(d, ph, kind) for kind in KINDS},
    "weighted": weighted,
    "ranks": ranks,
}

if __name__ == "__main__":
    torch.manual_seed(0)
    main(CONTENDERS)
