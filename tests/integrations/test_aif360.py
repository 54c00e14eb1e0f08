"""AIF360 behind our face: its numbers, our arrays, labels, groups and random numbers."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression

from trustml.core.random import seeded
from trustml.fairness import Reweighing, demographic_parity_difference
from trustml.integrations.aif360 import (
    Aif360Classifier,
    Aif360Transformer,
    from_dataset,
    metric,
    to_dataset,
)
from trustml.model import wrap

pytestmark = pytest.mark.peers
pytest.importorskip("aif360")
from aif360.algorithms import Transformer  # noqa: E402
from aif360.algorithms.inprocessing import ExponentiatedGradientReduction  # noqa: E402
from aif360.algorithms.postprocessing import (  # noqa: E402
    EqOddsPostprocessing,
    RejectOptionClassification,
)
from aif360.algorithms.preprocessing import LFR  # noqa: E402
from aif360.metrics import ClassificationMetric  # noqa: E402

RNG = np.random.default_rng(0)
N = 300
S = RNG.choice(["f", "m"], N)
X = np.column_stack([RNG.normal(size=N) + (S == "m"), RNG.normal(size=(N, 2))])
Y = (X[:, 0] + 0.5 * X[:, 1] + RNG.logistic(size=N) > 0.8).astype(int)
WORDS = np.where(Y == 1, "paid", "late")
FIT, NEW = slice(0, 200), slice(200, N)
BASE = LogisticRegression().fit(X[FIT], Y[FIT])
WORDY = LogisticRegression().fit(X[FIT], WORDS[FIT])
SIDES = {
    "unprivileged_groups": [{"sensitive_group": 0.0}],
    "privileged_groups": [{"sensitive_group": 1.0}],
}


def dataset(rows, labels=Y, score=None):
    return to_dataset(
        X[rows], labels[rows], sensitive_features=S[rows], privileged="m", y_score=score
    )


def test_arrays_there_and_back():
    weights, scores = RNG.random(N), RNG.random(N)
    data = to_dataset(
        torch.tensor(X), WORDS, sensitive_features=S, privileged="m", pos_label="paid",
        y_score=scores, sample_weight=weights,
    )  # fmt: skip
    assert data.feature_names == ["x0", "x1", "x2", "sensitive_group"]
    found = from_dataset(data)
    np.testing.assert_array_equal(found["X"], X)
    np.testing.assert_array_equal(found["y"], Y)
    np.testing.assert_array_equal(found["y_score"], scores)
    np.testing.assert_array_equal(found["sample_weight"], weights)
    np.testing.assert_array_equal(found["sensitive_features"]["sensitive_group"], S == "m")
    first = to_dataset(X, Y, sensitive_features=S)
    np.testing.assert_array_equal(first.protected_attributes.ravel(), S == "f")


@pytest.mark.parametrize(
    "name",
    ["statistical_parity_difference", "disparate_impact", "average_abs_odds_difference",
     "theil_index", "equal_opportunity_difference", "between_group_theil_index"],
)  # fmt: skip
def test_their_metrics_by_name(name):
    pred = BASE.predict(X)
    words = np.where(pred == 1, "paid", "late")
    rows = slice(None)
    expected = getattr(ClassificationMetric(dataset(rows), dataset(rows, pred), **SIDES), name)()
    found = metric(name, WORDS, words, sensitive_features=S, privileged="m", pos_label="paid")
    assert found == pytest.approx(expected, abs=1e-12)
    if name == "statistical_parity_difference":
        ours = demographic_parity_difference(Y, pred, sensitive_features=S)
        assert -found == pytest.approx(ours)


def test_metrics_with_arguments_scores_and_rows():
    pred, score = BASE.predict(X), BASE.predict_proba(X)[:, 1]
    who = {"sensitive_features": S, "privileged": "m"}
    rate = metric("generalized_true_positive_rate", Y, pred, **who, y_score=score)
    assert rate == pytest.approx(score[Y == 1].mean())
    entropy = metric("generalized_entropy_index", Y, pred, **who, alpha=1)
    assert entropy == pytest.approx(metric("theil_index", Y, pred, **who))
    assert 0 <= float(np.squeeze(metric("consistency", Y, pred, **who, X=X, n_neighbors=3))) <= 1
    with pytest.raises(ValueError, match=r"no metric 'fairness'.*theil_index"):
        metric("fairness", Y, pred, **who)
    with pytest.raises(ValueError, match="pos_label"):
        metric("theil_index", WORDS, WORDS, **who)


def test_reweighing_is_theirs_and_ours():
    transformer = Aif360Transformer("Reweighing", privileged="m", pos_label="paid")
    with pytest.raises(NotFittedError):
        transformer.transform(X, sensitive_features=S)
    transformer.fit(X, WORDS, sensitive_features=S)
    ours = Reweighing().fit(X, Y, sensitive_features=S)
    np.testing.assert_allclose(transformer.sample_weight_, ours.sample_weight_)
    changed = transformer.transform(torch.tensor(X[NEW]), sensitive_features=S[NEW])
    np.testing.assert_allclose(changed.numpy(), X[NEW])
    np.testing.assert_array_equal(transformer.y_, Y)
    assert clone(transformer).get_params().keys() == transformer.get_params().keys()


def test_learned_representations():
    few = slice(0, 60)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    ours = Aif360Transformer(LFR, {"k": 2}, privileged="m", random_state=0)
    ours.fit(X[few], Y[few], sensitive_features=S[few])
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    found = ours.transform(X[NEW], sensitive_features=S[NEW])
    with seeded(0):  # theirs seed the global generators
        by_them = LFR(**SIDES, k=2, seed=ours.seed_).fit(dataset(few)).transform(dataset(NEW))
    np.testing.assert_allclose(found, by_them.features[:, :3], atol=1e-8)


class Doubled(Transformer):
    """Of their protocol: has only fit_transform, as their repairer has."""

    def __init__(self, sensitive_attribute=""):
        super().__init__(sensitive_attribute=sensitive_attribute)
        self.sensitive_attribute = sensitive_attribute

    def fit_transform(self, dataset):
        changed = dataset.copy()
        assert self.sensitive_attribute == "sensitive_group"
        changed.features = 2 * dataset.features
        return changed


def test_transformers_that_cannot_be_fitted_apart():
    made = Aif360Transformer(Doubled).fit(X[FIT], Y[FIT], sensitive_features=S[FIT])
    np.testing.assert_array_equal(made.transform(X[NEW], sensitive_features=S[NEW]), 2 * X[NEW])
    with pytest.raises(ValueError, match="did not occur in fit"):
        made.transform(X[:1], sensitive_features=["x"])


@pytest.mark.parametrize("inside", ["estimator", "model"])
@pytest.mark.parametrize("kind", [EqOddsPostprocessing, RejectOptionClassification])
def test_their_post_processing(kind, inside):
    options = {} if kind is EqOddsPostprocessing else {"num_class_thresh": 10, "num_ROC_margin": 5}
    base = LogisticRegression() if inside == "estimator" else wrap(WORDY)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    fair = Aif360Classifier(
        kind.__name__ if inside == "model" else kind, base, options, "m", "paid", random_state=3
    ).fit(X[FIT], WORDS[FIT], sensitive_features=S[FIT])
    found = fair.predict(X[NEW], sensitive_features=S[NEW])
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    seed = {} if kind is RejectOptionClassification else {"seed": fair._draw}
    theirs = kind(**SIDES, **options, **seed)
    score = BASE.predict_proba(X)[:, 1]
    decided = (score > 0.5).astype(int)
    with seeded(0):  # theirs seed the global generators
        theirs.fit(dataset(FIT), dataset(FIT, decided, score[FIT]))
        expected = theirs.predict(dataset(NEW, decided, score[NEW])).labels.ravel()
    np.testing.assert_array_equal(found == "paid", expected == 1)
    np.testing.assert_array_equal(fair.predict(X[NEW], sensitive_features=S[NEW]), found)
    score = fair.score(X[NEW], WORDS[NEW], sensitive_features=S[NEW])
    assert score == (found == WORDS[NEW]).mean()
    assert set(fair.classes_) == {"late", "paid"}
    with pytest.raises(ValueError, match="pass sensitive_features"):
        fair.predict(X[NEW])


@pytest.mark.filterwarnings("ignore:A column-vector y was passed")  # by AIF360 to scikit-learn
def test_their_in_processing():
    options = {
        "estimator": LogisticRegression(), "constraints": "DemographicParity", "max_iter": 2,
    }  # fmt: skip
    fair = Aif360Classifier("ExponentiatedGradientReduction", options=options, privileged="m")
    fair.set_params(random_state=0).fit(X, Y, sensitive_features=S)
    found = fair.predict(X, sensitive_features=S)
    theirs = ExponentiatedGradientReduction(**options)
    with seeded(fair._draw):
        theirs.fit(dataset(slice(None)))
    with seeded(fair._draw):
        expected = theirs.predict(dataset(slice(None))).labels.ravel()
    np.testing.assert_array_equal(found, expected)
    assert set(found) == {0, 1}


class Elsewhere(Transformer):
    """Trains and predicts in another process, as their PrejudiceRemover does."""

    def __init__(self):
        super().__init__()

    def fit(self, dataset):
        asked = ["python", "-c", "import sys; print(sys.prefix)"]
        self.prefix = subprocess.check_output(asked, text=True).strip()
        return self

    def predict(self, dataset):
        self.fit(dataset)
        changed = dataset.copy()
        changed.labels = 1.0 * (dataset.features[:, :1] > 0)
        return changed


def test_an_algorithm_that_starts_another_python_starts_this_one(monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin")
    fair = Aif360Classifier(Elsewhere, privileged="m").fit(X, Y, sensitive_features=S)
    assert fair.algorithm_.prefix == sys.prefix
    assert os.environ["PATH"] == "/usr/bin"


def test_scores_where_they_are_needed_and_only_there():
    with pytest.raises(ValueError, match=r"EqOddsPostprocessing corrects.*pass estimator="):
        Aif360Classifier("EqOddsPostprocessing").fit(X, Y, sensitive_features=S)
    with pytest.raises(ValueError, match="PrejudiceRemover is trained on labels"):
        Aif360Classifier("PrejudiceRemover", LogisticRegression()).fit(X, Y, sensitive_features=S)


def test_of_three_groups_one_is_named():
    three = np.where(X[:, 1] > 1, "x", S)
    for call in (
        lambda: to_dataset(X, Y, sensitive_features=three),
        lambda: metric("disparate_impact", Y, Y, sensitive_features=three),
        lambda: Aif360Transformer("Reweighing").fit(X, Y, sensitive_features=three),
        lambda: Aif360Classifier("EqOddsPostprocessing", LogisticRegression()).fit(
            X, Y, sensitive_features=three
        ),
    ):
        with pytest.raises(ValueError, match=r"pass privileged=.*'f', 'm', 'x'"):
            call()
    data = to_dataset(X, Y, sensitive_features=three, privileged="m")
    np.testing.assert_array_equal(data.protected_attributes.ravel(), three == "m")


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        (np.array([["a"], ["b"]] * 150, dtype=object), Y, "columns of numbers"),
        (np.where(X > 0, X, np.nan), Y, "NaN"),
        (X, RNG.integers(0, 3, N), "pos_label"),
    ],
)
def test_what_they_cannot_read(rows, labels, message):
    with pytest.raises(ValueError, match=message):
        to_dataset(rows, labels, sensitive_features=S)


def test_names_that_they_do_not_have():
    with pytest.raises(ValueError, match=r"no algorithm 'Fair'.*Reweighing"):
        Aif360Transformer("Fair").fit(X, Y, sensitive_features=S)
    pd = pytest.importorskip("pandas")
    with pytest.raises(ValueError, match="rename the columns"):
        to_dataset(pd.DataFrame({"label": X[:, 0]}), Y, sensitive_features=S)
