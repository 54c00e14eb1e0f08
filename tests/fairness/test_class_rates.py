"""Rates of more than two classes, group by group."""

import warnings

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from trustml import fairness
from trustml.fairness import group_metrics
from trustml.warnings import SmallGroupWarning

WORDS = np.array(["cat", "dog", "eel"])


def sample(n=300, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    p = np.where(rng.random(n) < 0.6, y, rng.integers(0, 3, n))
    return WORDS[y], WORDS[p], rng.integers(0, 2, n)


def test_a_rate_becomes_one_for_each_class_against_the_rest():
    y, p, s = sample()
    rates = ["selection_rate", "true_positive_rate", "precision"]
    g = group_metrics(y, p, sensitive_features=s, metrics=rates)
    assert g.metrics == tuple(f"{rate}[{word}]" for rate in rates for word in WORDS)
    for rate in rates:
        for word in WORDS:
            difference = getattr(fairness, f"{rate}_difference")
            want = difference(y, p, sensitive_features=s, pos_label=word)
            assert g.difference()[f"{rate}[{word}]"] == pytest.approx(want)
    assert g.ci().shape == (9, 2)
    named = group_metrics(y, p, sensitive_features=s, metrics={"tpr": "true_positive_rate"})
    assert named.metrics == ("tpr[cat]", "tpr[dog]", "tpr[eel]")
    one = group_metrics(y, p, sensitive_features=s, metrics="selection_rate", pos_label="cat")
    assert one.metrics == ("selection_rate",)


def test_means_over_classes_are_scikit_learns():
    y, p, s = sample()
    names = ["macro_true_positive_rate", "macro_precision", "worst_class_true_positive_rate"]
    g = group_metrics(y, p, sensitive_features=s, metrics=names)
    for code in (0, 1):
        true, said = y[s == code], p[s == code]
        each = sklearn.metrics.recall_score(true, said, average=None)
        assert g.by_group[code, 0] == pytest.approx(each.mean())
        macro = sklearn.metrics.precision_score(true, said, average="macro")
        assert g.by_group[code, 1] == pytest.approx(macro)
        assert g.by_group[code, 2] == pytest.approx(each.min())
    assert g.ci().shape == (3, 2)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.permutations([0, 1, 2]))
def test_names_of_classes_do_not_matter(seed, renamed):
    y, p, s = sample(n=90, seed=seed)
    other = dict(zip(WORDS, np.array(["u", "v", "w"])[list(renamed)], strict=True))
    names = ["macro_false_positive_rate", "worst_class_false_positive_rate", "macro_precision"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmallGroupWarning)
        one = group_metrics(y, p, sensitive_features=s, metrics=names)
        two = group_metrics(
            [other[v] for v in y], [other[v] for v in p], sensitive_features=s, metrics=names
        )
    np.testing.assert_allclose(one.by_group, two.by_group)
    assert (one.by_group["worst_class_false_positive_rate"] >= one.by_group[names[0]]).all()


def test_a_group_that_lacks_a_class_has_no_mean_over_classes():
    y, p, s = sample()
    y[s == 1] = "cat"
    with pytest.warns(SmallGroupWarning, match="undefined in groups"):
        g = group_metrics(y, p, sensitive_features=s, metrics="macro_true_positive_rate")
    assert np.isnan(g.by_group[1, 0])
    assert np.isfinite(g.by_group[0, 0])


def test_binary_decisions_have_means_over_both_classes_too():
    y, p, s = sample()
    y, p = (y == "cat").astype(int), (p == "cat").astype(int)
    g = group_metrics(y, p, sensitive_features=s, metrics="macro_true_positive_rate")
    assert g.overall[0] == pytest.approx(sklearn.metrics.balanced_accuracy_score(y, p))


def test_numbers_and_too_many_classes_are_refused():
    y, _, s = sample()
    numbers = np.linspace(0, 1, len(y))
    with pytest.raises(ValueError, match="needs class labels"):
        group_metrics(numbers, numbers, sensitive_features=s, metrics="macro_precision")
    with pytest.raises(ValueError, match="needs binary labels"):
        group_metrics(numbers, numbers, sensitive_features=s, metrics="selection_rate")
    many = np.arange(len(y)) % 60
    with pytest.raises(ValueError, match="at most 50 classes"):
        group_metrics(many, many, sensitive_features=s, metrics="macro_precision")
    with pytest.raises(ValueError, match="needs binary labels"):
        group_metrics(many, many, sensitive_features=s, metrics="selection_rate")


def test_scores_of_classes_are_measured_class_by_class():
    y, p, s = sample()
    rng = np.random.default_rng(1)
    score = rng.dirichlet(np.ones(3), size=len(y)) + 0.5 * (y[:, None] == WORDS)
    score /= score.sum(1, keepdims=True)
    names = ["roc_auc", "calibration_error", "balance_positive_class", "log_loss"]
    g = group_metrics(y, p, sensitive_features=s, y_score=score, metrics=names)
    assert g.metrics == tuple(f"{name}[{word}]" for name in names for word in WORDS)
    for j, word in enumerate(WORDS):
        one = group_metrics(
            y, p, sensitive_features=s, y_score=score[:, j], metrics=names, pos_label=word
        )
        np.testing.assert_allclose(np.asarray(g.by_group)[:, j::3], one.by_group)
    assert g.worst()["roc_auc[cat]"].reading == "lowest"
    assert g.ci().shape == (12, 2)
    with pytest.raises(ValueError, match="3 columns, one for each class, but the labels are bin"):
        group_metrics(y, p, sensitive_features=s, y_score=score, metrics="roc_auc", pos_label="cat")
    with pytest.raises(ValueError, match=r"but \['cat', 'dog', 'eel'\] occur"):
        group_metrics(y, p, sensitive_features=s, y_score=np.ones((300, 4)), metrics="roc_auc")
