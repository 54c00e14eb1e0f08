"""Split conformal prediction sets."""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from trustml.conformal._calibration import (
    CalibrationScores,
    Condition,
    check_condition,
    group_rows,
    read_alphas,
)
from trustml.conformal._score import ScoreFunction, as_score
from trustml.conformal._scored import all_scores, calibrated
from trustml.core.random import RandomState
from trustml.core.validation import restore
from trustml.model import as_model
from trustml.warnings import CoverageWarning


class SplitClassifier(BaseEstimator):
    """Sets of labels that hold the true one with probability at least 1 - alpha.

    The guarantee is marginal, over calibration and test rows that are exchangeable and that the
    model was not trained on. With a ``condition`` it holds within each group.

    Parameters
    ----------
    model : Model or what `trustml.wrap` takes
        A classifier. ``trustml.precomputed("probabilities")`` takes probabilities as X.
    score : {"lac", "aps", "raps", "saps", "topk", "margin", "entmax", "knn"}, Score or callable
        Strangeness of a class. "lac" has the smallest sets, "aps" sets that grow with the
        difficulty of the row.
    condition : None, "class", column or callable X -> groups (n,)
        "class": coverage for every true class. A column (its name in a frame, or its number) or a
        callable: coverage for every group of rows.
    random_state : int, Generator or None
        Seed of randomised scores. A row's random number is a hash of seed and row: the same
        alone or in a batch, today or tomorrow.

    Attributes
    ----------
    model_ : Model
        The wrapped model.
    classes_ : array of shape (c,)
        Labels in the order of the columns.
    calibration_ : CalibrationScores
        Sorted calibration scores by group.
    score_ : Score
        The score, with what it learnt.
    n_calibration_ : int
        Number of calibration rows, without those that the score was learnt from.

    References
    ----------
    Vovk, Gammerman and Shafer (2005), Algorithmic Learning in a Random World, chapters 2 and 4.

    Examples
    --------
    >>> import numpy as np
    >>> import trustml
    >>> probabilities = np.random.default_rng(0).dirichlet([1, 1, 1], size=100)
    >>> labels = probabilities.argmax(1)
    >>> cp = SplitClassifier(trustml.precomputed("probabilities")).fit(probabilities, labels)
    >>> cp.predict_set(probabilities[:2], alpha=0.1).shape
    (2, 3)
    """

    def __init__(
        self,
        model: Any,
        score: str | ScoreFunction = "lac",
        condition: Condition | None = None,
        random_state: RandomState = None,
    ) -> None:
        self.model = model
        self.score = score
        self.condition = condition
        self.random_state = random_state

    def fit(self, X_cal: Any, y_cal: Any) -> Self:
        """Score the calibration rows; no training.

        Parameters
        ----------
        X_cal : array of shape (n, ...), or whatever the model takes
            Rows that the model was not trained on.
        y_cal : array of shape (n,)
            Their labels, as the model knows them.

        Returns
        -------
        SplitClassifier
            Itself.

        Raises
        ------
        TypeError
            If the model is no classifier, or ``score`` is no score.

        Warns
        -----
        CoverageWarning
            If the calibration rows show one class only, or, with ``condition="class"``, lack one.
        """
        model, score = as_model(self.model), as_score(self.score)
        if model.task != "classification":
            raise TypeError(
                f"SplitClassifier needs a classifier, got a model for {model.task}; "
                "for regression use SplitRegressor"
            )
        check_condition(self.condition, "class")
        rows = calibrated(model, score, X_cal, y_cal, self.random_state)
        classes = np.asarray(model.classes_)
        groups, labels = None, None
        if self.condition == "class":
            groups, labels = classes[rows.labels], classes
        elif self.condition is not None:
            groups = group_rows(self.condition, X_cal, rows.n_given)[rows.kept]
        _warn_of_missing_classes(rows.labels, classes, by_class=self.condition == "class")
        self.calibration_ = CalibrationScores(rows.scores, groups, labels)
        self.model_, self.score_, self.seed_ = model, rows.score, rows.seed
        self.classes_, self.n_calibration_ = classes, len(rows.kept)
        return self

    def predict_set(self, X: Any, alpha: Any = 0.1) -> Any:
        """Return which labels are in each row's set.

        Parameters
        ----------
        X : array of shape (n, ...), or whatever the model takes
            New rows.
        alpha : float in (0, 1), or list of m of them
            Allowed error rate. Sets of a smaller alpha contain those of a larger one.

        Returns
        -------
        bool array of shape (n, c), or (n, c, m) for a list
            Columns in the order of ``classes_``; a row may be empty.

        Warns
        -----
        CoverageWarning
            If a group has too few calibration rows for alpha; its sets are full.
        """
        check_is_fitted(self, "calibration_")
        alphas, single = read_alphas(alpha)
        scores = all_scores(self.model_, self.score_, X, self.seed_)
        codes = self._codes(X, scores)
        limits = self.calibration_.thresholds(alphas, codes)[codes]
        sets = scores[:, :, None] <= limits
        return restore(sets[:, :, 0] if single else sets, X)

    def p_values(self, X: Any) -> Any:
        """Return the conformal p-value of every label; the set at alpha is {p > alpha}.

        Parameters
        ----------
        X : array of shape (n, ...), or whatever the model takes
            New rows.

        Returns
        -------
        array of shape (n, c)
            In (0, 1]; the true label's is super-uniform.
        """
        check_is_fitted(self, "calibration_")
        scores = all_scores(self.model_, self.score_, X, self.seed_)
        return restore(self.calibration_.p_values(scores, self._codes(X, scores)), X)

    def _codes(self, X: Any, scores: np.ndarray) -> np.ndarray:
        """Group of every label of every row: (1, c) for classes, (n, 1) for groups of rows."""
        if self.condition == "class":
            return np.arange(scores.shape[1])[None, :]
        if self.condition is not None:
            return self.calibration_.codes(group_rows(self.condition, X, len(scores)))[:, None]
        return np.zeros((1, 1), dtype=int)


def _warn_of_missing_classes(index: np.ndarray, classes: np.ndarray, by_class: bool) -> None:
    present = np.unique(index)
    if len(present) == 1:
        warnings.warn(
            f"the calibration rows are all of class {classes[present[0]]}; coverage is promised "
            "for test rows like these only. Calibrate on rows drawn as the test rows are.",
            CoverageWarning,
            stacklevel=3,
        )
    elif by_class and len(present) < len(classes):
        missing = np.setdiff1d(np.arange(len(classes)), present)
        warnings.warn(
            f"classes without calibration rows: {classes[missing].tolist()}; they are in every "
            "set.",
            CoverageWarning,
            stacklevel=3,
        )
