"""Online methods: their recursions, face, infinite and empty intervals, bad input."""

import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, QuantileRegressor

import trustml
from trustml.conformal import (
    Aci,
    AdaptiveConformal,
    AgAci,
    DtAci,
    Pid,
    adaptive_thresholds,
    metrics,
    quantile,
)
from trustml.warnings import CoverageWarning

METHODS = ["aci", "agaci", "dtaci", "pid"]


def test_aci_is_its_recursion_in_rational_numbers() -> None:
    scores, calibration = np.random.default_rng(0).normal(size=(2, 60))
    trace = adaptive_thresholds(scores, 0.1, Aci(0.07), cal_scores=calibration)
    level, past = Fraction(1, 10), calibration.tolist()
    for t, score in enumerate(scores):
        assert trace.level[t] == float(level)
        rank = math.ceil((len(past) + 1) * (1 - level))
        expected = sorted(past)[rank - 1] if 1 <= rank <= len(past) else math.copysign(
            math.inf, rank - 1)  # fmt: skip
        assert trace.threshold[t] == expected
        assert trace.missed[t] == (score > expected)
        level += Fraction(7, 100) * (Fraction(1, 10) - bool(score > expected))
        past.append(score)


def test_first_threshold_is_the_split_quantile() -> None:
    calibration = np.random.default_rng(1).normal(size=99)
    for method in METHODS:
        for alpha in (0.05, 0.1, 0.3, 0.7):
            trace = adaptive_thresholds([0.0], alpha, method, cal_scores=calibration)
            expected = quantile(calibration, alpha)
            np.testing.assert_allclose(trace.threshold[0], expected, rtol=1e-12)


def test_levels_outside_the_unit_interval_are_everything_and_nothing() -> None:
    # Ten records in a row drive the level below zero, and long quiet drives it above one.
    hot = adaptive_thresholds(np.arange(10.0), 0.1, Aci(0.2), cal_scores=range(20))
    assert not hot.missed.any()
    hot = adaptive_thresholds(20 + np.arange(10.0), 0.1, Aci(0.2), cal_scores=range(20))
    assert (hot.threshold[hot.level <= 0] == np.inf).all()
    assert (hot.level <= 0).any()
    calm = adaptive_thresholds(-np.arange(10.0), 0.9, Aci(0.2), cal_scores=range(20))
    assert (calm.threshold[calm.level >= 1] == -np.inf).all()
    assert calm.missed[calm.level >= 1].all()
    assert (calm.level >= 1).any()


def test_window_forgets_the_oldest() -> None:
    scores = np.random.default_rng(2).normal(size=80)
    trace = adaptive_thresholds(scores, 0.23, Aci(1e-9), cal_scores=scores[:30], window=19)
    # The level hardly moves, so the threshold is the quantile of the last 19 scores.
    stream = np.concatenate([scores[:30], scores])
    for t in range(80):
        assert trace.threshold[t] == quantile(stream[t + 11 : t + 30], 0.23)


def test_one_expert_is_aci() -> None:
    scores, calibration = np.random.default_rng(3).normal(size=(2, 300))
    alone = adaptive_thresholds(scores, 0.2, Aci(0.05), cal_scores=calibration)
    for rule in (AgAci([0.05]), DtAci([0.05])):
        found = adaptive_thresholds(scores, 0.2, rule, cal_scores=calibration)
        np.testing.assert_allclose(found.level, alone.level, atol=1e-12)
        inside = np.isfinite(alone.threshold)
        np.testing.assert_allclose(found.threshold[inside], alone.threshold[inside])


def test_the_better_step_wins_the_weights() -> None:
    # A drift that only a large step follows.
    rng = np.random.default_rng(4)
    scores = np.abs(rng.normal(size=1500)) * (1 + np.arange(1500) // 100)
    rule = DtAci([0.0001, 0.1])
    from trustml.conformal._adaptive_past import Past

    past = Past([1.0] * 20)
    controller = rule.start(Fraction(1, 10), past)
    for score in scores:
        threshold, _ = controller.propose(past)
        controller.observe(score, score > threshold, past)
        past.add(score)
    assert controller.weights[1] > 0.8
    assert controller.weights.sum() == pytest.approx(1)


def test_scorecaster_foresees_the_season() -> None:
    t = np.arange(900)
    scores = 10 + 5 * np.sin(2 * np.pi * t / 30) + np.random.default_rng(5).normal(size=900)
    last_season = lambda past: past[-30] if len(past) >= 30 else 10.0  # noqa: E731
    traces = {
        caster: adaptive_thresholds(
            scores[100:], 0.1, Pid(scorecaster=caster), cal_scores=scores[:100]
        )
        for caster in (None, last_season)
    }
    for trace in traces.values():
        assert abs(trace.missed.mean() - 0.1) < 0.03
    # What an interval is wider than it had to be.
    waste = {c: np.mean(np.maximum(0, tr.threshold - tr.score)) for c, tr in traces.items()}
    assert waste[last_season] < waste[None] / 1.5


@pytest.mark.parametrize("method", METHODS)
def test_updates_one_by_one_together_and_replayed_agree(diabetes: object, method: str) -> None:
    def fresh() -> AdaptiveConformal:
        return AdaptiveConformal(diabetes.estimator, method).fit(diabetes.X_cal, diabetes.y_cal)

    together = fresh().update(diabetes.X[:40], diabetes.y[:40])
    single = fresh()
    single.predict_interval(diabetes.X, 0.2)  # its controller runs from the start
    for x, y in zip(diabetes.X[:40], diabetes.y[:40], strict=True):
        assert single.update(x, y) is single
    for alpha in (0.2, [0.3, 0.2]):
        np.testing.assert_allclose(
            together.predict_interval(diabetes.X, alpha),
            single.predict_interval(diabetes.X, alpha),
            rtol=1e-10,
        )
    trace = single.trace(0.2)
    residuals = np.abs(diabetes.y[:40] - diabetes.estimator.predict(diabetes.X[:40]))
    np.testing.assert_allclose(trace.score, residuals, rtol=1e-9)
    direct = adaptive_thresholds(trace.score, 0.2, method, cal_scores=single.calibration_)
    np.testing.assert_array_equal(trace.threshold, direct.threshold)
    assert "40 scores" in repr(trace)
    assert list(trace.to_frame().columns) == ["score", "threshold", "level", "missed"]
    again = pickle.loads(pickle.dumps(together))
    np.testing.assert_array_equal(
        again.predict_interval(diabetes.X), together.predict_interval(diabetes.X)
    )


def test_misses_are_those_of_the_intervals(diabetes: object) -> None:
    cp = AdaptiveConformal(diabetes.estimator, Aci(0.1)).fit(diabetes.X_cal, diabetes.y_cal)
    covered = []
    for x, y in zip(diabetes.X, diabetes.y, strict=True):
        covered.append(metrics.coverage([y], cp.predict_interval(x[None], 0.2)))
        cp.update(x, y)
    np.testing.assert_array_equal(np.array(covered) == 0, cp.trace(0.2).missed)


def test_a_pair_of_quantile_models() -> None:
    rng = np.random.default_rng(6)
    X = rng.uniform(-1, 1, size=(900, 1))
    y = rng.normal(size=900) * (1.2 + X[:, 0])
    pair = tuple(QuantileRegressor(quantile=q, alpha=0).fit(X[:300], y[:300]) for q in (0.05, 0.95))
    cp = AdaptiveConformal(pair).fit(X[300:500], y[300:500])
    cp.update(X[500:], y[500:])
    scores = np.maximum(pair[0].predict(X[500:]) - y[500:], y[500:] - pair[1].predict(X[500:]))
    np.testing.assert_allclose(cp.history_, scores, rtol=1e-9)
    assert abs(cp.trace(0.1).missed.mean() - 0.1) < 0.03
    narrow, wide = np.diff(cp.predict_interval(np.array([[-0.9], [0.9]]), 0.1))[:, 0]
    assert wide > 3 * narrow


def test_torch_in_torch_out_and_streams_of_stored_predictions() -> None:
    X = torch.linspace(0, 1, 50)
    y = X + torch.sin(40 * X)
    cp = AdaptiveConformal(trustml.precomputed("values")).fit(X[:30], y[:30])
    cp.update(X[30:40], y[30:40]).update(X[40], y[40])
    found = cp.predict_interval(X[41:], 0.2)
    assert isinstance(found, torch.Tensor)
    assert found.shape == (9, 2)
    assert len(cp.history_) == 11


def test_too_few_scores_are_the_whole_line(diabetes: object) -> None:
    cp = AdaptiveConformal(diabetes.model).fit(diabetes.X_cal[:5], diabetes.y_cal[:5])
    with pytest.warns(CoverageWarning, match="at least 9"):
        assert np.isinf(cp.predict_interval(diabetes.X, 0.1)).all()


def test_empty_intervals_hold_nothing(diabetes: object) -> None:
    # A model that is suddenly perfect: hits drive the level past one.
    cp = AdaptiveConformal(trustml.precomputed("values"), Aci(0.3))
    y = np.random.default_rng(7).normal(size=40)
    cp.fit(np.zeros(40), y).update(y[:5], y[:5])
    interval = cp.predict_interval(y[:3], 0.9)
    assert (interval[:, 0] > interval[:, 1]).all()
    assert metrics.coverage(y[:3], interval) == 0


def test_before_fit(diabetes: object) -> None:
    cp = AdaptiveConformal(diabetes.model)
    for call in (lambda: cp.update(diabetes.X, diabetes.y), cp.trace):
        with pytest.raises(NotFittedError):
            call()


@pytest.mark.parametrize(
    ("call", "text"),
    [(lambda: Aci(0), "gamma"), (lambda: Aci(np.nan), "gamma"), (lambda: AgAci([]), "empty"),
     (lambda: AgAci([-1]), "gamma"), (lambda: DtAci([]), "empty"), (lambda: DtAci([-1.0]), "gamma"),
     (lambda: DtAci(interval=0), "interval"), (lambda: Pid(rate=0), "rate"),
     (lambda: Pid(gain=-1), "gain"), (lambda: Pid(saturation=0), "saturation"),
     (lambda: Pid(window=0), "window"),
     (lambda: adaptive_thresholds([1.0], method="bci"), "'agaci'"),
     (lambda: adaptive_thresholds([1.0], method=Aci), "OnlineRule"),
     (lambda: adaptive_thresholds([np.nan]), "index 0"),
     (lambda: adaptive_thresholds([[1.0]]), "1-d"),
     (lambda: adaptive_thresholds([1.0], alpha=1.5), "alpha"),
     (lambda: adaptive_thresholds([1.0], window=0), "window"),
     (lambda: adaptive_thresholds([1.0], 0.1, Pid(scorecaster=lambda s: np.inf)), "scorecaster"),
     (lambda: AdaptiveConformal([1, 2, 3]).fit(None, None), "pair")],
)  # fmt: skip
def test_bad_input(call: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()


def test_wrong_models_and_lengths(digits: object, diabetes: object) -> None:
    with pytest.raises(TypeError, match="regressor"):
        AdaptiveConformal(digits.model).fit(digits.X_cal, digits.y_cal)
    with pytest.raises(ValueError, match="150 rows"):
        AdaptiveConformal(diabetes.model).fit(diabetes.X_cal, diabetes.y_cal[1:])
    two = LinearRegression().fit(diabetes.X_train, np.stack([diabetes.y_train] * 2, 1))
    with pytest.raises(ValueError, match="one output"):
        AdaptiveConformal(two).fit(diabetes.X_cal, np.stack([diabetes.y_cal] * 2, 1))


def test_scores_that_never_stop_growing_keep_their_share_where_it_is_proven() -> None:
    scores = np.arange(1.0, 2001.0)
    missed = {m: adaptive_thresholds(scores, 0.1, m, [0.0] * 50).missed.mean() for m in METHODS}
    assert missed["aci"] == pytest.approx(0.1, abs=0.01)
    # As the guide says, these two promise less.
    assert missed["agaci"] > 0.9
    assert missed["dtaci"] < 0.05
