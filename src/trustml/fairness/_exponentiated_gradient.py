"""Fair classification by weighted classification: the reductions approach."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from sklearn.base import MetaEstimatorMixin

from trustml.core.progress import track
from trustml.core.random import RandomState, numpy_generator
from trustml.core.validation import check_positive_int
from trustml.fairness._best_response import Learner
from trustml.fairness._groups import Groups
from trustml.fairness._mitigator import FairClassifier
from trustml.fairness._moments import Moments, moments_of
from trustml.fairness._saddle_point import Game
from trustml.warnings import ConvergenceWarning


class ExponentiatedGradient(MetaEstimatorMixin, FairClassifier):
    r"""The most accurate randomised classifier whose gap between groups is at most ``eps``.

    A game between a learner, who answers multipliers :math:`\lambda` with a fit to reweighted and
    relabelled rows, and an auditor, who answers the hypotheses found so far with multipliers:

    .. math:: \min_Q \max_{\lambda \ge 0}\; \mathrm{err}(Q)
              + \sum_k \lambda_k \left(\mathrm{gap}_k(Q) - \mathrm{eps}\right).

    The saddle point over the hypotheses found is a small linear programme; its multipliers, drawn
    to the best ones so far, are the next question. This needs fewer fits than the multiplicative
    updates that gave the method its name; a few of those follow where the learner was caught with
    an answer worse than one that it gave before. The two constant decisions are among the
    hypotheses, so the gap on the training rows is at most ``eps`` always. If the learner minimises
    the weighted error of decisions, no mixture of its hypotheses with such a gap errs less by more
    than ``best_gap_``. Logistic regressions and trees minimise it only nearly: theirs is a bound
    for the hypotheses that were found, and others may err less.

    Parameters
    ----------
    estimator : classifier
        Its ``fit`` takes ``sample_weight``; the last step of a pipeline will do. Logistic
        regressions are started where the last one ended.
    constraints : str
        ``"demographic_parity"``, ``"equal_opportunity"``, ``"predictive_equality"``,
        ``"equalized_odds"`` or ``"error_parity"``.
    eps : float
        The largest difference between any two groups that is allowed on the training rows.
    max_iter : int
        Largest number of fits.
    nu : float or None
        The duality gap, in units of the error, at which to stop; None takes half a standard error
        of the unmitigated model's error.
    deterministic : bool
        Decide by the mean of the hypotheses' own probabilities, or by one hypothesis, whichever
        has the smaller sum of error and gap beyond ``eps``. The gap may then exceed ``eps``.
    pos_label : object or None
        The favourable label; None takes the second of the sorted labels.
    random_state : int, numpy.random.Generator, torch.Generator or None
        Seed of the drawn decisions.

    Attributes
    ----------
    predictors_ : list
        The hypotheses that are drawn from.
    weights_ : numpy.ndarray of shape (t,)
        The probability of each.
    best_gap_ : float
        Error on the training rows minus the lower bound that the learner's answers give; a
        certificate for exact learners alone.
    training_gap_, training_error_ : float
        Expected gap and 0-1 error on the training rows.
    multipliers_ : numpy.ndarray of shape (k,)
        The price of each compared group mean, error per unit of rate.
    n_iter_ : int
        Fits that were made.
    nu_ : float
        The duality gap that was asked for.

    References
    ----------
    Agarwal, Beygelzimer, Dudik, Langford and Wallach (2018), A reductions approach to fair
    classification, arXiv:1803.02453.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> rng = np.random.default_rng(0)
    >>> s = rng.integers(0, 2, 2000)
    >>> X = np.c_[rng.normal(size=2000) + s, rng.normal(size=2000)]
    >>> y = (X.sum(1) + rng.logistic(size=2000) > 0.5).astype(int)
    >>> fair = ExponentiatedGradient(LogisticRegression(), "demographic_parity", random_state=0)
    >>> fair = fair.fit(X, y, sensitive_features=s)
    >>> bool(fair.training_gap_ <= 0.01 + 1e-9)
    True
    >>> fair.predict_proba(X).shape
    (2000, 2)
    """

    def __init__(
        self,
        estimator: Any,
        constraints: str = "equalized_odds",
        eps: float = 0.01,
        max_iter: int = 50,
        nu: float | None = None,
        *,
        deterministic: bool = False,
        pos_label: Any = None,
        random_state: RandomState = None,
    ) -> None:
        self.estimator = estimator
        self.constraints = constraints
        self.eps = eps
        self.max_iter = max_iter
        self.nu = nu
        self.deterministic = deterministic
        self.pos_label = pos_label
        self.random_state = random_state

    def _fit(
        self, X: Any, y: np.ndarray, groups: Groups, sample_weight: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        check_positive_int(self.max_iter, "max_iter")
        if not 0 <= self.eps < math.inf:
            raise ValueError(f"eps must be a difference of rates, at least 0, got {self.eps}")
        if self.nu is not None and not 0 <= self.nu < math.inf:
            raise ValueError(f"nu must be a difference of errors, at least 0, or None: {self.nu}")
        moments = moments_of(self.constraints, groups, y, sample_weight)
        labels = sorted(self.classes_.tolist(), key=self._favourable().__eq__)
        learner = Learner(self.estimator, X, moments, labels)
        game = self._play(moments, learner)
        hypotheses, atoms, weights = game.hypotheses, game.atoms, game.weights
        if self.deterministic:
            weights = self._best_single(moments, learner, hypotheses, atoms, weights)
        support = np.flatnonzero(weights > 0)
        first = learner.decisions(hypotheses[2:3])[:, 0]
        self.predictors_ = [hypotheses[t] for t in support]
        self.weights_ = weights[support]
        self.seed_ = None
        if not self.deterministic:
            self.seed_ = int(numpy_generator(self.random_state).integers(2**31))
        self._learner = learner
        decided = self._probability(None)
        learner.forget()
        made = decided > 0.5 if self.deterministic else decided
        reached = moments.atom_rates(made)[:, None]
        self.training_gap_ = float(moments.gap(reached)[0])
        self.training_error_ = float(moments.errors(reached)[0])
        return made.astype(np.float64), first

    def _probability(self, X: Any) -> np.ndarray:
        votes = self._votes(self._learner, self.predictors_, X)
        return np.asarray((votes @ self.weights_).clip(0, 1))

    def _votes(self, learner: Learner, hypotheses: list[Any], X: Any = None) -> np.ndarray:
        """Return what the hypotheses say of rows, shape (n, t): what is drawn, or averaged."""
        if not self.deterministic:
            return learner.decisions(hypotheses, X)
        return np.stack([learner.probability(h, X) for h in hypotheses], axis=1)

    def _play(self, moments: Moments, learner: Learner) -> Game:
        """Ask for hypotheses until the saddle point is found."""
        calls = track(range(self.max_iter), "fitting fair hypotheses")
        next(calls)
        game = Game(moments, learner, self.eps)
        self.nu_ = self._tolerance(moments, game.atoms[:, 2:]) if self.nu is None else self.nu
        game.close(calls, self.nu_)
        if game.missed > self.nu_:
            # Its answers prove little, and others may do better.
            game.ask_apart(calls)
            game.close(calls, self.nu_)
        self.n_iter_ = len(game.hypotheses) - 2
        self.best_gap_, self.multipliers_ = max(game.value - game.best, 0.0), game.price
        if self.best_gap_ > self.nu_:
            warnings.warn(
                f"after {self.max_iter} fits the error may be {self.best_gap_:.2g} above the "
                f"smallest reachable (asked: {self.nu_:.2g}); raise max_iter or nu",
                ConvergenceWarning,
                stacklevel=4,
            )
        return game

    @staticmethod
    def _tolerance(moments: Moments, atoms: np.ndarray) -> float:
        error = float(moments.errors(atoms)[0])
        return 0.5 * math.sqrt(max(error * (1 - error), 1e-12) / moments.weight.sum())

    def _best_single(
        self,
        moments: Moments,
        learner: Learner,
        hypotheses: list[Any],
        atoms: np.ndarray,
        weights: np.ndarray,
    ) -> np.ndarray:
        """Return weights of the mean vote, or of one hypothesis that does better."""
        support = np.flatnonzero(weights)
        votes = self._votes(learner, [hypotheses[t] for t in support])
        together = moments.atom_rates(votes @ weights[support] > 0.5)
        candidates = np.column_stack([together, atoms])
        loss = moments.errors(candidates) + (moments.gap(candidates) - self.eps).clip(0)
        choice = int(loss.argmin())
        return weights if choice == 0 else np.eye(atoms.shape[1])[choice - 1]
