"""Group metrics: values, intervals and their laws, bad input."""

import pickle
import time

import fairlearn.metrics as peer
import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, roc_auc_score

from trustml.fairness import GroupMetrics, demographic_parity_difference, group_metrics
from trustml.warnings import SmallGroupWarning

NAMES = ["selection_rate", "true_positive_rate", "false_positive_rate", "accuracy"]


def sample(n=400, n_groups=2, seed=0, gap=0.0):
    rng = np.random.default_rng(seed)
    s = rng.integers(0, n_groups, n)
    y = (rng.random(n) < 0.4).astype(int)
    score = np.clip(0.1 + 0.3 * y + 0.5 * rng.random(n) + gap * s, 0, 1)
    return y, (score > 0.5).astype(int), s, score


@pytest.mark.peers
def test_values_are_metric_frames():
    y, p, s, _ = sample(n_groups=3)
    frame = peer.MetricFrame(
        metrics={name: getattr(peer, name) for name in NAMES[:3]},
        y_true=y, y_pred=p, sensitive_features=s,
    )  # fmt: skip
    g = group_metrics(y, p, sensitive_features=s)
    assert g.metrics == tuple(NAMES)
    assert g.groups == (0, 1, 2)
    np.testing.assert_allclose(g.by_group[:, :3], frame.by_group.to_numpy())
    np.testing.assert_allclose(g.overall[:3], frame.overall.to_numpy())
    for method in ("between_groups", "to_overall"):
        np.testing.assert_allclose(g.difference(method)[:3], frame.difference(method=method))
        np.testing.assert_allclose(g.ratio(method)[:3], frame.ratio(method=method))


def test_arrays_answer_to_names_and_survive_pickling():
    y, p, s, _ = sample()
    g = group_metrics(y, p, sensitive_features=np.array(["f", "m"])[s])
    column = g.by_group["selection_rate"]
    assert column["m"] == g.by_group[1, 0] == p[s == 1].mean()
    assert g.overall["accuracy"] == (y == p).mean()
    assert g.difference()["selection_rate"] == demographic_parity_difference(
        y, p, sensitive_features=s
    )
    with pytest.raises(KeyError, match="is not one of"):
        g.overall["recall"]
    copy = pickle.loads(pickle.dumps(g.overall))
    assert copy["accuracy"] == g.overall["accuracy"]
    assert "selection_rate" in g.to_frame().columns
    assert "<table>" in g._repr_html_()


def test_prints_name_groups_and_metrics():
    y, p, s, _ = sample()
    g = group_metrics(y, p, sensitive_features={"sex": np.array(["f", "m"])[s]})
    title, parity, odds, *lines = repr(g).splitlines()
    assert title.startswith("GroupMetrics of 400 rows by sex")
    assert parity.startswith(f"demographic parity difference {g.difference()[0]:.4g}: ")
    assert odds.startswith(f"equalized odds difference {max(g.difference()[1:3]):.4g}: ")
    lines = ["", *lines]
    assert lines[1].split() == ["sex", "count", *NAMES]
    first = [line.split()[0] for line in lines[2:]]
    assert first == ["f", "m", "overall", "difference", "ratio"]
    assert lines[4].split()[1:] == ["400", *(f"{v:.4g}" for v in g.overall)]
    for word in ("difference", "selection_rate", f"{g.difference()[0]:.4g}"):
        assert word in g._repr_html_()
    assert list(g.to_frame()["sex"]) == ["f", "m"]
    printed = str(g.by_group).splitlines()
    assert printed[0].split() == NAMES
    assert printed[2].split() == ["m", *(f"{v:.4g}" for v in g.by_group[1])]
    assert str(g.difference()).splitlines()[1].split()[0] == "selection_rate"
    assert str(2 * g.difference()) == str(2 * np.asarray(g.difference()))


def test_arrays_answer_to_groups_and_intervals_to_metrics():
    y, p, s, _ = sample()
    g = group_metrics(y, p, sensitive_features=np.array(["f", "m"])[s])
    assert g.by_group["m"]["accuracy"] == g.by_group["accuracy"]["m"] == g.by_group[1, 3]
    for of in ("difference", "ratio", "overall"):
        ends = g.ci(of=of)
        assert ends.shape == (4, 2)
        np.testing.assert_array_equal(ends["accuracy"], ends[3])
        assert ends["low"]["accuracy"] == ends[3, 0]


def test_score_metrics_are_scikit_learns():
    y, p, s, score = sample(seed=3)
    score = np.round(score, 1)  # ties
    names = ["roc_auc", "brier_score", "mean_score", "calibration_in_the_large"]
    g = group_metrics(y, p, sensitive_features=s, y_score=score, metrics=names)
    for k in range(2):
        of = s == k
        assert g.by_group[k, 0] == pytest.approx(roc_auc_score(y[of], score[of]))
        assert g.by_group[k, 1] == pytest.approx(brier_score_loss(y[of], score[of]))
        assert g.by_group[k, 3] == pytest.approx(score[of].mean() - y[of].mean())
    both = np.column_stack([1 - score, score])
    again = group_metrics(y, p, sensitive_features=s, y_score=both, metrics=names)
    np.testing.assert_array_equal(again.by_group, g.by_group)


def test_callables_dicts_and_defaults():
    y, p, s, _ = sample()
    g = group_metrics(
        y, p, sensitive_features=s,
        metrics={"balanced": balanced_accuracy_score, "tpr": "true_positive_rate"},
    )  # fmt: skip
    assert g.metrics == ("balanced", "tpr")
    assert g.by_group["balanced"][0] == balanced_accuracy_score(y[s == 0], p[s == 0])
    assert group_metrics(y, p, sensitive_features=s, metrics=balanced_accuracy_score).metrics == (
        "balanced_accuracy_score",
    )
    classes = group_metrics(y + s, p + s, sensitive_features=s)
    assert classes.metrics == ("accuracy",)
    numbers = group_metrics(y + 0.5, p + 0.25, sensitive_features=s)
    assert numbers.metrics == ("mean_prediction", "mean_error", "mean_absolute_error")


def test_group_intervals_are_exact():
    y, p, s, _ = sample()
    g = group_metrics(y, p, sensitive_features=s)
    k, n = int(p[s == 0].sum()), int((s == 0).sum())
    exact = stats.binomtest(k, n).proportion_ci(0.9, method="exact")
    np.testing.assert_allclose(g.ci(0.9, of="by_group")[0, 0], [exact.low, exact.high])
    assert g.ci(of="by_group").shape == (2, 4, 2)
    assert g.ci(of="overall").shape == (4, 2)
    assert g.ci().shape == g.ci(of="ratio").shape == (4, 2)


def test_two_groups_are_signed_against_the_privileged():
    y, p, s, score = sample(gap=0.15, seed=1)
    names = ["selection_rate", "mean_score"]
    kwargs = {"y_score": score, "metrics": names, "random_state": 0}
    words = np.array(["young", "old"])[s]
    second_minus_first = group_metrics(y, p, sensitive_features=words, **kwargs)
    against_young = group_metrics(y, p, sensitive_features=words, privileged="young", **kwargs)
    against_old = group_metrics(y, p, sensitive_features=words, privileged="old", **kwargs)
    # Sorted: old, young. Old people (s = 1) have the higher scores here.
    np.testing.assert_array_equal(second_minus_first.ci(), against_old.ci())
    assert against_old.direction == "young minus old"
    assert (against_old.ci() < 0).all()
    assert (against_young.ci() > 0).all()
    np.testing.assert_allclose(against_young.ci()[0], -against_old.ci()[0, ::-1])
    assert (against_old.ci(of="ratio") < 1).all()
    np.testing.assert_array_equal(against_old.difference(), against_young.difference())


def test_intervals_under_no_disparity_contain_none():
    # Fairlearn's percentile interval of max - min contains 0 in no draw at all.
    hits = {2: 0, 4: 0}
    for n_groups in hits:
        for seed in range(150):
            y, p, s, _ = sample(n=500, n_groups=n_groups, seed=seed)
            low, high = group_metrics(y, p, sensitive_features=s, metrics="selection_rate").ci()[0]
            hits[n_groups] += low <= 0 <= high
    assert 0.90 <= hits[2] / 150 <= 0.99
    assert hits[4] / 150 >= 0.93


def test_many_groups_with_a_true_gap_are_told_apart():
    y, p, s, score = sample(n=1200, n_groups=3, gap=0.15)
    g = group_metrics(
        y, p, sensitive_features=s, y_score=score, metrics=["selection_rate", "mean_score"],
        random_state=0,
    )  # fmt: skip
    low, high = g.ci().T
    assert (low > 0).all()
    assert (low <= g.difference()).all()
    assert (g.difference() <= high).all()
    low, high = g.ci(of="ratio").T
    assert (high < 1).all()
    assert (low <= g.ratio()).all()
    assert (g.ratio() <= high).all()


def test_bootstrap_intervals_repeat_with_their_seed():
    y, p, s, score = sample(n=200)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    kwargs = {"sensitive_features": s, "y_score": score, "metrics": "calibration_error"}
    one = group_metrics(y, p, random_state=1, **kwargs).ci()
    np.testing.assert_array_equal(one, group_metrics(y, p, random_state=1, **kwargs).ci())
    assert not np.array_equal(one, group_metrics(y, p, random_state=2, **kwargs).ci())
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002


def test_rates_of_many_rows_and_groups_are_fast():
    y, p, s, _ = sample(n=15_000, n_groups=10)
    started = time.process_time()
    group_metrics(y, p, sensitive_features=s).ci()
    assert time.process_time() - started < 2


def test_small_and_undefined_groups_warn():
    y, p, s, _ = sample()
    s[:5], s[5:] = 2, s[5:] % 2
    with pytest.warns(SmallGroupWarning, match=r"fewer than 20 rows: \{'2': 5\}"):
        g = group_metrics(y, p, sensitive_features=s, metrics="accuracy")
    assert g.counts[2] == 5
    y[s == 1] = 0
    with pytest.warns(SmallGroupWarning, match="undefined"):
        g = group_metrics(y[5:], p[5:], sensitive_features=s[5:])
    assert np.isnan(g.by_group["true_positive_rate"][1])
    assert np.isnan(g.difference()["true_positive_rate"])
    assert np.isnan(g.ci()[1]).all()
    assert np.isnan(g.ci(of="by_group")[1, 1]).all()
    assert np.isfinite(g.ci()[0]).all()


def test_inputs_are_left_alone():
    y, p, s, score = sample()
    copies = y.copy(), p.copy(), s.copy(), score.copy()
    group_metrics(y, p, sensitive_features=s, y_score=score, random_state=0).ci()
    for now, before in zip((y, p, s, score), copies, strict=True):
        np.testing.assert_array_equal(now, before)


Y, P, S, SCORE = sample()
BAD = {
    "unknown": ({"metrics": "recall"}, ValueError, "is unknown; the names are"),
    "no score": ({"metrics": "roc_auc"}, ValueError, "needs y_score"),
    "not callable": ({"metrics": [3]}, TypeError, "a name or a callable"),
    "twice": ({"metrics": ["accuracy", "accuracy"]}, ValueError, "given twice"),
    "empty": ({"metrics": []}, ValueError, "metrics is empty"),
    "vector": ({"metrics": {"v": lambda y, p: [1, 2]}}, ValueError, "must return one number"),
    "privileged": ({"privileged": "x"}, ValueError, "can vanish in a split"),
    "short score": ({"y_score": SCORE[1:]}, ValueError, "y_score must have shape"),
    "nan score": ({"y_score": SCORE * np.nan}, ValueError, "NaN"),
    "text score": ({"y_score": np.array(["a"] * len(Y))}, TypeError, "numbers"),
    "two words": (
        {"metrics": "selection_rate", "y_true": np.array(["n", "y"])[Y], "y_pred": ["y"] * len(Y)},
        ValueError,
        "pos_label",
    ),
    "no probability": ({"metrics": "log_loss", "y_score": 2 * SCORE}, ValueError, "from .* to"),
    "score of classes": (
        {"metrics": "roc_auc", "y_true": Y + S, "y_score": SCORE}, ValueError, "binary",
    ),
    "words": (
        {"metrics": "mean_error", "y_true": Y.astype(str), "y_pred": P.astype(str)},
        ValueError,
        "needs numbers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_names_the_fix(case):
    kwargs, error, message = BAD[case]
    given = {"y_true": Y, "y_pred": P} | kwargs
    with pytest.raises(error, match=message):
        group_metrics(**given, sensitive_features=S)


def test_bad_options_of_the_result():
    g = group_metrics(Y, P, sensitive_features=S)
    assert isinstance(g, GroupMetrics)
    with pytest.raises(ValueError, match="of must be one of"):
        g.ci(of="gap")
    with pytest.raises(ValueError, match="level"):
        g.ci(level=95)
    with pytest.raises(ValueError, match="method must be one of"):
        g.difference("x")
    with pytest.raises(TypeError):
        group_metrics(Y, P, S)


def test_one_row_has_no_bootstrap_interval():
    rng = np.random.default_rng(0)
    y, p, s = *rng.normal(size=(2, 30)), np.array(["a"] * 29 + ["b"])
    with pytest.warns(SmallGroupWarning, match="fewer than 20 rows"):
        g = group_metrics(y, p, sensitive_features=s, metrics="mean_absolute_error")
    with pytest.warns(SmallGroupWarning, match="fewer than 10 rows"):
        ends = g.ci(of="by_group")
    assert np.isfinite(ends[0]).all()
    assert np.isnan(ends[1]).all()
