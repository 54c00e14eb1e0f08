"""What the base of fair classifiers checks, encodes and warns about."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from trustml.fairness._mitigator import FairClassifier
from trustml.warnings import TrustmlWarning

pytestmark = pytest.mark.filterwarnings("ignore:groups with fewer than")


class Given(FairClassifier):
    """Decides with given probabilities."""

    def __init__(self, probability, unmitigated=None, pos_label=None, seed=None):
        self.probability = probability
        self.unmitigated = unmitigated
        self.pos_label = pos_label
        self.seed = seed

    def _fit(self, X, y, groups, sample_weight):
        self.seen_ = y, groups, sample_weight
        self.seed_ = self.seed
        return self._probability(X), self.unmitigated

    def _probability(self, X):
        return np.resize(self.probability, len(X))


X = np.arange(8.0)[:, None]
Y = np.array(["no", "yes"] * 4)
S = ["a"] * 4 + ["b"] * 4


def test_the_second_label_is_favourable_unless_another_is_named():
    given = Given([0.9, 0.2]).fit(X, Y, sensitive_features=S)
    np.testing.assert_array_equal(given.seen_[0], Y == "yes")
    np.testing.assert_array_equal(given.predict(X[:2]), ["yes", "no"])
    np.testing.assert_allclose(given.predict_proba(X[:2]), [[0.1, 0.9], [0.8, 0.2]])
    given = Given([0.9, 0.2], pos_label="no").fit(X, Y, sensitive_features=S)
    np.testing.assert_array_equal(given.seen_[0], Y == "no")
    np.testing.assert_array_equal(given.predict(X[:2]), ["no", "yes"])
    np.testing.assert_allclose(given.predict_proba(X[:2]), [[0.9, 0.1], [0.2, 0.8]])
    with pytest.raises(ValueError, match="'maybe' is not among the labels"):
        Given([0.9, 0.2], pos_label="maybe").fit(X, Y, sensitive_features=S)


def test_drawn_decisions_belong_to_the_row_and_have_the_stated_probability():
    rows = np.random.default_rng(0).normal(size=(20_000, 2))
    given = Given([0.3, 0.9], seed=1).fit(np.c_[X, X], Y, sensitive_features=S)
    given.probability = 0.3
    drawn = given.predict(rows) == "yes"
    # Hoeffding: 0.016 is exceeded with probability below 1e-4.
    assert abs(drawn.mean() - 0.3) < 0.016
    np.testing.assert_array_equal(given.predict(rows[::-1])[::-1] == "yes", drawn)


def test_rows_of_no_weight_are_left_out():
    weight = np.array([0, 1, 2, 1, 1, 1, 0, 1])
    given = Given([0.9, 0.2]).fit(X, Y, sensitive_features=S, sample_weight=weight)
    y, groups, weights = given.seen_
    np.testing.assert_array_equal(y, (Y == "yes")[weight > 0])
    np.testing.assert_array_equal(groups.counts, [3, 3])
    np.testing.assert_array_equal(weights, [1, 2, 1, 1, 1, 1])
    with pytest.raises(ValueError, match="one group only"):
        Given([0.9]).fit(X, Y, sensitive_features=S, sample_weight=[1, 1, 1, 1, 0, 0, 0, 0])


def test_useless_outcomes_are_warned_about():
    with pytest.warns(TrustmlWarning, match="decides alike about every training row"):
        Given([0.4]).fit(X, Y, sensitive_features=S)
    with pytest.warns(TrustmlWarning, match="as the unmitigated model"):
        Given([1.0, 0.0], unmitigated=np.array([1, 0] * 4)).fit(X, Y, sensitive_features=S)


def test_what_is_asked_is_checked():
    with pytest.raises(NotFittedError):
        Given([0.5]).predict(X)
    with pytest.raises(ValueError, match="3 classes"):
        Given([0.5]).fit(X, [0, 1, 2, 0, 1, 2, 0, 1], sensitive_features=S)
    with pytest.raises(ValueError, match="one class"):
        Given([0.5]).fit(X, [0] * 8, sensitive_features=S)
    with pytest.raises(ValueError, match="expecting 1 features"):
        Given([0.9, 0.1]).fit(X, Y, sensitive_features=S).predict(np.ones((3, 2)))
    with pytest.raises(ValueError, match="negative"):
        Given([0.5]).fit(X, Y, sensitive_features=S, sample_weight=-np.ones(8))


@pytest.mark.parametrize("distinct", [True, False])
def test_shared_draws_are_said_of_every_classifier_that_draws(distinct):
    rng = np.random.default_rng(0)
    s, y = rng.integers(0, 2, (2, 2000))
    rows = rng.normal(size=(2000, 1)) if distinct else s[:, None]
    fair = Given(np.where(rng.random(2000) < 0.5, 0.5, 0.501), seed=2)
    fair.constraints = "demographic_parity"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fair.fit(rows, y, sensitive_features=s)
    drawn = fair.predict(rows)
    gap = abs(drawn[s == 0].mean() - drawn[s == 1].mean())
    told = [w for w in caught if "share one draw" in str(w.message)]
    assert [w.filename for w in told] == ([] if distinct else [__file__])
    assert (gap > 0.9) == (not distinct)
