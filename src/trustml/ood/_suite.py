"""Many detectors, one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from trustml.core.validation import check_alpha, restore
from trustml.model import Model, as_model
from trustml.ood._calibration import Calibration, Ratio
from trustml.ood._detector import Detector, as_scores
from trustml.ood._roster import Choice, make
from trustml.ood._saving import load, save
from trustml.ood._stream import learn, score
from trustml.ood._table import DetectorTable

Scores = NDArray[np.float64]


class Suite(BaseEstimator):
    """Detectors that share one forward pass in each of ``fit``, ``score`` and ``calibrate``.

    Parameters
    ----------
    model : Model or estimator
        What the rows are judged with.
    detectors : "all" or sequence of str, type or Detector
        "all" takes every detector that fits the model and the data, and keeps the reasons of
        those that do not in ``left_out_``; of a list, one that does not fit is an error.

    Attributes
    ----------
    detectors_ : dict of str to Detector
        The fitted detectors by column name.
    left_out_ : dict of str to str
        Name and reason of each detector that "all" left out.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> suite = Suite(LogisticRegression(max_iter=1000).fit(X, y), ["Msp", "Energy"]).fit(X)
    >>> suite.score(X).columns
    ('Msp', 'Energy')
    """

    model_: Model
    detectors_: dict[str, Detector]
    left_out_: dict[str, str]

    def __init__(self, model: Any, detectors: str | Sequence[Choice] = "all") -> None:
        self.model = model
        self.detectors = detectors

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn what in-distribution looks like, in one forward pass.

        Parameters
        ----------
        X : array, tensor, frame, Dataset or DataLoader of n rows
            In-distribution rows, usually the training data.
        y : array of shape (n,) or None
            Their labels; None takes the model's predictions.

        Returns
        -------
        Suite
            Itself; an earlier fit and its calibration are forgotten.
        """
        model, members = as_model(self.model), make(self.detectors, self.model)
        strict = not isinstance(self.detectors, str)
        self.detectors_, self.left_out_ = learn(members, model, X, y, strict=strict)
        self.model_ = model
        return self

    def save(self, path: str | PathLike[str]) -> None:
        """Write all detectors to a folder: tensors (safetensors) and a JSON manifest, no pickle.

        A part that is neither numbers nor text is refused with a TypeError that names it.

        Parameters
        ----------
        path : str or Path
            A new folder, or one with an earlier save for the same model, which is replaced; a
            folder that belongs to another model is refused with a ``StoreMismatchError``.
        """
        save(self, path)

    @classmethod
    def load(cls, path: str | PathLike[str], model: Any) -> Self:
        """Return the suite that ``save`` wrote; for another model a ``StoreMismatchError``.

        Parameters
        ----------
        path : str or Path
            The folder.
        model : Model or estimator
            The same model as then: nothing of it is in the folder but its fingerprint.

        Returns
        -------
        Suite
            Fitted, and calibrated if it was.
        """
        return load(path, model, cls)

    def score(self, X: Any) -> DetectorTable:
        """Return every detector's scores, in one forward pass.

        Parameters
        ----------
        X : array, tensor, frame, Dataset or DataLoader of n rows
            Rows to judge.

        Returns
        -------
        DetectorTable
            Values of shape (n, k), higher = more out of distribution.
        """
        return self._table(X, "score", lambda _, scores, __: scores)

    def calibrate(self, X_cal: Any, y_cal: Any = None, weights: Ratio | None = None) -> Self:
        """Keep every detector's scores of in-distribution rows, in one forward pass.

        Parameters
        ----------
        X_cal : array, tensor, frame, Dataset or DataLoader of n rows
            In-distribution rows used neither to train the model nor in ``fit``.
        y_cal : array of shape (n,) or None
            Their labels: the guarantees then hold within each of these classes.
        weights : callable X -> (n,) or None
            Density of the rows to judge over that of the calibration rows, on any scale.

        Returns
        -------
        Suite
            Itself.
        """
        found = self._scores(X_cal)
        first = Calibration.of(next(iter(found.values())), self.model_, X_cal, y_cal, weights)
        for name, scores in found.items():
            self.detectors_[name].calibration_ = replace(first, scores=scores)
        return self

    def p_values(self, X: Any) -> DetectorTable:
        """Return every detector's conformal p-values.

        Parameters
        ----------
        X : array, tensor, frame, Dataset or DataLoader of n rows
            Rows to judge.

        Returns
        -------
        DetectorTable
            Values of shape (n, k); small = unlike the calibration rows.
        """
        self._check_calibrated()
        return self._table(X, "p-value", lambda c, s, w: c.calibration_.p_values(s, w))

    def alarm(self, X: Any, alpha: float = 0.05) -> DetectorTable:
        """Return every detector's alarms, each at false-alarm rate ``alpha``.

        Parameters
        ----------
        X : array, tensor, frame, Dataset or DataLoader of n rows
            Rows to judge.
        alpha : float in (0, 1)
            Allowed probability of an alarm on an in-distribution row, of one detector; an
            alarm of any of k detectors may be k times as likely (`Fused` gives one verdict).

        Returns
        -------
        DetectorTable
            Booleans of shape (n, k).
        """
        alpha = check_alpha(alpha)
        self._check_calibrated()
        return self._table(X, "alarm", lambda c, s, w: c.calibration_.alarm(s, alpha, w))

    def discoveries(self, X: Any, q: float = 0.1) -> DetectorTable:
        """Return every detector's discoveries in a batch, at false discovery rate ``q``.

        Parameters
        ----------
        X : array, tensor, frame, Dataset or DataLoader of n rows
            A batch, judged together.
        q : float in (0, 1)
            Allowed expected share of in-distribution rows among one detector's discoveries.

        Returns
        -------
        DetectorTable
            Booleans of shape (n, k).
        """
        self._check_calibrated()
        return self._table(X, "discovery", lambda c, s, w: c.calibration_.discoveries(s, q, w))

    def _table(
        self,
        X: Any,
        quantity: str,
        say: Callable[[Detector, Scores, Scores | None], NDArray[Any]],
    ) -> DetectorTable:
        columns, weighed = {}, {}
        for name, scores in self._scores(X).items():
            detector, weights = self.detectors_[name], None
            if quantity != "score":
                ratio = detector.calibration_.ratio
                if ratio not in weighed:  # a density ratio may cost more than a score
                    weighed[ratio] = detector.calibration_.weigh(X, len(scores))
                weights = weighed[ratio]
            columns[name] = say(detector, scores, weights)
        values = restore(np.stack(list(columns.values()), axis=1), X)
        return DetectorTable(values, tuple(columns), quantity)

    def _scores(self, X: Any) -> dict[str, NDArray[np.float64]]:
        self._check_fitted()
        found = score(self.detectors_, self.model_, X)
        return {name: as_scores(scores) for name, scores in found.items()}

    def _check_fitted(self) -> None:
        if not hasattr(self, "model_"):
            raise NotFittedError("this Suite is not fitted; call fit(X_in) first")

    def _check_calibrated(self) -> None:
        self._check_fitted()
        if not all(hasattr(detector, "calibration_") for detector in self.detectors_.values()):
            raise NotFittedError(
                "this Suite is not calibrated; call calibrate(X_cal) with in-distribution rows "
                "that fit did not see"
            )
