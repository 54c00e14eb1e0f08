"""Why a row is out of distribution: its nearest training rows, its classes, its inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from trustml.core.results import Result
from trustml.core.validation import check_positive_int, to_numpy
from trustml.evidence import pvalues
from trustml.ood._detector import Detector
from trustml.ood._explain_inputs import slopes
from trustml.ood._explain_rows import nearest_rows
from trustml.ood._layered import Layered
from trustml.ood._seen import UnsuitableError

T = TypeVar("T")


@dataclass(frozen=True, eq=False, repr=False)
class OodExplanation(Result):
    """Why rows have the scores they have.

    Attributes
    ----------
    score : array of shape (n,)
        Higher = more out of distribution.
    p_value : array of shape (n,) or None
        Against the calibration rows.
    classes : array of shape (c,) or None
        The labels, in the order of ``class_p_value``.
    class_p_value : array of shape (n, c) or None
        Against the calibration rows of each class alone: of a row that belongs to no class, all
        are small.
    nearest : integer array of shape (n, k) or None
        Training rows, the nearest in the Fisher metric first.
    distance : array of shape (n, k) or None
        How far they are: the length of the difference of the gradients of the model's answers,
        in the unit of its inverse curvature.
    layers : list of str or None
        The inner layers, in the order of ``layer_p_value``.
    layer_p_value : array of shape (n, l) or None
        Of each layer's part of the score, against the calibration rows.
    attribution : array of shape (n, ...) or None
        Gradient of the score with respect to the inputs: what raises it.
    left_out : dict of str to str
        Of the parts that are None, why.
    """

    score: NDArray[np.float64]
    p_value: NDArray[np.float64] | None
    classes: NDArray[Any] | None
    class_p_value: NDArray[np.float64] | None
    nearest: NDArray[np.int64] | None
    distance: NDArray[np.float64] | None
    layers: list[str] | None
    layer_p_value: NDArray[np.float64] | None
    attribution: NDArray[np.float64] | None
    left_out: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return n, the number of rows."""
        return len(self.score)

    def _columns(self) -> dict[str, Any]:
        columns: dict[str, Any] = {"score": self.score}
        if self.p_value is not None:
            columns["p_value"] = self.p_value
        if self.class_p_value is not None and self.classes is not None:
            best = self.class_p_value.argmax(axis=1)
            columns["most_like_class"] = self.classes[best]
            columns["its_p_value"] = self.class_p_value[np.arange(len(best)), best]
        if self.nearest is not None and self.distance is not None:
            columns["nearest"] = self.nearest[:, 0]
            columns["distance"] = self.distance[:, 0]
        if self.layer_p_value is not None and self.layers is not None:
            columns["strangest_layer"] = np.array(self.layers)[self.layer_p_value.argmin(axis=1)]
            columns["layer_p_value"] = self.layer_p_value.min(axis=1)
        return columns


def explain(detector: Detector, X: Any, k: int = 5, max_rows: int = 5000) -> OodExplanation:
    r"""Explain the scores of rows.

    Four questions are answered, those of them that the model and the detector allow (see
    ``left_out``): which training rows the model would answer from, which class the row is most
    like, in which layer it is strange, and which inputs raise the score.

    The nearest rows are those of the Fisher kernel :math:`g' (G + \lambda)^{-1} g'`, with g the
    gradient of the answer - the score of the predicted class, less the mean of all, or the
    predicted values - with respect to the last layer, and G its Gauss-Newton matrix on the
    training rows.

    Parameters
    ----------
    detector : Detector
        Fitted; for p-values calibrated, for those of each class with labels.
    X : array, tensor, frame, Dataset or DataLoader of n rows
        Rows to explain.
    k : int
        How many training rows.
    max_rows : int
        Among at most so many of the model's training rows, evenly spaced.

    Returns
    -------
    OodExplanation

    Raises
    ------
    TypeError
        If ``detector`` is not a `Detector`.

    References
    ----------
    Jaakkola and Haussler (1999), Exploiting generative models in discriminative classifiers, for
    the Fisher kernel.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from trustml import wrap
    >>> from trustml.ood import Mahalanobis
    >>> X, y = load_iris(return_X_y=True)
    >>> model = wrap(LogisticRegression(max_iter=1000).fit(X, y), train=(X, y))
    >>> found = explain(Mahalanobis(model).fit(X, y), X[:1] + [0.0, 9.0, 0.0, 0.0], k=3)
    >>> y[found.nearest].tolist(), int(abs(found.attribution[0]).argmax())
    ([[0, 0, 0]], 1)
    """
    if not isinstance(detector, Detector):
        raise TypeError(
            f"detector must be a fitted Detector, got {type(detector).__name__}; of a Suite take "
            "one: suite.detectors_[name]"
        )
    score = np.asarray(to_numpy(detector.score(X)), dtype=np.float64)
    model, left_out = detector.model_, dict[str, str]()
    calibration = getattr(detector, "calibration_", None)
    p_value = by_class = names = None
    if calibration is None:
        left_out["p_value"] = left_out["class_p_value"] = "calibrate(X_cal, y_cal) was not called"
    else:
        p_value = np.asarray(to_numpy(detector.p_values(X)), dtype=np.float64)
        if calibration.classes is None or calibration.weights is not None:
            left_out["class_p_value"] = "calibrate(X_cal, y_cal) was not given labels alone"
        else:
            present, own = np.unique(calibration.classes), calibration.scores
            columns = [pvalues(own[calibration.classes == c], score) for c in present]
            by_class = np.stack(columns, axis=1)
            names = present if model.classes_ is None else np.asarray(model.classes_)[present]
    check_positive_int(k, "k")
    by_layer = _part("layer_p_value", left_out, lambda: _by_layer(detector, X))
    rows = _part("nearest", left_out, lambda: nearest_rows(model, X, k, max_rows))
    attribution = _part("attribution", left_out, lambda: slopes(detector, X))
    nearest, distance = rows or (None, None)
    layers, layer_p_value = by_layer or (None, None)
    return OodExplanation(
        score, p_value, names, by_class, nearest, distance, layers, layer_p_value, attribution,
        left_out,
    )  # fmt: skip


def _by_layer(detector: Detector, X: Any) -> tuple[list[str], NDArray[np.float64]]:
    """Return the inner layers of a detector, and the p-values (n, l) of their scores."""
    if not isinstance(detector, Layered) or not detector.layers_:
        raise UnsuitableError("the score is not a sum over inner layers")
    calibration = getattr(detector, "calibration_", None)
    if calibration is None or calibration.by_layer is None or calibration.weights is not None:
        raise UnsuitableError(
            "the scores of each layer were not kept: call calibrate(X_cal) of the detector itself, "
            "without weights"
        )
    scores = np.asarray(to_numpy(detector.score_layers(X)), dtype=np.float64)
    pairs = zip(calibration.by_layer.T, scores.T, strict=True)
    return detector.layers_, np.stack([pvalues(own, new) for own, new in pairs], axis=1)


def _part(name: str, left_out: dict[str, str], find: Callable[[], T]) -> T | None:
    try:
        return find()
    except UnsuitableError as error:
        left_out[name] = str(error)
        return None
