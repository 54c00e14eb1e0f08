"""fairlearn behind our face: its numbers, our labels, groups, models and random numbers."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression

from trustml.integrations import fairlearn as adapter
from trustml.integrations.fairlearn import (
    FairlearnClassifier,
    FairlearnTransformer,
    metric,
    moment,
)
from trustml.model import wrap

pytestmark = pytest.mark.peers
pytest.importorskip("fairlearn")
from fairlearn import metrics as theirs  # noqa: E402
from fairlearn.adversarial import AdversarialFairnessClassifier  # noqa: E402
from fairlearn.postprocessing import ThresholdOptimizer  # noqa: E402
from fairlearn.preprocessing import (  # noqa: E402
    CorrelationRemover,
    PrototypeRepresentationLearner,
)
from fairlearn.reductions import (  # noqa: E402
    BoundedGroupLoss,
    ExponentiatedGradient,
    GridSearch,
)

RNG = np.random.default_rng(0)
N = 360
S = RNG.choice(["f", "m"], N)
X = np.column_stack([RNG.normal(size=N) + (S == "m"), RNG.normal(size=(N, 2))])
Y = (X[:, 0] + 0.5 * X[:, 1] + RNG.logistic(size=N) > 0.8).astype(int)
WORDS = np.where(Y == 1, "paid", "late")
CODES = (S == "m").astype(int)
FIT, NEW = slice(0, 240), slice(240, N)
BASE = LogisticRegression().fit(X[FIT], Y[FIT])
WORDY = LogisticRegression().fit(X[FIT], WORDS[FIT])


def threshold(estimator=BASE, constraints="equalized_odds"):
    return ThresholdOptimizer(
        estimator=estimator, constraints=constraints, prefit=True, predict_method="predict_proba"
    )


MITIGATORS = {
    "threshold": threshold(),
    "gradient": ExponentiatedGradient(
        LogisticRegression(), moment("demographic_parity"), max_iter=2
    ),
    "grid": GridSearch(LogisticRegression(), moment("equal_opportunity"), grid_size=3),
}


def by_hand(name):
    """fairlearn's own probability of a decision for 1."""
    made = threshold() if name == "threshold" else clone(MITIGATORS[name])
    made.fit(X[FIT], Y[FIT], sensitive_features=CODES[FIT])
    if name == "threshold":
        return made._pmf_predict(X[NEW], sensitive_features=CODES[NEW])[:, 1]
    return made.predict(X[NEW]) if name == "grid" else made._pmf_predict(X[NEW])[:, 1]


@pytest.mark.parametrize("name", MITIGATORS)
def test_their_decisions_with_our_manners(name):
    mitigator = threshold(WORDY) if name == "threshold" else MITIGATORS[name]
    fair = FairlearnClassifier(mitigator, pos_label="paid", random_state=0)
    with pytest.raises(NotFittedError):
        fair.predict(X)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    assert fair.fit(X[FIT], WORDS[FIT], sensitive_features=S[FIT]) is fair
    groups = {"sensitive_features": S[NEW]}
    p = fair.predict_proba(X[NEW], **groups)
    np.testing.assert_allclose(p[:, 1], by_hand(name), atol=1e-12)
    np.testing.assert_allclose(p.sum(1), 1)
    decided = fair.predict(X[NEW], **groups)
    assert set(decided) == {"paid", "late"}
    assert fair.score(X[NEW], WORDS[NEW], **groups) == (decided == WORDS[NEW]).mean()
    order = np.random.default_rng(1).permutation(N - 240)
    shuffled = fair.predict(X[NEW][order], sensitive_features=S[NEW][order])
    np.testing.assert_array_equal(shuffled, decided[order])
    assert (decided == "paid").mean() == pytest.approx(p[:, 1].mean(), abs=4.5 * 0.5 / 120**0.5)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert not hasattr(MITIGATORS[name], "estimator_")
    assert clone(fair).get_params().keys() == fair.get_params().keys()


def test_the_favourable_label_is_the_users():
    flipped = FairlearnClassifier(MITIGATORS["gradient"], pos_label="late")
    flipped.fit(X[FIT], WORDS[FIT], sensitive_features=S[FIT])
    made = clone(MITIGATORS["gradient"]).fit(X[FIT], 1 - Y[FIT], sensitive_features=CODES[FIT])
    np.testing.assert_allclose(
        flipped.predict_proba(X[NEW])[:, 0], made._pmf_predict(X[NEW])[:, 1], atol=1e-12
    )
    # Of fitted estimators too, whose second column is that of the other label.
    post = FairlearnClassifier(threshold(WORDY), pos_label="late")
    post.fit(X[FIT], WORDS[FIT], sensitive_features=S[FIT])
    chance = post.predict_proba(X[NEW], sensitive_features=S[NEW])[:, 0]
    late = WORDY.predict_proba(X[NEW])[:, 0]
    for group in "fm":
        order = np.argsort(late[S[NEW] == group])
        assert (np.diff(chance[S[NEW] == group][order]) >= -1e-12).all()


def test_a_model_inside():
    model = wrap(BASE, train=(X[FIT], Y[FIT]))
    for name in ("threshold", "gradient"):
        inside = clone(MITIGATORS[name]).set_params(estimator=model)
        if name == "threshold":
            inside.set_params(prefit=False)
        fair = FairlearnClassifier(inside).fit(X[FIT], Y[FIT], sensitive_features=S[FIT])
        p = fair.predict_proba(X[NEW], sensitive_features=S[NEW])
        np.testing.assert_allclose(p[:, 1], by_hand(name), atol=1e-6)
    module = wrap(torch.nn.Linear(3, 2), task="classification")
    with pytest.raises(TypeError, match="wraps no scikit-learn estimator"):
        FairlearnClassifier(ExponentiatedGradient(module, moment("equalized_odds"))).fit(
            X[FIT], Y[FIT], sensitive_features=S[FIT]
        )


def test_networks_leave_the_global_generators_alone():
    network = AdversarialFairnessClassifier(
        backend="torch", predictor_model=[8, "relu"], adversary_model=[3], epochs=2, batch_size=64
    )
    state = torch.get_rng_state()
    found = [
        FairlearnClassifier(network, random_state=seed)
        .fit(X[FIT], WORDS[FIT], sensitive_features=S[FIT])
        .predict_proba(X[NEW])
        for seed in (0, 0)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(found[0], found[1])
    assert set(found[0].ravel()) == {0.0, 1.0}


def test_labels_that_a_fitted_estimator_does_not_know():
    with pytest.raises(ValueError, match=r"'paid'.*knows \[0, 1\]"):
        FairlearnClassifier(threshold()).fit(X[FIT], WORDS[FIT], sensitive_features=S[FIT])


def test_frames_tensors_and_intersections():
    pd = pytest.importorskip("pandas")
    other = np.where(X[:, 1] > 0, "old", "young")
    frame = pd.DataFrame({"sex": S, "age": other})
    fair = FairlearnClassifier(threshold(constraints="demographic_parity"))
    fair.fit(pd.DataFrame(X[FIT]), Y[FIT], sensitive_features=frame[FIT])
    assert fair.groups_ == [("f", "old"), ("f", "young"), ("m", "old"), ("m", "young")]
    p = fair.predict_proba(torch.tensor(X[NEW]), sensitive_features=frame[NEW])
    np.testing.assert_allclose(
        p, fair.predict_proba(pd.DataFrame(X[NEW]), sensitive_features=frame[NEW])
    )
    with pytest.raises(ValueError, match="decides by group"):
        fair.predict(X[NEW])
    with pytest.raises(ValueError, match="did not occur in fit"):
        fair.predict(X[:1], sensitive_features={"sex": ["x"], "age": ["old"]})
    with pytest.raises(ValueError, match="sample_weight"):
        fair.fit(X[FIT], Y[FIT], sensitive_features=S[FIT], sample_weight=np.ones(240))


@pytest.mark.parametrize("tensor", [False, True])
def test_correlations_are_removed(tensor):
    rows = torch.tensor(X) if tensor else X
    remover = FairlearnTransformer(CorrelationRemover())
    found = remover.fit(rows[FIT], sensitive_features=S[FIT]).transform(
        rows[NEW], sensitive_features=S[NEW]
    )
    both = np.column_stack([X, CODES])
    expected = CorrelationRemover(sensitive_feature_ids=[3]).fit(both[FIT]).transform(both[NEW])
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert isinstance(found, torch.Tensor) == tensor
    with pytest.raises(ValueError, match="needs sensitive_features"):
        remover.transform(X)


def test_learned_representations():
    learner = PrototypeRepresentationLearner(n_prototypes=2, max_iter=5, random_state=0)
    ours = FairlearnTransformer(learner).fit(X[:100], Y[:100], sensitive_features=S[:100])
    by_them = clone(learner).fit(X[:100], Y[:100], sensitive_features=CODES[:100])
    np.testing.assert_allclose(ours.transform(X[NEW]), by_them.transform(X[NEW]))


@pytest.mark.parametrize(
    "criterion",
    ["demographic_parity", "equal_opportunity", "predictive_equality", "equalized_odds",
     "error_parity"],
)  # fmt: skip
def test_moments(criterion):
    made = moment(criterion, difference_bound=0.05)
    assert made.eps == 0.05
    made.load_data(X, Y, sensitive_features=CODES)
    # Their moments look at deviations of groups from all rows; the largest tells the criterion.
    pred = BASE.predict(X)
    counted = {
        "demographic_parity": [(pred, Y >= 0)],
        "equal_opportunity": [(pred, Y == 1)],
        "predictive_equality": [(pred, Y == 0)],
        "equalized_odds": [(pred, Y == 1), (pred, Y == 0)],
        "error_parity": [(pred != Y, Y >= 0)],
    }[criterion]
    apart = [
        abs(value[rows & (g == CODES)].mean() - value[rows].mean())
        for value, rows in counted
        for g in (0, 1)
    ]
    assert made.gamma(BASE.predict).max() == pytest.approx(max(apart))


def test_their_metrics_by_name():
    pred = BASE.predict(X)
    words = np.where(pred == 1, "paid", "late")
    for name, options in (
        ("demographic_parity_difference", {}),
        ("equalized_odds_ratio", {"agg": "mean"}),
        ("accuracy_score_group_min", {}),
        ("selection_rate_ratio", {"method": "to_overall"}),
    ):
        expected = getattr(theirs, name)(Y, pred, sensitive_features=CODES, **options)
        assert metric(
            name, WORDS, words, sensitive_features=S, pos_label="paid", **options
        ) == pytest.approx(expected, abs=1e-12)
    scores = BASE.predict_proba(X)[:, 1]
    assert metric(
        "mean_absolute_error_group_max", torch.tensor(X[:, 0]), scores, sensitive_features=S
    ) == pytest.approx(
        theirs.mean_absolute_error_group_max(X[:, 0], scores, sensitive_features=CODES)
    )


@pytest.mark.parametrize("given", [LogisticRegression(), None, "grid", ExponentiatedGradient])
def test_what_is_no_mitigator(given):
    with pytest.raises(TypeError, match="mitigator must be an estimator of fairlearn"):
        FairlearnClassifier(given).fit(X[FIT], Y[FIT], sensitive_features=S[FIT])


@pytest.mark.parametrize("name", MITIGATORS)
def test_their_use_of_pandas_is_not_the_users_concern(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # without the filters of this suite
        FairlearnClassifier(MITIGATORS[name]).fit(X[FIT], Y[FIT], sensitive_features=S[FIT])


def test_the_public_names():
    assert set(adapter.__all__) == {
        "FairlearnClassifier", "FairlearnTransformer", "metric", "moment"
    }  # fmt: skip


def test_what_they_do_not_have():
    with pytest.raises(ValueError, match=r"no metric of groups 'selection_rate'.*equalized_odds"):
        metric("selection_rate", Y, Y, sensitive_features=S)
    with pytest.raises(ValueError, match="criterion"):
        moment("calibration")
    with pytest.raises(TypeError):
        FairlearnClassifier(GridSearch(LogisticRegression(), BoundedGroupLoss(None))).fit(
            X[FIT], Y[FIT], S[FIT]
        )
