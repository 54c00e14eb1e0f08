"""Which training labels the rest of the training data contradict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from trustml.core.results import Result
from trustml.core.validation import check_choice, check_positive_int, to_numpy
from trustml.influence._influence_functions import InfluenceFunctions

_METHODS = ("leave_one_out", "self_influence")


@dataclass(frozen=True, eq=False, repr=False)
class MislabelRanking(Result):
    """Training rows ordered by suspicion.

    Attributes
    ----------
    order : numpy.ndarray of shape (n,)
        Training rows, the most suspicious first.
    scores : numpy.ndarray of shape (n,)
        Suspicion of each row (not sorted), in the unit of the training loss.
    given : numpy.ndarray of shape (n, ...)
        The labels of the training data, as class indices or numbers.
    suggested : numpy.ndarray of shape (n, ...)
        What the model predicts for the row when it has not seen it.
    method : str
        How suspicion was measured.
    classes : numpy.ndarray or None
        The user's label of each class index; None where there are no classes.
    """

    order: np.ndarray
    scores: np.ndarray
    given: np.ndarray
    suggested: np.ndarray
    method: str
    classes: np.ndarray | None = None

    @property
    def given_labels(self) -> np.ndarray:
        """The labels of the training data, as the user writes them."""
        return self.given if self.classes is None else self.classes[self.given]

    @property
    def suggested_labels(self) -> np.ndarray:
        """What the model predicts for rows that it has not seen, as the user writes labels."""
        return self.suggested if self.classes is None else self.classes[self.suggested]

    def top(self, k: int = 10) -> np.ndarray:
        """Return the k most suspicious rows.

        Parameters
        ----------
        k : int
            At most n are returned.

        Returns
        -------
        numpy.ndarray of shape (k,)
        """
        return self.order[: check_positive_int(k, "k")]

    def _title(self) -> str:
        """Return how many rows were ranked, and by what."""
        return f"MislabelRanking of {len(self.order)} training rows by {self.method}"

    def _columns(self) -> dict[str, Any]:
        columns: dict[str, Any] = {"train_row": self.order, "score": self.scores[self.order]}
        if self.given.ndim == self.suggested.ndim == 1:
            columns["given"] = self.given_labels[self.order]
            columns["suggested"] = self.suggested_labels[self.order]
        return columns


def find_mislabeled(
    model: Any, method: Literal["leave_one_out", "self_influence"] = "leave_one_out"
) -> MislabelRanking:
    """Rank training rows by how likely their label is wrong, without refits.

    Parameters
    ----------
    model : Model, anything that ``trustml.wrap`` takes, or a fitted InfluenceFunctions
        With its training data, and gradients.
    method : {"leave_one_out", "self_influence"}
        "leave_one_out": the row's loss under the model that has not seen it. "self_influence":
        how much the row lowers its own loss by being there.

    Returns
    -------
    MislabelRanking

    References
    ----------
    Koh and Liang (2017), arXiv:1703.04730, section 5.4. Northcutt, Jiang and Chuang (2021),
    Confident learning, arXiv:1911.00068, for the use of held-out predictions.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from trustml.model import wrap
    >>> X, y = load_iris(return_X_y=True)
    >>> y[3] = 2  # a setosa called virginica
    >>> model = wrap(LogisticRegression(max_iter=1000).fit(X, y), train=(X, y))
    >>> int(find_mislabeled(model).top(1)[0])
    3
    """
    check_choice(method, "method", _METHODS)
    influence = model
    if not isinstance(model, InfluenceFunctions):
        influence = InfluenceFunctions(model).fit()
    objective = influence.objective_
    outputs, targets = influence.leave_one_out_outputs(), objective.data.targets
    if method == "self_influence":
        scores = influence.self_influence()
    else:
        scores = to_numpy(objective.loss(outputs, targets))
    order = np.argsort(-scores, kind="stable")
    return MislabelRanking(
        order=order,
        scores=scores,
        given=to_numpy(targets),
        suggested=to_numpy(_decided(influence, outputs)),
        method=method,
        classes=influence.model_.classes_,
    )


def _decided(influence: InfluenceFunctions, outputs: Tensor) -> Tensor:
    model = influence.model_
    if model.task in ("classification", "language-modeling"):
        return model.logits_of(outputs).argmax(-1)
    if model.task == "multilabel":
        return (outputs > 0).long()
    return torch.as_tensor(model.values_of(outputs))
