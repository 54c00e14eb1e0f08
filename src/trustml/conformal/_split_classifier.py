"""Split conformal prediction sets."""

from __future__ import annotations

import warnings
from fractions import Fraction
from typing import Any

import numpy as np

from trustml.conformal._calibration import (
    CalibrationScores,
    Condition,
    check_condition,
    group_rows,
)
from trustml.conformal._rowwise import PValueClassifier
from trustml.conformal._score import ScoreFunction
from trustml.core.random import RandomState
from trustml.model import Model
from trustml.warnings import CoverageWarning


class SplitClassifier(PValueClassifier):
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

    def _calibrate(self, model: Model, X: Any, y: np.ndarray, scores: np.ndarray) -> None:
        check_condition(self.condition, "class")
        classes = np.asarray(model.classes_)
        groups, labels = None, None
        if self.condition == "class":
            groups, labels = classes[y], classes
        elif self.condition is not None:
            groups = group_rows(self.condition, X, len(scores))
        _warn_of_missing_classes(y, classes, by_class=self.condition == "class")
        self.calibration_ = CalibrationScores(scores, groups, labels)

    def _limits(self, X: Any, n: int, alphas: list[Fraction]) -> np.ndarray:
        codes = self._codes(X, n)
        limits: np.ndarray = self.calibration_.thresholds(alphas, codes, stacklevel=3)[codes]
        return limits

    def _p_values(self, X: Any, scores: np.ndarray) -> np.ndarray:
        return self.calibration_.p_values(scores, self._codes(X, len(scores)))

    def _codes(self, X: Any, n: int) -> np.ndarray:
        """Group of every label of every row: (1, c) for classes, (n, 1) for groups of rows."""
        if self.condition == "class":
            return np.arange(len(self.classes_))[None, :]
        if self.condition is not None:
            return self.calibration_.codes(group_rows(self.condition, X, n))[:, None]
        return np.zeros((1, 1), dtype=int)


def _warn_of_missing_classes(index: np.ndarray, classes: np.ndarray, by_class: bool) -> None:
    present = np.unique(index)
    if len(present) == 1:
        warnings.warn(
            f"the calibration rows are all of class {classes[present[0]]}; coverage is promised "
            "for test rows like these only. Calibrate on rows drawn as the test rows are.",
            CoverageWarning,
            stacklevel=4,
        )
    elif by_class and len(present) < len(classes):
        missing = np.setdiff1d(np.arange(len(classes)), present)
        warnings.warn(
            f"classes without calibration rows: {classes[missing].tolist()}; they are in every "
            "set.",
            CoverageWarning,
            stacklevel=4,
        )
