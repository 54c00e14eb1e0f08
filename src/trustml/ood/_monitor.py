"""Watching a stream with a calibrated detector: evidence that may be read at any time."""

from __future__ import annotations

import math
from typing import Any, Protocol, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from trustml.core.random import RandomState, numpy_generator
from trustml.core.validation import check_alpha, check_choice, to_numpy
from trustml.evidence import Bet, exact_alpha
from trustml.evidence._mean_martingale import MeanGambler
from trustml.evidence._watch import MartingalePath, Watch
from trustml.ood._calibration import Calibration
from trustml.ood._detector import Detector


class Monitor(BaseEstimator):
    r"""Raises one alarm when a stream is no longer like the rows the detector was calibrated on.

    A gambler of wealth 1 bets against that, row by row. If nothing has changed, the wealth ever
    reaches 1 / alpha with probability at most alpha (Ville), however long one watches and
    however often one looks; so it may be updated with single rows or with batches.

    Parameters
    ----------
    detector : Detector
        Fitted and calibrated. Its calibration scores are where the stream starts from.
    watch : {"scores", "alarms"}
        "scores": a conformal test martingale bets against the ranks of the scores among all
        before them; finds any lasting change of the scores, harmless ones too. "alarms": bets
        that the detector's alarms at ``level`` have become more frequent than ``limit``; nothing
        else disturbs it. It takes rows to be independent.
    bet : {"composite", "jumper", "power", "mixture", "plugin"} or Bet
        How "scores" bets; see `trustml.evidence`.
    alpha : float in (0, 1)
        Chance of a false alarm, ever.
    level : float in (0, 1)
        Of the detector's alarm on one row, for "alarms".
    limit : float in (0, 1) or None
        Share of alarms that is still acceptable. None: the most that ``level`` may really be
        after a calibration with n rows, so that the chance of a false alarm holds over the draw
        of these rows too: half of ``alpha`` is spent on that, half on the stream.
    random_state : int, Generator or None
        Of the ranks, which are randomised.

    Attributes
    ----------
    alarm_ : int or None
        Step (from 0) of the alarm; it stays until `reset`.
    log_wealth_ : float
        Natural logarithm of the wealth: the evidence now.
    limit_ : float
        For "alarms": the limit in use.

    References
    ----------
    Vovk, Petej, Nouretdinov, Ahlberg, Carlsson and Gammerman (2021), Retrain or not retrain:
    conformal test martingales for change-point detection, arXiv:2102.10439.
    Podkopaev and Ramdas (2022), Tracking the risk of a deployed model and detecting harmful
    distribution shifts, arXiv:2110.06177, for "alarms".

    Examples
    --------
    >>> import numpy as np
    >>> import trustml
    >>> from trustml.ood import Mahalanobis
    >>> rng = np.random.default_rng(0)
    >>> rows = rng.normal(size=(900, 2))
    >>> detector = Mahalanobis(trustml.precomputed("features")).fit(rows[:300])
    >>> monitor = Monitor(detector.calibrate(rows[300:600]), random_state=0)
    >>> monitor.update(rows[600:]).alarm_ is None
    True
    >>> monitor.update(3 * rng.normal(size=(100, 2))).alarm_ < 350
    True
    """

    alarm_: int | None
    log_wealth_: float
    limit_: float

    def __init__(
        self,
        detector: Detector,
        watch: str = "scores",
        bet: str | Bet = "composite",
        alpha: float = 0.01,
        level: float = 0.05,
        limit: float | None = None,
        random_state: RandomState = None,
    ) -> None:
        self.detector = detector
        self.watch = watch
        self.bet = bet
        self.alpha = alpha
        self.level = level
        self.limit = limit
        self.random_state = random_state

    def update(self, X: Any) -> Self:
        """Take in rows in order of time.

        Parameters
        ----------
        X : array, tensor, frame, Dataset or DataLoader of n rows
            The next rows.

        Returns
        -------
        Monitor
            Itself.
        """
        if not hasattr(self, "stream_"):
            self.reset()
        self.stream_.observe(np.asarray(to_numpy(self.detector.score(X)), dtype=np.float64))
        self.alarm_ = self.stream_.alarm
        self.log_wealth_ = float(self.stream_.steps[-1][2])
        return self

    def reset(self) -> Self:
        """Begin anew, with a wealth of 1 and the detector's calibration of now.

        Returns
        -------
        Monitor
            Itself.

        Raises
        ------
        TypeError
            If ``detector`` is not a `Detector`.
        NotFittedError
            If it is not calibrated.
        ValueError
            If it is calibrated with weights.
        """
        if not isinstance(self.detector, Detector):
            raise TypeError(
                f"detector must be a fitted and calibrated Detector, got {self.detector!r}; of a "
                "Suite take one: suite.detectors_[name]"
            )
        if not hasattr(self.detector, "calibration_"):
            raise NotFittedError(
                f"this {type(self.detector).__name__} is not calibrated; call fit(X_in) and "
                "calibrate(X_cal) first"
            )
        check_choice(self.watch, "watch", ("scores", "alarms"))
        alpha, calibration = check_alpha(self.alpha), self.detector.calibration_
        if calibration.weights is not None:
            raise ValueError(
                "weights say that the rows to come are not like the calibration rows, which is "
                "what a monitor watches for; calibrate the detector without weights"
            )
        if self.watch == "scores":
            rng = numpy_generator(self.random_state)
            self.stream_: Stream = Watch(calibration.scores, self.bet, alpha, rng)
        else:
            level = check_alpha(self.level)
            if self.limit is None:
                alpha /= 2
                self.limit_ = _largest_rate(len(calibration.scores), level, alpha)
            else:
                self.limit_ = check_alpha(self.limit)
            # Of all rows together: classes, if they are known, would each have a rate of alarms.
            self.stream_ = AlarmWatch(Calibration(calibration.scores), level, self.limit_, alpha)
        self.alarm_, self.log_wealth_ = None, 0.0
        return self

    def trace(self) -> MartingalePath:
        """Return scores, p-values and wealth of the updates so far.

        Returns
        -------
        MartingalePath
            For "alarms" the p-values are the detector's, against the calibration rows.

        Raises
        ------
        NotFittedError
            If there was no update.
        """
        if not hasattr(self, "stream_"):
            raise NotFittedError("this Monitor has seen nothing; call update(X) first")
        return self.stream_.path()


class Stream(Protocol):
    """What a monitor keeps of its stream."""

    alarm: int | None
    steps: list[tuple[float, float, float]]

    def observe(self, scores: np.ndarray) -> Stream:
        """Take in scores in order of time."""

    def path(self) -> MartingalePath:
        """Return what happened so far."""


class AlarmWatch:
    """A gambler who bets that alarms at a level are more frequent than a limit.

    Parameters
    ----------
    calibration : Calibration
        What makes a score an alarm.
    level : float in (0, 1)
        Of one alarm.
    limit : float in (0, 1)
        Share of alarms that is acceptable.
    alpha : float in (0, 1)
        Chance of a false alarm, ever.
    """

    def __init__(self, calibration: Calibration, level: float, limit: float, alpha: float) -> None:
        self.calibration, self.level, self.alpha = calibration, level, alpha
        self.gambler = MeanGambler(limit)
        self.alarm: int | None = None
        self.steps: list[tuple[float, float, float]] = []

    def observe(self, scores: np.ndarray) -> AlarmWatch:
        """Take in scores in order of time."""
        alarms = self.calibration.alarm(scores, self.level).astype(np.float64)
        wealth = self.gambler.bet(alarms)
        reached = np.flatnonzero(wealth >= -math.log(self.alpha))
        if self.alarm is None and len(reached):
            self.alarm = len(self.steps) + int(reached[0])
        columns = (scores, self.calibration.p_values(scores), wealth)
        self.steps.extend(zip(*(column.tolist() for column in columns), strict=True))
        return self

    def path(self) -> MartingalePath:
        """Return what happened so far."""
        columns = np.array(self.steps, dtype=np.float64).reshape(-1, 3)
        score, p_value, log_wealth = columns.T.copy()
        return MartingalePath(score, p_value, log_wealth, self.alpha)


def _largest_rate(n: int, level: float, miss: float) -> float:
    """Return what the rate of alarms exceeds with probability ``miss`` over n calibration rows."""
    from scipy.special import betainccinv

    rank = math.floor((n + 1) * exact_alpha(level))
    if rank == 0:
        raise ValueError(
            f"{n} calibration rows never give an alarm at level {level:g}; at least "
            f"{math.ceil(1 / exact_alpha(level)) - 1} are needed"
        )
    return float(betainccinv(rank, n + 1 - rank, miss))
