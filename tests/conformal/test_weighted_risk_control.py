"""Risk control by weights: equal ones change nothing, heavy rows get safe parameters."""

import math

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import trustml
from trustml.conformal import (
    ConformalRiskControl,
    LabelShift,
    Localized,
    Miscoverage,
    WeightedRiskControl,
)
from trustml.warnings import CoverageWarning


def multilabel(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.random((n, 6)) < 0.3
    return np.clip(0.4 * y + 0.6 * rng.random((n, 6)), 0, 1), y


def ratio(X: np.ndarray) -> np.ndarray:
    return np.exp(3 * np.asarray(X)[:, 0])


def fitted(weights: object = ratio, n: int = 300, **more: object) -> WeightedRiskControl:
    options = {"risk": "false-negative-rate", "alpha": 0.2} | more
    return WeightedRiskControl(weights=weights, **options).fit(*multilabel(n))


def test_manners() -> None:
    scores, y = multilabel(300)
    before, (new, _) = scores.copy(), multilabel(40, seed=1)
    crc = WeightedRiskControl(risk="false-negative-rate", alpha=0.2, weights=ratio)
    for ask in (crc.predict, crc.parameters):
        with pytest.raises(NotFittedError):
            ask(scores)
    assert crc.fit(scores, y) is crc
    assert clone(crc).get_params() == crc.get_params()
    assert all(name.endswith("_") for name in vars(crc) if name not in crc.get_params())
    sets, parameters = crc.predict(new), crc.parameters(new)
    np.testing.assert_array_equal(sets, new >= np.array(parameters)[:, None])
    assert len(set(parameters)) >= 2
    assert isinstance(crc.predict(torch.from_numpy(new)), torch.Tensor)
    alone = np.concatenate([crc.predict(new[i : i + 1]) for i in range(10)])
    np.testing.assert_array_equal(alone, sets[:10])
    np.testing.assert_array_equal(scores, before)
    w = ratio(scores)
    assert crc.effective_sample_size_ == pytest.approx(w.sum() ** 2 / (w**2).sum())
    short = crc.fit(scores[:100], y[:100]).predict(new)
    np.testing.assert_array_equal(short, clone(crc).fit(scores[:100], y[:100]).predict(new))


@pytest.mark.parametrize("n", [9, 29, 100])
@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.3])
def test_equal_weights_change_nothing(n: int, alpha: float) -> None:
    # Losses are zeros and ones and (n + 1) alpha is often whole: ties decide.
    rng = np.random.default_rng(n)
    u, grid = rng.random(n), np.linspace(0, 1, 301)
    risk = lambda outputs, y, t: outputs < t  # noqa: E731
    plain = ConformalRiskControl(risk=risk, alpha=alpha, grid=grid).fit(u, u)
    for weights in (None, lambda X: np.full(len(X), 0.3)):
        crc = WeightedRiskControl(risk=risk, alpha=alpha, grid=grid, weights=weights).fit(u, u)
        assert set(crc.parameters(u)) == {plain.parameter_}


def test_the_parameter_is_the_last_whose_weighted_mean_is_below() -> None:
    scores, y = multilabel(300)
    new, _ = multilabel(20, seed=1)
    crc = fitted()
    losses = np.stack([crc.loss_.losses(scores, y, t) for t in crc.grid_], axis=1)
    for row, parameter in zip(new, crc.parameters(new), strict=True):
        w, own = ratio(scores), ratio(row[None])[0]
        bound = (w @ losses + own) / (w.sum() + own)
        assert parameter == crc.grid_[np.flatnonzero(bound <= 0.2).max()]
    scaled = fitted(lambda X: 2.0**40 * ratio(X))
    np.testing.assert_array_equal(scaled.parameters(new), crc.parameters(new))
    seven = fitted(risk=lambda o, t, p: 7 * crc.loss_.losses(o, t, p), alpha=1.4, bound=7.0,
                   grid=crc.grid_)  # fmt: skip
    np.testing.assert_array_equal(seven.parameters(new), crc.parameters(new))


def test_rows_that_weigh_too_much_get_what_is_safe_aloud() -> None:
    new, _ = multilabel(4, seed=1)
    for heavy in (1e9, 1e306):
        weights = lambda X, heavy=heavy: np.where(X[:, 0] == 0.5, heavy, 1e-6)  # noqa: E731
        crc = fitted(weights)
        new[1, 0] = 0.5
        with pytest.warns(CoverageWarning, match=r"1 of 4 rows.*-inf") as noted:
            sets = crc.predict(new)
        assert len(noted) == 1
        assert sets[1].all()
        assert not sets.all()
        with pytest.warns(CoverageWarning):
            assert crc.parameters(new)[1] == -math.inf
    unsafe = fitted(weights, risk=lambda o, y, t: o[:, 0] < t, grid=[0.0, 0.1])
    with pytest.warns(CoverageWarning, match="None"):
        assert unsafe.parameters(new)[1] is None
    with pytest.warns(CoverageWarning), pytest.raises(ValueError, match="none is safe"):
        unsafe.predict(new)


def test_weights_of_labels_and_of_places() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), size=400)
    y = (p.cumsum(axis=1) < rng.random((400, 1))).sum(axis=1)
    model = trustml.precomputed("probabilities")
    shift = LabelShift(ratio=[3.0, 1.0, 0.5])
    crc = WeightedRiskControl(model, Miscoverage(), 0.2, shift).fit(p, y)
    w = np.array([3.0, 1.0, 0.5])[y]
    losses = np.stack([crc.loss_.losses(p, y, t) for t in crc.grid_], axis=1)
    bound = (w @ losses + 3) / (w.sum() + 3)  # the new row's class is not known: its worst
    expected = crc.grid_[np.flatnonzero(bound <= 0.2).max()]
    assert set(crc.parameters(p[:50])) == {expected}
    local = WeightedRiskControl(model, Miscoverage(), 0.2, Localized(bandwidth=0.5)).fit(p, y)
    assert len(set(local.parameters(p[:50]))) > 3


def test_few_rows_and_none() -> None:
    with pytest.warns(CoverageWarning, match="rows of equal weight"):
        fitted(lambda X: np.exp(40 * X[:, 0]))
    with pytest.raises(ValueError, match="weight 0"):
        fitted(lambda X: np.zeros(len(X)))
    falling = lambda o, y, t: o[:, 0] > t  # noqa: E731
    with pytest.raises(ValueError, match="monotonize"):
        fitted(risk=falling, grid=[0.1, 0.5])
    with pytest.warns(CoverageWarning, match="fall along the grid"):
        fitted(risk=falling, grid=[0.1, 0.5], monotonize=True, alpha=0.9)


def test_bad_input() -> None:
    scores, y = multilabel(50)
    for change, error, text in (
        ({"alpha": 1.0}, ValueError, "alpha"), ({"weights": 3}, TypeError, "weights"),
        ({"grid": []}, ValueError, "grid"), ({"risk": "recall"}, ValueError, "risk"),
        ({"weights": lambda X: X[:3, 0]}, ValueError, "weights"),
        ({"weights": lambda X: X[:, 0] * np.nan}, ValueError, "weights"),
    ):  # fmt: skip
        with pytest.raises(error, match=text):
            fitted(**change)
    with pytest.raises(ValueError, match="LearnThenTest"):
        WeightedRiskControl(risk="selective-error", grid=[1.5, 0.5]).fit(scores, np.zeros(50))
    with pytest.raises(ValueError, match="NaN"):
        WeightedRiskControl(risk="false-negative-rate").fit(scores * np.nan, y)
    with pytest.raises(ValueError, match="NaN"):
        fitted().predict(scores * np.nan)
