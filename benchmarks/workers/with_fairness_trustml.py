"""Our mitigators, on the splits of the contest."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from _fairness_tasks import Data, base, main
from trustml import fairness


def unmitigated(data: Data) -> np.ndarray:
    return base().fit(data.X, data.y).predict(data.Xq)


def threshold(data: Data, constraints: str) -> np.ndarray:
    fair = fairness.ThresholdOptimizer(base(), constraints=constraints)
    fair.fit(data.X, data.y, sensitive_features=data.a)
    return fair.predict_proba(data.Xq, sensitive_features=data.aq)[:, 1]


def reduction(data: Data, kind: type, constraints: str) -> np.ndarray:
    fair = kind(base(), constraints).fit(data.X, data.y, sensitive_features=data.a)
    return fair.predict_proba(data.Xq)[:, 1]


def decided(data: Data, kind: type, constraints: str) -> np.ndarray:
    fair = kind(base(), constraints).fit(data.X, data.y, sensitive_features=data.a)
    return fair.predict(data.Xq)


def reweighing(data: Data) -> np.ndarray:
    weights = fairness.Reweighing().fit(None, data.y, sensitive_features=data.a).sample_weight_
    return base().fit(data.X, data.y, sample_weight=weights).predict(data.Xq)


def columns(data: Data, kind: type) -> np.ndarray:
    change = kind().fit(data.X, sensitive_features=data.a)
    model = base().fit(change.transform(data.X, sensitive_features=data.a), data.y)
    return model.predict(change.transform(data.Xq, sensitive_features=data.aq))


def post(data: Data, kind: str) -> np.ndarray:
    fair = getattr(fairness, kind)(base()).fit(data.X, data.y, sensitive_features=data.a)
    return fair.predict(data.Xq, sensitive_features=data.aq)


def network(data: Data, kind: str, *options: str) -> np.ndarray:
    fair = getattr(fairness, kind)(None, *options, random_state=0)
    return fair.fit(data.X, data.y, sensitive_features=data.a).predict(data.Xq)


CONTENDERS = {
    "unmitigated": unmitigated,
    "reweighing": reweighing,
    "threshold, DP": lambda data: threshold(data, "demographic_parity"),
    "threshold, EO": lambda data: threshold(data, "equalized_odds"),
    "exponentiated gradient, DP": lambda data: reduction(
        data, fairness.ExponentiatedGradient, "demographic_parity"
    ),
    "exponentiated gradient, EO": lambda data: reduction(
        data, fairness.ExponentiatedGradient, "equalized_odds"
    ),
    "grid search, DP": lambda data: decided(data, fairness.GridSearch, "demographic_parity"),
    "correlation remover": lambda data: columns(data, fairness.CorrelationRemover),
    "reject option": lambda data: post(data, "RejectOptionClassifier"),
    "calibrated equalized odds": lambda data: post(data, "CalibratedEqualizedOdds"),
    "adversarial, DP": lambda data: network(data, "AdversarialDebiasing", "demographic_parity"),
    "adversarial, EO": lambda data: network(data, "AdversarialDebiasing", "equalized_odds"),
    "covariance penalty": lambda data: network(data, "RegularisedClassifier"),
    "group DRO": lambda data: network(data, "GroupDRO"),
    "disparate-impact remover": lambda data: columns(data, fairness.DisparateImpactRemover),
}

if __name__ == "__main__":
    main(CONTENDERS)
