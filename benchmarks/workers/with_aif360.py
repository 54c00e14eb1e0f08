"""AIF360 0.6.1."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pandas as pd
from aif360.algorithms.inprocessing import MetaFairClassifier
from aif360.algorithms.postprocessing import (
    CalibratedEqOddsPostprocessing,
    EqOddsPostprocessing,
    RejectOptionClassification,
)
from aif360.algorithms.preprocessing import LFR, Reweighing
from aif360.datasets import BinaryLabelDataset

from _fairness_tasks import Data, base, main

SIDES = {"unprivileged_groups": [{"group": 0.0}], "privileged_groups": [{"group": 1.0}]}


def dataset(
    X: np.ndarray, labels: np.ndarray, a: np.ndarray, score: np.ndarray | None = None
) -> BinaryLabelDataset:
    frame = pd.DataFrame(X, columns=[f"x{j}" for j in range(X.shape[1])])
    frame = frame.assign(group=a.astype(float), label=labels.astype(float))
    more = {} if score is None else {"scores_names": ["score"]}
    if score is not None:
        frame["score"] = score
    return BinaryLabelDataset(
        df=frame, label_names=["label"], protected_attribute_names=["group"], **more
    )


def post(data: Data, kind: type, **options: object) -> np.ndarray:
    model = base().fit(data.X, data.y)
    known, new = (model.predict_proba(X)[:, 1] for X in (data.X, data.Xq))
    algorithm = kind(**SIDES, **options)
    algorithm.fit(dataset(data.X, data.y, data.a), dataset(data.X, known > 0.5, data.a, known))
    return algorithm.predict(dataset(data.Xq, new > 0.5, data.aq, new)).labels.ravel()


def reweighing(data: Data) -> np.ndarray:
    weighed = Reweighing(**SIDES).fit_transform(dataset(data.X, data.y, data.a))
    model = base().fit(data.X, data.y, sample_weight=weighed.instance_weights)
    return model.predict(data.Xq)


def representations(data: Data) -> np.ndarray:
    lfr = LFR(**SIDES, seed=0).fit(dataset(data.X, data.y, data.a), maxiter=200, maxfun=200)
    new = dataset(data.Xq, np.arange(len(data.yq)) % 2, data.aq)
    return lfr.transform(new).labels.ravel()


def meta(data: Data) -> np.ndarray:
    fair = MetaFairClassifier(sensitive_attr="group", type="sr", seed=0)
    fair.fit(dataset(data.X, data.y, data.a))
    return fair.predict(dataset(data.Xq, np.arange(len(data.yq)) % 2, data.aq)).labels.ravel()


CONTENDERS = {
    "reweighing": reweighing,
    "equalized odds": lambda data: post(data, EqOddsPostprocessing, seed=0),
    "calibrated equalized odds": lambda data: post(data, CalibratedEqOddsPostprocessing, seed=0),
    "reject option": lambda data: post(data, RejectOptionClassification),
    "representations": representations,
    "meta-fair": meta,
}

if __name__ == "__main__":
    main(CONTENDERS)
