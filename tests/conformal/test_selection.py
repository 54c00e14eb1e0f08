"""Conformal selection: its p-values by definition, its face; the rate is under tests/laws."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import trustml
from trustml.conformal import ConformalSelection, CovariateShift, Decay, Normalized
from trustml.evidence import benjamini_hochberg
from trustml.warnings import CoverageWarning


@pytest.mark.parametrize(("side", "sign"), [("above", 1), ("below", -1)])
def test_p_values_equal_their_definition(diabetes: object, side: str, sign: int) -> None:
    d = diabetes
    selection = ConformalSelection(d.model, **{side: 150.0}).fit(d.X_cal, d.y_cal)
    promise = sign * (d.model.predict(d.X_cal) - 150)
    unwanted = ~(sign * (d.y_cal - 150) > 0)
    new = sign * (d.model.predict(d.X) - 150)
    expected = [(1 + (unwanted & (promise >= s)).sum()) / (len(d.y_cal) + 1) for s in new]
    np.testing.assert_allclose(selection.p_values(d.X), expected)
    np.testing.assert_array_equal(
        selection.select(d.X, q=0.3), benjamini_hochberg(np.array(expected), 0.3)
    )
    assert np.isneginf(selection.calibration_).sum() == (~unwanted).sum()


def test_thresholds_by_row_and_units_by_row(diabetes: object) -> None:
    d = diabetes
    fixed = ConformalSelection(d.model, above=150.0).fit(d.X_cal, d.y_cal)
    by_row = ConformalSelection(d.model, above=lambda X: np.full(len(X), 150.0))
    np.testing.assert_array_equal(by_row.fit(d.X_cal, d.y_cal).p_values(d.X), fixed.p_values(d.X))
    twice = ConformalSelection(d.model, 150.0, score=Normalized(lambda X: np.full(len(X), 2.0)))
    np.testing.assert_array_equal(twice.fit(d.X_cal, d.y_cal).p_values(d.X), fixed.p_values(d.X))
    uneven = ConformalSelection(d.model, above=150.0, score="normalized").fit(d.X_cal, d.y_cal)
    assert (uneven.p_values(d.X) != fixed.p_values(d.X)).any()


def test_more_is_picked_at_a_higher_rate_and_it_is_what_is_wanted(digits: object) -> None:
    d = digits
    selection = ConformalSelection(d.model, labels=[0, 6]).fit(d.X_cal, d.y_cal)
    few, many = selection.select(d.X, q=0.02), selection.select(d.X, q=0.2)
    assert (few <= many).all()
    wanted = np.isin(d.y, [0, 6])
    assert wanted[few].mean() > 0.9
    assert few.sum() > 0.8 * wanted.sum()
    one = ConformalSelection(d.model, labels=3).fit(d.X_cal, d.y_cal).p_values(d.X)
    np.testing.assert_array_equal(
        one, ConformalSelection(d.model, labels=[3]).fit(d.X_cal, d.y_cal).p_values(d.X)
    )


def test_labels_are_the_users_own_and_logits_may_be_extreme() -> None:
    logits = torch.stack([torch.zeros(60), torch.arange(60.0) * 5 - 40], dim=1)
    y = np.where(np.arange(60) % 3 == 0, "no", np.where(np.arange(60) > 20, "yes", "no"))
    model = trustml.precomputed("logits", class_names=["no", "yes"])
    selection = ConformalSelection(model, labels="yes").fit(logits, y)
    found = selection.p_values(logits)
    assert isinstance(found, torch.Tensor)
    unwanted = np.flatnonzero(y == "no")
    expected = [(1 + (unwanted >= i).sum()) / 61 for i in range(60)]
    np.testing.assert_allclose(found.numpy(), expected)
    assert selection.select(logits, q=0.5).dtype == torch.bool


def test_random_ties_are_smaller_stay_with_their_rows_and_follow_the_seed(digits: object) -> None:
    coarse = [digits.model.predict_proba(X).round(1) + 0.01 for X in (digits.X_cal, digits.X)]
    p_cal, p = (rows / rows.sum(1, keepdims=True) for rows in coarse)
    model = trustml.precomputed("probabilities")
    safe = ConformalSelection(model, labels=1).fit(p_cal, digits.y_cal).p_values(p)
    random = ConformalSelection(model, labels=1, ties="random", random_state=0)
    found = random.fit(p_cal, digits.y_cal).p_values(p)
    assert (found <= safe).all()
    assert found.mean() < safe.mean()
    np.testing.assert_array_equal(random.p_values(p[:1]), found[:1])
    np.testing.assert_array_equal(random.p_values(p[::-1].copy()), found[::-1])
    other = clone(random).set_params(random_state=1).fit(p_cal, digits.y_cal).p_values(p)
    assert (other != found).any()


def test_the_order_of_calibration_rows_does_not_count(diabetes: object) -> None:
    d = diabetes
    order = np.random.default_rng(0).permutation(len(d.y_cal))
    first = ConformalSelection(d.model, above=200.0).fit(d.X_cal, d.y_cal)
    second = ConformalSelection(d.model, above=200.0).fit(d.X_cal[order], d.y_cal[order])
    np.testing.assert_array_equal(first.p_values(d.X), second.p_values(d.X))


def picked_by_definition(
    cal: np.ndarray, w: np.ndarray, new: np.ndarray, own: np.ndarray, q: float, xi: np.ndarray
) -> list[bool]:
    m, sizes, first = len(new), [], []
    for j in range(m):
        above = [(w * (cal > s)).sum() + own[j] * (new[j] > s) for s in new]
        auxiliary = np.array(above) / (w.sum() + own[j])
        auxiliary[j] = 0
        sizes.append(int(benjamini_hochberg(auxiliary, q).sum()))
        p = ((w * (cal >= new[j])).sum() + own[j]) / (w.sum() + own[j])
        first.append(p <= q * sizes[-1] / m)
    levels = xi * np.array(sizes)
    fits = [r for r in range(1, m + 1) if (np.array(first) & (levels <= r)).sum() >= r]
    return (np.array(first) & (levels <= max(fits, default=0))).tolist()


def test_weighted_selection_equals_its_definition() -> None:
    rng, found = np.random.default_rng(0), 0
    for run in range(60):
        coarse = 0 if run % 2 else 2
        x, z = rng.normal(size=72).round(coarse), rng.random(72) + 0.1
        y = x + rng.normal(size=72)
        X = np.stack([x, z], 1)
        model = trustml.wrap(lambda X: X[:, 0], task="regression")
        selection = ConformalSelection(model, above=0.0, weights=lambda X: X[:, 1])
        selection.fit(X[:60], y[:60])
        cal = np.where(y[:60] > 0, -np.inf, x[:60])
        expected = picked_by_definition(cal, z[:60], x[60:], z[60:], 0.4, np.ones(12))
        assert selection.select(X[60:], q=0.4).tolist() == expected
        found += sum(expected)
    assert found > 60


def test_equal_weights_give_the_p_values_without_any(diabetes: object) -> None:
    d = diabetes
    plain = ConformalSelection(d.model, above=150.0).fit(d.X_cal, d.y_cal)
    equal = ConformalSelection(d.model, above=150.0, weights=lambda X: np.full(len(X), 3.0))
    np.testing.assert_allclose(equal.fit(d.X_cal, d.y_cal).p_values(d.X), plain.p_values(d.X))
    assert (equal.select(d.X, q=0.3) == plain.select(d.X, q=0.3)).mean() > 0.95
    estimated = ConformalSelection(d.model, above=150.0, weights=CovariateShift(d.X))
    found = estimated.fit(d.X_cal, d.y_cal).p_values(d.X)
    assert np.corrcoef(found, plain.p_values(d.X))[0, 1] > 0.95


def test_too_few_calibration_rows_pick_nothing_and_say_so(diabetes: object) -> None:
    d = diabetes
    selection = ConformalSelection(d.model, above=0.0).fit(d.X_cal[:8], d.y_cal[:8])
    with pytest.warns(CoverageWarning, match="at least 9"):
        assert not selection.select(d.X, q=0.1).any()
    random = ConformalSelection(d.model, above=0.0, ties="random", random_state=0)
    assert random.fit(d.X_cal[:8], d.y_cal[:8]).select(d.X, q=0.1).any()
    enough = ConformalSelection(d.model, above=0.0).fit(d.X_cal[:9], d.y_cal[:9])
    assert enough.select(d.X, q=0.1).all()  # all are wanted, and 1/10 is just enough


def test_bad_input(digits: object, diabetes: object) -> None:
    d = diabetes
    for given in ({}, {"above": 1.0, "below": 2.0}, {"above": 1.0, "labels": [1]}):
        with pytest.raises(ValueError, match="exactly one"):
            ConformalSelection(d.model, **given).fit(d.X_cal, d.y_cal)
    with pytest.raises(NotFittedError):
        ConformalSelection(d.model, above=1.0).select(d.X)
    with pytest.raises(TypeError, match="use above="):
        ConformalSelection(d.model, labels=1).fit(d.X_cal, d.y_cal)
    with pytest.raises(TypeError, match="needs a regressor"):
        ConformalSelection(digits.model, above=1.0).fit(digits.X_cal, digits.y_cal)
    for labels, text in ((11, "11"), ([1, 11], "11"), (list(range(10)), "leave out")):
        with pytest.raises(ValueError, match=text):
            ConformalSelection(digits.model, labels=labels).fit(digits.X_cal, digits.y_cal)
    with pytest.raises(ValueError, match="ties"):
        ConformalSelection(d.model, above=1.0, ties="never").fit(d.X_cal, d.y_cal)
    with pytest.raises(ValueError, match="NaN"):
        ConformalSelection(d.model, above=np.nan).fit(d.X_cal, d.y_cal)
    with pytest.raises(ValueError, match="rows"):
        ConformalSelection(d.model, above=1.0).fit(d.X_cal, d.y_cal[1:])
    with pytest.raises(ValueError, match="thresholds"):
        ConformalSelection(d.model, above=[1.0, 2.0]).fit(d.X_cal, d.y_cal)
    with pytest.raises(ValueError, match=r"density ratio of the inputs, .* got Decay"):
        ConformalSelection(d.model, above=1.0, weights=Decay()).fit(d.X_cal, d.y_cal)
