"""Watching whether a stream is still exchangeable with the calibration rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from trustml.conformal._one_row import as_rows
from trustml.conformal._regression import check_regressor, measured
from trustml.conformal._residual_score import as_residual_score
from trustml.conformal._score import as_score
from trustml.conformal._scored import Calibrated, calibrated, length, observed, uniforms_of
from trustml.conformal._split_regressor import ResidualBand
from trustml.core.random import RandomState, numpy_generator
from trustml.core.validation import to_numpy
from trustml.evidence import Bet
from trustml.evidence._checks import as_vector
from trustml.evidence._watch import MartingalePath, Watch
from trustml.model import Model, as_model

Scores = Callable[[Any, Any], np.ndarray]


class ExchangeabilityTest(BaseEstimator):
    """Raises an alarm when rows stop being exchangeable with the calibration rows.

    Whatever a conformal predictor promises ends where exchangeability ends: a drift of inputs or
    labels, a change of the model's errors, a dependence between rows. A gambler bets against
    it, step by step; if it holds, the wealth ever reaches 1 / alpha with probability at most
    alpha, however long one watches and whatever the model is.

    Parameters
    ----------
    model : Model or what `trustml.wrap` takes
        A classifier, or a regressor of one output.
    score : None, or what `SplitClassifier` or `SplitRegressor` take
        Strangeness of a row with its outcome; a change that it does not see is not found. None:
        "lac" for classifiers, "absolute" for regressors.
    bet : {"composite", "jumper", "power", "mixture", "plugin"} or Bet
        How is bet; see `trustml.evidence`. "composite" needs no tuning; "plugin" also finds what
        makes scores neither larger nor smaller.
    alpha : float in (0, 1)
        Chance of a false alarm, ever.
    random_state : int, Generator or None
        Of the p-values, whose ties and ranks are randomised.

    Attributes
    ----------
    model_ : Model
        The wrapped model.
    n_calibration_ : int
        Number of calibration rows.
    alarm_ : int or None
        Step (from 0) of the alarm; it stays until `fit`.

    References
    ----------
    Vovk, Petej, Nouretdinov, Ahlberg, Carlsson and Gammerman (2021), Retrain or not retrain:
    conformal test martingales for change-point detection, arXiv:2102.10439.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import Ridge
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(700, 2))
    >>> y = X.sum(1) + rng.normal(size=700) + np.where(np.arange(700) < 500, 0, 2)
    >>> model = Ridge().fit(X[:100], y[:100])
    >>> test = ExchangeabilityTest(model, random_state=0).fit(X[100:300], y[100:300])
    >>> test.update(X[300:500], y[300:500]).alarm_ is None
    True
    >>> test.update(X[500:], y[500:]).alarm_ < 300
    True
    """

    def __init__(
        self,
        model: Any,
        score: Any = None,
        bet: str | Bet = "composite",
        alpha: float = 0.01,
        random_state: RandomState = None,
    ) -> None:
        self.model = model
        self.score = score
        self.bet = bet
        self.alpha = alpha
        self.random_state = random_state

    def fit(self, X_cal: Any, y_cal: Any) -> Self:
        """Score the calibration rows, which the stream starts from; the model is not trained.

        Parameters
        ----------
        X_cal : array of shape (n, ...), or whatever the model takes
            Rows that the model was not trained on.
        y_cal : array of shape (n,)
            Their values, or labels.

        Returns
        -------
        ExchangeabilityTest
            Itself, with a wealth of 1.
        """
        model, rng = as_model(self.model), numpy_generator(self.random_state)
        if model.task == "classification":
            rows = calibrated(
                model, as_score("lac" if self.score is None else self.score), X_cal, y_cal, rng
            )
            self._scores: Scores = _OfLabels(model, rows)
            scores = rows.scores
        else:
            check_regressor(model, "ExchangeabilityTest")
            scale = as_residual_score("absolute" if self.score is None else self.score)
            self._scores = _OfValues(ResidualBand(model, scale.scale(model)))
            scores = self._scores(X_cal, y_cal)
        self._watch = Watch(scores, self.bet, self.alpha, rng)
        self.model_, self.n_calibration_ = model, len(scores)
        self.alarm_: int | None = None
        return self

    def update(self, x: Any, y: Any) -> Self:
        """Take in rows with their outcomes, in order of time.

        Parameters
        ----------
        x : array of shape (k, ...), or one row
            The rows, or one row without the first axis if ``y`` is one outcome.
        y : array of shape (k,), or one outcome
            Their values, or labels.

        Returns
        -------
        ExchangeabilityTest
            Itself.
        """
        check_is_fitted(self, "n_calibration_")
        x, y = as_rows(x, y)
        self._watch.observe(as_vector(self._scores(x, y), "scores"))
        self.alarm_ = self._watch.alarm
        return self

    def trace(self) -> MartingalePath:
        """Return scores, p-values and wealth of the updates so far."""
        check_is_fitted(self, "n_calibration_")
        return self._watch.path()


def exchangeability_martingale(
    scores: Any,
    bet: str | Bet = "composite",
    alpha: float = 0.01,
    cal_scores: Any = None,
    random_state: RandomState = None,
) -> MartingalePath:
    """Return the evidence against exchangeability along a stream of scores.

    Of any kind: an out-of-distribution detector's scores need no outcomes.

    Parameters
    ----------
    scores : array of shape (t,)
        In order of time; higher = stranger.
    bet : {"composite", "jumper", "power", "mixture", "plugin"} or Bet
        How is bet; see `trustml.evidence`.
    alpha : float in (0, 1)
        Chance of a false alarm, ever.
    cal_scores : array of shape (n,) or None
        Scores before the stream, to rank the first ones among.
    random_state : int, Generator or None
        Of the p-values, whose ties and ranks are randomised.

    Returns
    -------
    MartingalePath

    Examples
    --------
    >>> import numpy as np
    >>> calm, moved = np.random.default_rng(0).normal(size=(2, 200))
    >>> path = exchangeability_martingale(np.concatenate([calm, moved + 2]), random_state=0)
    >>> bool(200 < path.alarm < 250)
    True
    """
    before = np.zeros(0) if cal_scores is None else as_vector(cal_scores, "cal_scores")
    watch = Watch(before, bet, alpha, numpy_generator(random_state))
    return watch.observe(as_vector(scores, "scores")).path()


@dataclass(frozen=True, eq=False)
class _OfValues:
    bands: ResidualBand

    def __call__(self, X: Any, y: Any) -> np.ndarray:
        band, values = self.bands(X), measured(self.bands.model, y)
        _check_lengths(len(band.low), len(values))
        scores: np.ndarray = np.maximum(*band.scores(values))
        return scores


@dataclass(frozen=True, eq=False)
class _OfLabels:
    model: Model
    rows: Calibrated

    def __call__(self, X: Any, y: Any) -> np.ndarray:
        index, score = self.model.targets(y).cpu(), self.rows.score
        _check_lengths(length(X), len(index))
        parts = [
            score.of_labels(
                seen,
                uniforms_of(score, rows, len(seen), self.rows.seed),
                index[start : start + len(seen)],
            )
            for start, rows, seen in observed(self.model, score, X)
        ]
        return to_numpy(torch.cat(parts).double())


def _check_lengths(rows: int, outcomes: int) -> None:
    if rows != outcomes:
        raise ValueError(f"X has {rows} rows, y has {outcomes}; give one outcome a row")
