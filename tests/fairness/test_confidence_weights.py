"""Weights of rows, metrics from weights, and bootstraps that merge: each against its definition."""

import numpy as np
import pytest
from scipy import stats

from trustml.evidence import bootstrap
from trustml.fairness import StreamingBootstrap, bootstrap_groups, group_metrics
from trustml.fairness._metric_names import choose
from trustml.fairness._rates import as_decisions
from trustml.fairness._resampled import of_weights
from trustml.fairness._row_weights import (
    _table,
    hashed_poisson,
    multinomial_weights,
    poisson_weights,
)

LEAST = 1e-5  # p-value below which a law is refused; 1e-4 over the file


def sample(n=300, seed=0):
    rng = np.random.default_rng(seed)
    s = rng.choice(["a", "b", "c"], n)
    y = (rng.random(n) < 0.4).astype(int)
    score = np.clip(0.1 + 0.3 * y + 0.5 * rng.random(n), 0, 1).round(2)  # with ties
    return y, (score > 0.5).astype(int), s, score


def poisson_p_value(weights, mean):
    seen = np.bincount(weights.ravel(), minlength=9)
    mass = stats.poisson(mean).pmf(np.arange(8))
    expected = weights.size * np.append(mass, 1 - mass.sum())
    return stats.chisquare(np.append(seen[:8], seen[8:].sum()), expected).pvalue


@pytest.mark.parametrize("mean", [0.0, 0.3, 0.95, 1.0])
def test_the_table_is_exactly_the_poisson_law(mean):
    table, cdf = _table(mean)
    bits = len(table)
    k = np.arange(10)
    mass = np.array([(table == j).sum() for j in k]) / bits
    for cell in np.flatnonzero(table == 255):
        ends = np.clip(np.concatenate([[0], cdf]), cell / bits, (cell + 1) / bits)
        mass += np.diff(ends)[:10]
    np.testing.assert_allclose(mass, stats.poisson(mean).pmf(k), atol=1e-12)


def test_weights_have_the_law_of_draws():
    rng = np.random.default_rng(0)
    assert poisson_p_value(poisson_weights(500, 2000, rng), 1.0) > LEAST
    words = np.random.default_rng(1).integers(0, 2**64, size=10**6, dtype=np.uint64)
    assert poisson_p_value(hashed_poisson(words), 1.0) > LEAST
    for n in (1, 3, 40, 1200):
        weights = multinomial_weights(np.full(2000, n), n, rng)
        np.testing.assert_array_equal(weights.sum(1, dtype=int), n)
        seen = np.bincount(weights.ravel(), minlength=7)[:7]
        expected = weights.size * stats.binom(n, 1 / n).pmf(np.arange(7))
        spread = np.sqrt(np.maximum(expected, 1))
        # Weights of one replicate are dependent, negatively: the variance is at most this.
        assert (abs(seen - expected) < 5 * spread + 1).all()
    three = multinomial_weights(np.full(30_000, 3), 3, rng)
    code, law = three @ [16, 4, 1], stats.multinomial(3, [1 / 3] * 3)
    outcomes = np.unique(code)
    seen = np.array([(code == o).sum() for o in outcomes])
    expected = [30_000 * law.pmf([o // 16, o // 4 % 4, o % 4]) for o in outcomes]
    assert stats.chisquare(seen, expected).pvalue > LEAST
    totals = rng.integers(0, 90, 50)
    np.testing.assert_array_equal(multinomial_weights(totals, 40, rng).sum(1), totals)
    totals = rng.integers(700, 1600, 50)  # often less than the Poisson weights come to
    np.testing.assert_array_equal(multinomial_weights(totals, 1200, rng).sum(1, int), totals)


def test_metrics_of_weights_are_those_of_the_drawn_rows():
    y, p, _, score = sample()
    names = [
        "mean_score", "brier_score", "calibration_in_the_large", "log_loss", "roc_auc",
        "balance_positive_class", "balance_negative_class", "calibration_error",
        "debiased_calibration_error",
    ]  # fmt: skip
    metrics = choose(names, as_decisions(y, p), score).others
    rows = np.arange(40, 160)
    weights = poisson_weights(120, 30, np.random.default_rng(0))
    weights[0], weights[1] = 0, y[rows]  # nothing drawn; one class only
    weights[2, 7:] = 0  # a handful: fewer bins
    found = of_weights(metrics, rows)(weights)
    for name, metric in metrics.items():
        assert np.isnan(found[name][0])
        assert np.isnan(found[name][1]) == (name in ("roc_auc", "balance_negative_class"))
        for b in range(2, 30):
            expected = metric(np.repeat(rows, weights[b]))
            assert found[name][b] == pytest.approx(expected, rel=1e-10, abs=1e-12), name


@pytest.mark.parametrize("name", ["brier_score", "roc_auc"])
def test_intervals_are_those_of_the_general_bootstrap(name):
    y, p, s, score = sample(600)
    s = np.where(s == "c", "b", s)
    g = group_metrics(
        y, p, sensitive_features=s, y_score=score, metrics=[name], random_state=0
    )  # fmt: skip
    metric = g._sample.others[name]

    def contrast(rows):
        return metric(rows[s[rows] == "b"]) - metric(rows[s[rows] == "a"])

    reference = bootstrap(contrast, np.arange(600), strata=s, n_resamples=2000, random_state=1)
    width = reference.high - reference.low
    # Ends of 1000 and of 2000 draws: their standard errors are 4 % and 3 % of the width.
    assert abs(g.ci()[0] - np.array([reference.low, reference.high])).max() < 0.25 * width
    inverse = g.ci(of="ratio")[0]
    assert inverse[0] < g.by_group["b"][name] / g.by_group["a"][name] < inverse[1]


def parts(y, p, s, score, cut, **settings):
    names = ["selection_rate", "true_positive_rate", "precision", "brier_score"]
    ids = np.array([f"row {i}" for i in range(len(y))])
    return [
        StreamingBootstrap(names, n_resamples=200, **settings).update(
            y[i], p[i], sensitive_features=s[i], row_ids=ids[i], y_score=score[i]
        )
        for i in cut
    ]


def test_two_halves_merge_to_the_whole_in_any_order():
    y, p, s, score = sample()
    rows = np.random.default_rng(1).permutation(300)
    (whole,) = parts(y, p, s, score, [slice(None)])
    halves = parts(y, p, s, score, [rows[:100], rows[100:]])
    for both in (halves[0].merge(halves[1]), halves[1].merge(halves[0])):
        np.testing.assert_allclose(
            both.replicates().by_group, whole.replicates().by_group, rtol=1e-12
        )
        assert both.n_rows_ == 300
    g = group_metrics(y, p, sensitive_features=s, y_score=score, metrics=list(whole.metrics))
    np.testing.assert_allclose(whole.by_group_, g.by_group, rtol=1e-12)
    (other,) = parts(y, p, s, score, [slice(None)], seed=1)
    assert (other.replicates().by_group != whole.replicates().by_group).mean() > 0.9
    with pytest.raises(ValueError, match="same seed"):
        whole.merge(other)


def test_one_group_at_a_time_and_intersections():
    y, p, s, score = sample()
    by_group = parts(y, p, s, score, [s == g for g in "abc"])
    (whole,) = parts(y, p, s, score, [slice(None)])
    assert by_group[0].groups_ == ("a",)
    merged = by_group[0].merge(by_group[1]).merge(by_group[2])
    np.testing.assert_allclose(merged.replicates().by_group, whole.replicates().by_group)
    two = {"s": s, "odd": np.arange(300) % 2}
    made = StreamingBootstrap("selection_rate", n_resamples=2).update(
        y, p, sensitive_features=two, row_ids=np.arange(300)
    )
    assert made.groups_[0] == ("a", 0)


def test_hashed_replicates_have_the_law_of_drawn_ones():
    y, p, s, score = sample(900)
    names = ["true_positive_rate", "brier_score"]
    streamed = StreamingBootstrap(names, n_resamples=1500).update(
        y, p, sensitive_features=s, row_ids=np.arange(900), y_score=score
    )
    g = group_metrics(y, p, sensitive_features=s, y_score=score, metrics=names)
    drawn = bootstrap_groups(g, 1500, method="poisson", random_state=0).by_group
    hashed = streamed.replicates().by_group
    for k in range(3):
        for j in range(2):
            assert stats.ks_2samp(drawn[:, k, j], hashed[:, k, j]).pvalue > LEAST / 6


def test_what_does_not_add_up_is_refused():
    y, p, s, score = sample(60)
    ids = np.arange(60)
    rest = {"sensitive_features": s, "y_score": score}
    with pytest.raises(ValueError, match="'roc_auc' is no mean of rows"):
        StreamingBootstrap(["roc_auc"]).update(y, p, row_ids=ids, **rest)
    with pytest.raises(ValueError, match="different for each row"):
        StreamingBootstrap(["accuracy"]).update(y, p, row_ids=ids // 2, **rest)
    with pytest.raises(ValueError, match="row_ids"):
        StreamingBootstrap(["accuracy"]).update(y, p, row_ids=ids[:9], **rest)
    with pytest.raises(ValueError, match="names of metrics"):
        StreamingBootstrap([np.mean])
    with pytest.raises(ValueError, match="no rows yet"):
        StreamingBootstrap(["accuracy"]).replicates()
    with pytest.raises(ValueError, match="must have 60 rows"):
        StreamingBootstrap(["accuracy"]).update(y, p, row_ids=ids, sensitive_features=s[:5])
