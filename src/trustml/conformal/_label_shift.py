"""Weights of classes that are more or less frequent among new rows."""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
from scipy.optimize import nnls

from trustml.conformal._lac import Lac
from trustml.conformal._scored import observed
from trustml.conformal._weights import Weights, check_weights
from trustml.core.validation import to_numpy
from trustml.model import Model
from trustml.warnings import CoverageWarning

_BLURRED = 0.05  # singular value of predictions given classes below which errors grow 20-fold


class LabelShift(Weights):
    """Weights for new rows of other class frequencies, but the same law of X given the class.

    Either the ratios are known, or they are solved for: the model's confusion matrix says how
    often each class is predicted as each, and unlabelled target rows how often each is predicted
    there.

    Parameters
    ----------
    X_target : array of shape (t, ...) or None
        Unlabelled rows of the law that new rows follow.
    ratio : array of shape (c,) or None
        Frequency of each class among new rows over that among calibration rows, in the order of
        ``classes_``, up to a factor. One of ``X_target`` and ``ratio``.
    source : (X, y) or None
        Labelled rows drawn as the calibration rows are, but none of them, for the confusion
        matrix; the ratio is then fixed without the calibration rows, which the proof asks for.
        None: the calibration rows.

    Attributes
    ----------
    ratio_ : ndarray of shape (c,)
        Given or estimated, at least 0.
    calibration_ : ndarray of shape (n,)
        Weights of the calibration rows: their classes' ratios.

    References
    ----------
    Podkopaev and Ramdas (2021), Distribution-free uncertainty quantification for classification
    under label shift, arXiv:2103.03323.
    Lipton, Wang and Smola (2018), Detecting and correcting for label shift with black box
    predictors, arXiv:1802.03916.

    Examples
    --------
    >>> import numpy as np
    >>> import trustml
    >>> from trustml.conformal import WeightedClassifier
    >>> p = np.random.default_rng(0).dirichlet([1, 1, 1], size=300)
    >>> model = trustml.precomputed("probabilities")
    >>> cp = WeightedClassifier(model, LabelShift(ratio=[2, 1, 1])).fit(p, p.argmax(1))
    >>> cp.predict_set(p[:2], alpha=0.1).shape
    (2, 3)
    """

    def __init__(self, X_target: Any = None, ratio: Any = None, source: Any = None) -> None:
        self.X_target = X_target
        self.ratio = ratio
        self.source = source

    def fit(self, model: Model, X: Any, y: np.ndarray) -> Self:
        """Find the ratios, and weigh the calibration rows by those of their classes.

        Returns
        -------
        LabelShift

        Raises
        ------
        TypeError
            If the model is no classifier.
        ValueError
            If not just one of ``X_target`` and ``ratio`` is given, or the latter is no ratio of
            each class.

        Warns
        -----
        CoverageWarning
            If a class has no labelled rows, or the predictions hardly tell some classes apart, so
            that ratios are poorly known.
        """
        if model.task != "classification":
            raise TypeError(f"LabelShift needs a classifier, got a model for {model.task}")
        if (self.X_target is None) == (self.ratio is None):
            raise ValueError("give one of X_target and ratio")
        n_classes = len(np.asarray(model.classes_))
        if self.ratio is not None:
            self.ratio_ = check_weights(to_numpy(self.ratio), n_classes, "ratio")
        elif self.source is None:
            self.ratio_ = self._solved(model, X, y, n_classes)
        else:
            labels = to_numpy(model.targets(self.source[1]))
            self.ratio_ = self._solved(model, self.source[0], labels, n_classes)
        self.calibration_ = self.ratio_[y]
        return self

    def own(self, X: Any) -> np.ndarray:
        """Return each candidate class's ratio, (1, c)."""
        return self.ratio_[None]

    def _solved(self, model: Model, X: Any, y: np.ndarray, n_classes: int) -> np.ndarray:
        guess = _predicted(model, X)
        if len(guess) != len(y):
            raise ValueError(f"source has {len(guess)} rows and {len(y)} labels; give one each")
        joint = np.zeros((n_classes, n_classes))
        np.add.at(joint, (guess, y), 1 / len(y))
        there = np.bincount(_predicted(model, self.X_target), minlength=n_classes)
        frequency = joint.sum(axis=0)
        present = frequency > 0
        if not present.all():
            warnings.warn(
                f"classes without labelled rows: {np.asarray(model.classes_)[~present].tolist()}; "
                "how frequent they are among the target rows cannot be known, and no coverage is "
                "promised for them.",
                CoverageWarning,
                stacklevel=5,
            )
        given = joint[:, present] / frequency[present]
        if np.linalg.svd(given, compute_uv=False)[-1] < _BLURRED:
            warnings.warn(
                "the model's predictions hardly tell some classes apart, so how much more frequent "
                "each is among the target rows is poorly known, and so is the coverage; give "
                "ratio=, or a better model.",
                CoverageWarning,
                stacklevel=5,
            )
        ratio = np.zeros(n_classes)
        # Frequencies, then ratios: least squares that weighs classes alike.
        ratio[present] = nnls(given, there / there.sum())[0] / frequency[present]
        return ratio


def _predicted(model: Model, X: Any) -> np.ndarray:
    pieces = [to_numpy(seen.argmax(dim=1)) for _, _, seen in observed(model, Lac(), X)]
    return np.concatenate(pieces)
