"""Proper scores of probabilities."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trustml.conformal._reliability import probabilities_and_columns
from trustml.evidence import Interval, mean_interval


def brier(y_true: Any, probabilities: Any, classes: Any = None, level: float = 0.95) -> Interval:
    """Return the mean squared distance of the probabilities from the label's indicator.

    The sum over classes: twice the score of the event alone for two classes.

    Parameters
    ----------
    y_true : array of shape (n,)
        Labels.
    probabilities : array of shape (n, c)
        Class probabilities.
    classes : array of shape (c,) or None
        Labels in the order of the columns; None: 0..c-1.
    level : float in (0, 1)
        Confidence level of the interval.

    Returns
    -------
    Interval
        In [0, 2], lower is better.

    References
    ----------
    Brier (1950), Verification of forecasts expressed in terms of probability.

    Examples
    --------
    >>> round(brier([0, 1], [[0.9, 0.1], [0.5, 0.5]]).estimate, 6)
    0.26
    """
    p, column = probabilities_and_columns(y_true, probabilities, classes)
    rows = ((p - np.eye(p.shape[1])[column]) ** 2).sum(axis=1)
    return _within(mean_interval(rows, level), 2.0)


def nll(y_true: Any, probabilities: Any, classes: Any = None, level: float = 0.95) -> Interval:
    """Return the mean of -log p of the label, in nats.

    Parameters
    ----------
    y_true : array of shape (n,)
        Labels.
    probabilities : array of shape (n, c)
        Class probabilities.
    classes : array of shape (c,) or None
        Labels in the order of the columns; None: 0..c-1.
    level : float in (0, 1)
        Confidence level of the interval.

    Returns
    -------
    Interval
        At least 0, lower is better. +inf, ends included, if a label had probability 0: what can
        happen and was excluded costs everything, and nothing is clipped.

    References
    ----------
    Good (1952), Rational decisions.

    Examples
    --------
    >>> round(nll([0, 1], [[0.5, 0.5], [0.5, 0.5]]).estimate, 6)
    0.693147
    """
    p, column = probabilities_and_columns(y_true, probabilities, classes)
    own = np.take_along_axis(p, column[:, None], axis=1)[:, 0]
    impossible = int((own <= 0).sum())
    if impossible:
        found = mean_interval(own, level)
        note = f"{impossible} of {len(own)} labels had probability 0"
        return Interval(math.inf, math.inf, math.inf, found.level, note)
    return _within(mean_interval(-np.log(own), level), math.inf)


def _within(found: Interval, highest: float) -> Interval:
    low, high = max(0.0, found.low), min(highest, found.high)
    return Interval(found.estimate, low, high, found.level, found.method)
