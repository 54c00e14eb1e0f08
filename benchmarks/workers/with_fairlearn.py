"""fairlearn 0.15.0."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from fairlearn.adversarial import AdversarialFairnessClassifier
from fairlearn.postprocessing import ThresholdOptimizer
from fairlearn.preprocessing import CorrelationRemover
from fairlearn.reductions import DemographicParity, EqualizedOdds, ExponentiatedGradient, GridSearch

from _fairness_tasks import Data, base, main


def threshold(data: Data, constraints: str) -> np.ndarray:
    fair = ThresholdOptimizer(
        estimator=base(), constraints=constraints, predict_method="predict_proba"
    ).fit(data.X, data.y, sensitive_features=data.a)
    return fair._pmf_predict(data.Xq, sensitive_features=data.aq)[:, 1]


def gradient(data: Data, constraints: object) -> np.ndarray:
    fair = ExponentiatedGradient(base(), constraints).fit(data.X, data.y, sensitive_features=data.a)
    return np.asarray(fair._pmf_predict(data.Xq))[:, 1]


def grid(data: Data, constraints: object) -> np.ndarray:
    fair = GridSearch(base(), constraints).fit(data.X, data.y, sensitive_features=data.a)
    return fair.predict(data.Xq)


def correlation(data: Data) -> np.ndarray:
    remover = CorrelationRemover(sensitive_feature_ids=[data.X.shape[1]])
    X = remover.fit_transform(np.column_stack([data.X, data.a]))
    return base().fit(X, data.y).predict(remover.transform(np.column_stack([data.Xq, data.aq])))


def adversarial(data: Data, constraints: str) -> np.ndarray:
    steps, batch = 2000, 128
    fair = AdversarialFairnessClassifier(
        backend="torch", predictor_model=[32, "relu"], adversary_model=[3],
        constraints=constraints, batch_size=batch, epochs=max(1, steps * batch // len(data.y)),
        random_state=0,
    )  # fmt: skip
    return np.ravel(fair.fit(data.X, data.y, sensitive_features=data.a).predict(data.Xq))


CONTENDERS = {
    "threshold, DP": lambda data: threshold(data, "demographic_parity"),
    "threshold, EO": lambda data: threshold(data, "equalized_odds"),
    "exponentiated gradient, DP": lambda data: gradient(data, DemographicParity()),
    "exponentiated gradient, EO": lambda data: gradient(data, EqualizedOdds()),
    "grid search, DP": lambda data: grid(data, DemographicParity()),
    "correlation remover": correlation,
    "adversarial, DP": lambda data: adversarial(data, "demographic_parity"),
    "adversarial, EO": lambda data: adversarial(data, "equalized_odds"),
}

if __name__ == "__main__":
    main(CONTENDERS)
