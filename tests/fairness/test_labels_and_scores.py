"""Which label is which: columns of scores, codes of labels, order of rows."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from trustml.fairness import StreamingBootstrap, fairness_verdict, group_metrics

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
