"""Effects of changed labels and features on a gap, against training anew with the change."""

import numpy as np
import pytest
from scipy import stats
from sklearn.base import clone
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LogisticRegression, Ridge

from trustml.fairness import FairInfluence
from trustml.influence import InfluenceFunctions
from trustml.model import wrap

N = 250
DATA, TARGET = load_diabetes(return_X_y=True)
ORDER = np.random.default_rng(0).permutation(len(TARGET))
SEX = (DATA[ORDER, 1] > 0).astype(int)
X, Y = (DATA / DATA.std(0))[ORDER], TARGET[ORDER]
LABEL = (np.median(Y) < Y).astype(int)
ROWS = np.random.default_rng(1).choice(N, 50, replace=False)


@pytest.fixture(scope="module")
def logistic():
    estimator = LogisticRegression(solver="newton-cholesky", tol=1e-10).fit(X[:N], LABEL[:N])
    return wrap(estimator, train=(X[:N], LABEL[:N]))


def refitted_gaps(estimator, features, labels, gap):
    """The gap of a model trained with one row changed, for each of some rows."""
    found = []
    for i in ROWS:
        inputs, targets = X[:N].copy(), labels[0].copy()
        inputs[i], targets[i] = features[i], labels[1][i]
        found.append(gap(clone(estimator).fit(inputs, targets)))
    return np.array(found)


def moved(column, to):
    changed = X[:N].copy()
    changed[:, column] = to(changed[:, column])
    return changed


VALUES = np.unique(X[:, 1])
CHANGES = {
    "label": (X[:N], 1 - LABEL[:N]),
    "sensitive column": (moved(1, lambda v: VALUES.sum() - v), LABEL[:N]),
    "feature": (moved(2, lambda v: v + 1.0), LABEL[:N]),
    "both": (moved(8, lambda v: -v), 1 - LABEL[:N]),
}


@pytest.mark.parametrize("criterion", ["demographic_parity", "equal_opportunity"])
@pytest.mark.parametrize("case", CHANGES)
def test_effects_of_changes_are_those_of_refits(logistic, case, criterion):
    features, labels = CHANGES[case]
    fair = FairInfluence(logistic, criterion).fit(X[N:], LABEL[N:], sensitive_features=SEX[N:])
    of = LABEL[N:] == 1 if criterion == "equal_opportunity" else np.ones(len(X) - N, bool)

    def gap(estimator):
        p = estimator.predict_proba(X[N:])[:, 1]
        return abs(p[of & (SEX[N:] == 1)].mean() - p[of & (SEX[N:] == 0)].mean())

    truth = refitted_gaps(logistic.estimator, features, (LABEL[:N], labels), gap) - fair.gap_
    predicted = fair.change_effects(
        None if case == "label" else features,
        None if case in ("feature", "sensitive column") else labels,
    )
    assert predicted.shape == (N,)
    assert stats.spearmanr(predicted[ROWS], truth)[0] > 0.95
    assert 0.8 < np.polyfit(predicted[ROWS], truth, 1)[0] < 1.2
    clear = np.abs(truth) > np.median(np.abs(truth))
    assert (np.sign(predicted[ROWS]) == np.sign(truth))[clear].mean() > 0.95


def test_other_targets_of_ridge_are_exact():
    model = wrap(Ridge(alpha=0.5).fit(X[:N], Y[:N]), train=(X[:N], Y[:N]))
    influence = InfluenceFunctions(model, damping=0.0)
    fair = FairInfluence(model, influence=influence).fit(X[N:], Y[N:], sensitive_features=SEX[N:])
    other = Y[:N] + np.random.default_rng(2).normal(size=N) * 50

    def gap(estimator):
        p = estimator.predict(X[N:])
        return abs(p[SEX[N:] == 1].mean() - p[SEX[N:] == 0].mean())

    truth = refitted_gaps(model.estimator, X[:N], (Y[:N], other), gap) - gap(model.estimator)
    np.testing.assert_allclose(fair.change_effects(y=other)[ROWS], truth, atol=1e-9)


def test_no_change_has_no_effect_and_bad_rows_name_the_fix(logistic):
    fair = FairInfluence(logistic).fit(X[N:], LABEL[N:], sensitive_features=SEX[N:])
    np.testing.assert_array_equal(fair.change_effects(X[:N], LABEL[:N]), 0)
    once = LABEL[:N].copy()
    once[7] = 1 - once[7]
    effects = fair.change_effects(y=once)
    assert np.flatnonzero(effects).tolist() == [7]
    assert effects[7] == pytest.approx(fair.change_effects(y=1 - LABEL[:N])[7])
    with pytest.raises(ValueError, match="pass X, y or both"):
        fair.change_effects()
    with pytest.raises(ValueError, match=r"one row for each|length"):
        fair.change_effects(X[:5], LABEL[:5])
    with pytest.raises(ValueError, match=r"length|rows"):
        fair.change_effects(y=LABEL[:5])
