"""Which label is which: columns of scores, codes of labels, order of rows."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from trustml.core.alignment import check_aligned
from trustml.fairness import (
    CorrelationRemover,
    DisparateImpactRemover,
    RejectOptionClassifier,
    Reweighing,
    StreamingBootstrap,
    average_odds_difference,
    between_group_generalized_entropy_index,
    consistency,
    demographic_parity_difference,
    differential_fairness,
    distribution_parity_difference,
    fairness_verdict,
    frontier,
    generalized_entropy_index,
    group_metrics,
    mean_prediction,
    prediction_set_metrics,
    proxy_bounds,
    selection_rate,
    subgroup_unfairness,
)

SEX = np.tile(["f", "m"], 100)
METRICS = ["roc_auc", "log_loss", "mean_score"]
KINDS = [(0, 1), (-1, 1), (1, 2), ("bad", "good"), (0.0, 1.0), (False, True)]


def scored(labels, seed=0):
    """Labels, and probabilities (n, 2) of both, in sorted order."""
    rng = np.random.default_rng(seed)
    second = rng.random(len(SEX))
    y = np.array(labels)[(rng.random(len(SEX)) < second).astype(int)]
    return y, np.c_[1 - second, second]


@pytest.mark.parametrize("labels", KINDS)
@pytest.mark.parametrize("favourable", [0, 1])
def test_the_favourable_label_names_its_column_of_scores(labels, favourable):
    y, p = scored(labels)
    pos, column = labels[favourable], p[:, favourable]
    common = {"sensitive_features": SEX, "metrics": METRICS, "pos_label": pos}
    g = group_metrics(y, y, y_score=p, **common)
    expected = [roc_auc_score(y == pos, column), log_loss(y == pos, column), column.mean()]
    np.testing.assert_allclose(g.overall, expected)
    for frame in (
        pd.DataFrame(p[:, ::-1], columns=labels[::-1]),
        pd.DataFrame(p),  # no names of labels: by position
        pd.DataFrame(p, columns=["left", "right"]),
    ):
        by_name = group_metrics(y, y, y_score=frame, **common)
        np.testing.assert_allclose(by_name.overall, expected)
    streamed = StreamingBootstrap(["log_loss"], n_resamples=2, pos_label=pos)
    streamed.update(y, y, sensitive_features=SEX, row_ids=np.arange(len(y)), y_score=p)
    np.testing.assert_allclose(streamed.by_group_["f"], log_loss((y == pos)[::2], column[::2]))


def test_losses_of_a_verdict_are_those_of_the_favourable_label():
    y, p = scored((1, 2))
    common = {"sensitive_features": SEX, "criterion": "loss_parity", "random_state": 0}
    verdicts = [
        fairness_verdict(y, y, y_score=score, pos_label=1, **common) for score in (p, p[:, 0])
    ]
    assert verdicts[0].gap == verdicts[1].gap


def test_columns_of_several_classes_go_by_their_names():
    rng = np.random.default_rng(1)
    y, p = rng.choice(["a", "b", "c"], len(SEX)), rng.dirichlet(np.ones(3), len(SEX))
    common = {"sensitive_features": SEX, "metrics": ["mean_score"]}
    frame = pd.DataFrame(p, columns=["a", "b", "c"])[["c", "a", "b"]]
    g = group_metrics(y, y, y_score=frame, **common)
    np.testing.assert_allclose(g.overall, p.mean(0))


def test_two_columns_need_two_labels():
    y, p = scored(("bad", "good"))
    common = {"sensitive_features": SEX, "metrics": ["mean_score"], "pos_label": "good"}
    for labels in (np.full(len(y), "good"), np.where(np.arange(len(y)) < 9, "ugly", y)):
        with pytest.raises(ValueError, match="pass the column of 'good' alone"):
            group_metrics(labels, labels, y_score=p, **common)
        found = group_metrics(labels, labels, y_score=p[:, 1], **common)
        assert found.overall["mean_score"] == pytest.approx(p[:, 1].mean())
    ones = np.ones(len(y), dtype=int)
    found = group_metrics(ones, ones, y_score=p, sensitive_features=SEX, metrics=["mean_score"])
    assert found.overall["mean_score"] == pytest.approx(p[:, 1].mean())


def doors():
    """Name -> (function of pandas inputs, its inputs)."""
    rng = np.random.default_rng(2)
    n = len(SEX)
    y, p = pd.Series(rng.integers(0, 2, n)), pd.Series(rng.integers(0, 2, n))
    s, x, w = pd.Series(SEX), pd.DataFrame(rng.random((n, 2))), pd.Series(rng.random(n))
    labels = {"y_true": y, "y_pred": p}
    grouped = labels | {"sensitive_features": s}
    fitted = {"X": x, "y": y, "sensitive_features": s}
    shares = pd.DataFrame({"f": w, "m": 1 - w})
    streamed = StreamingBootstrap(["selection_rate"], n_resamples=2)
    reject = RejectOptionClassifier(LogisticRegression())
    return {
        "difference": (demographic_parity_difference, grouped | {"sample_weight": w}),
        "signed": (partial(average_odds_difference, privileged="m"), grouped),
        "rate": (selection_rate, labels | {"sample_weight": w}),
        "mean": (mean_prediction, labels | {"sample_weight": w}),
        "report": (group_metrics, grouped | {"y_score": w}),
        "dict": (lambda y, a, b: group_metrics(y, y, sensitive_features={"a": a, "b": b}),
                 {"y": y, "a": s, "b": s.copy()}),
        "sets": (lambda y, sets, s: prediction_set_metrics(y, sets, sensitive_features=s),
                 {"y": y, "sets": pd.DataFrame(np.ones((n, 2), dtype=bool)), "s": s}),
        "verdict": (lambda y, p, s: fairness_verdict(y, p, sensitive_features=s),
                    {"y": y, "p": p, "s": s}),
        "stream": (streamed.update, grouped | {"row_ids": pd.Series(np.arange(n))}),
        "subgroups": (partial(subgroup_unfairness, rate="selection_rate"), grouped),
        "inequality": (between_group_generalized_entropy_index, grouped),
        "entropy": (generalized_entropy_index, labels),
        "distribution": (distribution_parity_difference, {"y_pred": p, "sensitive_features": s}),
        "differential": (differential_fairness, {"y": y, "sensitive_features": s}),
        "consistency": (consistency, {"X": x, "y_pred": p}),
        "proxy": (proxy_bounds, labels | {"probabilities": shares, "proxy": s}),
        "frontier": (partial(frontier, {"none": LogisticRegression()}, seeds=1), fitted),
        "reweighing": (Reweighing().fit, fitted),
        "mitigator": (reject.fit, fitted | {"sample_weight": w}),
        "remover": (CorrelationRemover().fit, {"X": x, "sensitive_features": s}),
        "repair": (DisparateImpactRemover().fit, {"X": x, "sensitive_features": s}),
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore::trustml.warnings.TrustmlWarning")
@pytest.mark.parametrize("door", list(doors()))
def test_rows_in_another_order_are_refused(door):
    call, given = doors()[door]
    call(**given)  # the same index
    for name, column in given.items():
        shuffled = column.sample(frac=1, random_state=0)
        if name == "X" and door == "reweighing":
            continue  # not looked at
        with pytest.raises(ValueError, match=r"\.loc\[.*\.to_numpy\(\)"):
            call(**given | {name: shuffled})
        call(**given | {name: shuffled.set_axis(shuffled.index + 10**6)})  # another index
        call(**given | {name: shuffled.to_numpy()})


@given(st.permutations(range(8)), st.booleans())
def test_only_orders_of_the_same_unique_index_are_refused(order, doubled):
    one = pd.Series(np.arange(8), index=[0, 0, *range(2, 8)] if doubled else range(8))
    other = one.iloc[order]
    if doubled or order == list(range(8)):
        check_aligned(a=one, b=other)
    else:
        with pytest.raises(ValueError, match=r"a and b have the same index in different orders"):
            check_aligned(a=one, b=other)
        check_aligned(a=one.loc[other.index], b=other)
        check_aligned(a=one.to_numpy(), b=other)


def report(y_true, y_pred, **kwargs):
    return group_metrics(y_true, y_pred, sensitive_features=SEX, **kwargs)


ZEROS_AND_ONES = np.tile([0, 0, 1, 1], 50)


@pytest.mark.parametrize(
    "code", [lambda y: 2 * y - 1, lambda y: y.astype(str), lambda y: np.where(y, "yes", "no"),
             lambda y: y + 2, lambda y: np.where(y, "7", "7")]
)  # fmt: skip
def test_labels_in_two_codes_are_refused_either_way(code):
    coded = code(ZEROS_AND_ONES)
    for pair in ((ZEROS_AND_ONES, coded), (coded, ZEROS_AND_ONES)):
        for call in (report, selection_rate, partial(fairness_verdict, sensitive_features=SEX)):
            with pytest.raises(ValueError, match="in another code"):
                call(*pair)
    if len(set(coded.tolist())) == 2:
        assert report(coded, coded, pos_label=coded[-1]).overall["accuracy"] == 1


def test_text_in_two_codes_is_refused():
    words = np.where(ZEROS_AND_ONES, "yes", "no")
    with pytest.raises(ValueError, match="in another code"):
        report(words, np.char.upper(words))


@pytest.mark.filterwarnings("ignore::trustml.warnings.SmallGroupWarning")
def test_labels_that_may_differ_are_compared():
    for a, b in ((0, 1), ("no", "yes"), (-1, 1)):  # constant on either side
        both = report(np.full(200, a), np.full(200, b), metrics=["accuracy"], pos_label=b)
        assert both.overall["accuracy"] == 0
    numbers = np.arange(200)
    far = report(numbers, numbers + 1000, metrics=["mean_error"])
    assert far.overall["mean_error"] == 1000
    near = report(ZEROS_AND_ONES, ZEROS_AND_ONES / 2 + 0.25, metrics=["mean_error"])
    assert near.overall["mean_error"] == 0


def test_probabilities_are_no_decisions():
    share = np.linspace(0, 1, 200)
    with pytest.raises(ValueError, match="pass the probabilities as y_score="):
        report(ZEROS_AND_ONES, share)
    assert report(ZEROS_AND_ONES, share, metrics="mean_prediction").overall[0] == share.mean()
    assert "mean_error" in report(share, ZEROS_AND_ONES).metrics  # numbers, predicted as numbers
    g = report(ZEROS_AND_ONES, share > 0.5, y_score=share)
    assert g.overall["mean_score"] == share.mean()


@pytest.mark.parametrize("kind", ["uint8", "uint64", "int8", "bool"])
def test_a_callable_gets_numbers_that_can_be_subtracted(kind):
    y, p = ZEROS_AND_ONES.astype(kind), (1 - ZEROS_AND_ONES).astype(kind)

    def error(true, predicted):
        return float(np.mean(predicted ^ true if kind == "bool" else abs(predicted - true)))

    assert report(y, p, metrics=[error]).overall["error"] == 1


def test_masked_labels_are_missing():
    masked = np.ma.masked_array(ZEROS_AND_ONES, mask=ZEROS_AND_ONES == 1)
    with pytest.raises(ValueError, match="y_true has masked values"):
        report(masked, ZEROS_AND_ONES)
    with pytest.raises(ValueError, match="100 missing values"):
        group_metrics(ZEROS_AND_ONES, ZEROS_AND_ONES, sensitive_features=masked)
    full = np.ma.masked_array(ZEROS_AND_ONES, mask=False)
    assert report(full, ZEROS_AND_ONES).metrics == report(full.data, ZEROS_AND_ONES).metrics


def test_weights_that_are_no_numbers_are_named():
    with pytest.raises(TypeError, match="sample_weight must hold numbers"):
        selection_rate(ZEROS_AND_ONES, ZEROS_AND_ONES, sample_weight=SEX)


def test_a_criterion_of_rates_asks_for_the_favourable_label():
    y = np.tile(["a", "b", "c", "a"], 50)
    for criterion in ("equalized_odds", "demographic_parity", "predictive_parity"):
        common = {"sensitive_features": SEX, "criterion": criterion}
        with pytest.raises(ValueError, match="pass pos_label="):
            fairness_verdict(y, y, **common)
        assert fairness_verdict(y, y, pos_label="a", **common).criterion == criterion
    assert fairness_verdict(y, y, sensitive_features=SEX, criterion="error_parity").gap == 0


def test_an_unknown_metric_names_the_nearest():
    with pytest.raises(ValueError, match=r"'accuracy_score' is unknown; did you mean 'accuracy'\?"):
        report(ZEROS_AND_ONES, ZEROS_AND_ONES, metrics=["accuracy_score"])
