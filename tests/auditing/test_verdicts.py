"""An interval becomes a verdict, and never a bare estimate."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustml.auditing._verdict import Verdict, at_least, at_most, combine, within
from trustml.evidence import Interval

unit = st.floats(0, 1)


def made(*numbers):
    low, estimate, high = sorted(numbers)
    return Interval(estimate, low, high, 0.95, "test")


@settings(max_examples=25, deadline=None)
@given(unit, unit, unit, unit)
def test_a_verdict_says_where_the_whole_interval_lies(a, b, c, threshold):
    interval = made(a, b, c)
    verdict = at_least("q", interval, threshold, 10).verdict
    expected = {
        Verdict.PASS: interval.low >= threshold,
        Verdict.FAIL: interval.high < threshold,
        Verdict.NOT_ENOUGH_DATA: interval.low < threshold <= interval.high,
    }
    assert [v for v, holds in expected.items() if holds] == [verdict]


@settings(max_examples=25, deadline=None)
@given(unit, unit, unit, unit)
def test_at_most_mirrors_at_least(a, b, c, threshold):
    upper = at_most("q", made(a, b, c), threshold, 10).verdict
    mirrored = made(-a, -b, -c)
    assert upper is at_least("q", mirrored, -threshold, 10).verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.1, 0.1, Verdict.PASS),
        (-0.3, 0.1, Verdict.NOT_ENOUGH_DATA),
        (0.25, 0.4, Verdict.FAIL),
        (-0.4, -0.25, Verdict.FAIL),
        (-0.4, 0.4, Verdict.NOT_ENOUGH_DATA),
    ],
)
def test_a_signed_difference_is_judged_against_a_band(low, high, verdict):
    assert within("gap", made(low, (low + high) / 2, high), 0.2, 10).verdict is verdict


@pytest.mark.parametrize("judge", [at_least, at_most, within])
def test_an_undefined_interval_is_not_enough_data(judge):
    interval = Interval(0.5, math.nan, math.nan, 0.95, "test")
    assert judge("q", interval, 0.5, 0).verdict is Verdict.NOT_ENOUGH_DATA


def test_the_worst_finding_counts_and_shown_ones_do_not():
    assert combine([Verdict.PASS, None, Verdict.FAIL, Verdict.NOT_ENOUGH_DATA]) is Verdict.FAIL
    assert combine([Verdict.PASS, Verdict.NOT_ENOUGH_DATA]) is Verdict.NOT_ENOUGH_DATA
    assert combine([None, Verdict.PASS]) is Verdict.PASS
    assert combine([None]) is Verdict.SKIPPED
