"""Which training labels the rest of the training data contradict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from trustml.core.results import Result
from trustml.core.validation import check_choice, check_positive_int, to_numpy
from trustml.ihvp import Objective
from trustml.influence._attributor import Attributor
from trustml.influence._influence_functions import InfluenceFunctions
from trustml.influence._tangent import leave_one_out_ridge, tangent_features
from trustml.model import Model, as_model

Method = Literal["auto", "tangent", "leave_one_out", "self_influence", "loss", "margin"]
_ROWS = 4096
_METHODS = ("auto", "tangent", "leave_one_out", "self_influence", "loss", "margin")


@dataclass(frozen=True, eq=False, repr=False)
class MislabelRanking(Result):
    """Training rows ordered by suspicion.

    Attributes
    ----------
    order : numpy.ndarray of shape (n,)
        Training rows, the most suspicious first.
    scores : numpy.ndarray of shape (n,)
        Suspicion of each row (not sorted): a squared error of "tangent", a difference of logits of
        "margin", otherwise in the unit of the training loss.
    given : numpy.ndarray of shape (n, ...)
        The labels of the training data, as class indices or numbers.
    suggested : numpy.ndarray of shape (n, ...)
        What the model predicts for the row when it has not seen it.
    method : str
        How suspicion was measured; "auto" is replaced by what it took.
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


def find_mislabeled(model: Any, method: Method = "auto") -> MislabelRanking:
    """Rank training rows by how likely their label is wrong, without refits.

    Parameters
    ----------
    model : Model, anything that ``wrap`` takes, or a fitted InfluenceFunctions or Attributor
        With its training data, and gradients.
    method : {"auto", "tangent", "leave_one_out", "self_influence", "loss", "margin"}
        "tangent": squared error of the label under ridge regression on the model's gradients
        without the row; it finds labels that the model has learnt by heart. "leave_one_out": the
        row's loss under the model that has not seen it, to one Newton step. "self_influence": how
        much the row lowers its own loss by being there. "loss": its training loss; "margin": by
        how much another class has the larger logit: two plain baselines. "auto": "tangent" for
        classifiers, "loss" for language models, "leave_one_out" for regression, "self_influence" of
        an Attributor.

    Returns
    -------
    MislabelRanking

    Notes
    -----
    Over 24 fits with 10 % flipped labels (digits, breast cancer, wine; linear models and
    perceptrons) "tangent" had a mean AUC of 0.991 and never less than 0.98 on average over two
    draws, the others down to 0.86 where the model had learnt the wrong labels by heart. Flip labels
    on purpose and ask ``mislabel_auc`` to see what holds for yours.

    References
    ----------
    Koh and Liang (2017), arXiv:1703.04730, section 5.4. Northcutt, Jiang and Chuang (2021),
    Confident learning, arXiv:1911.00068, for the use of held-out predictions. Jacot, Gabriel and
    Hongler (2018), Neural tangent kernel, arXiv:1806.07572.

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
    source = model if isinstance(model, Attributor) else as_model(model)
    if isinstance(source, Model):
        source.require_gradients("find_mislabeled")
        source.require_train("find_mislabeled")
        known, objective = source, source.objective
    else:
        source._check_fitted()
        known, objective = source.model_, source.objective_
    if method == "auto":
        method = _suited(source, known)
    targets = torch.cat([objective.targets(b) for b in objective.data.batches(_ROWS)])
    if method == "tangent":
        scores, suggested = _by_tangent(known, objective, targets)
    else:
        scores, suggested = _by_outputs(source, known, objective, targets, method)
    return MislabelRanking(
        order=np.argsort(-scores, kind="stable"),
        scores=scores,
        given=to_numpy(targets),
        suggested=suggested,
        method=method,
        classes=known.classes_,
    )


def _suited(source: Any, model: Model) -> Method:
    if not isinstance(source, (Model, InfluenceFunctions)):
        return "self_influence"
    if model.task == "language-modeling":
        return "loss"  # the others need a direction for each output of each token
    return "tangent" if model.task in ("classification", "multilabel") else "leave_one_out"


def _by_tangent(
    model: Model, objective: Objective, targets: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    if model.task == "language-modeling":
        raise TypeError('method="tangent" needs one label a row, not one a token; use "loss"')
    labels = to_numpy(targets)
    if model.task == "classification":
        numbers = np.eye(model.n_classes or 2)[labels]
    else:
        numbers = labels.reshape(len(labels), -1).astype(np.float64)
    predicted = leave_one_out_ridge(tangent_features(objective), numbers)
    scores = np.square(predicted - numbers).sum(1)
    if model.task == "classification":
        return scores, predicted.argmax(1)
    if model.task == "multilabel":
        return scores, (predicted > 0.5).astype(labels.dtype)
    return scores, predicted.reshape(labels.shape)


def _by_outputs(
    source: Any, model: Model, objective: Objective, targets: Tensor, method: str
) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(source, (Model, InfluenceFunctions)) and method == "leave_one_out":
        raise TypeError(
            f'{type(source).__name__} has no outputs without a row; use "self_influence"'
        )
    influence = source
    if isinstance(source, Model) and method in ("leave_one_out", "self_influence"):
        influence = InfluenceFunctions(source).fit()
    if isinstance(influence, InfluenceFunctions) and method in ("leave_one_out", "self_influence"):
        outputs = influence.leave_one_out_outputs()
    else:
        outputs = objective.collect(lambda batch: objective.outputs(batch.inputs))
    if method == "self_influence":
        scores = np.asarray(influence.self_influence())
    elif method == "margin":
        scores = to_numpy(_margin(model, outputs, targets))
    else:
        scores = to_numpy(objective.loss(outputs, targets))
    return scores, to_numpy(_decided(model, outputs))


def _margin(model: Model, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the largest other logit less the label's own."""
    if model.task != "classification":
        raise TypeError(f'method="margin" needs classes, and this is {model.task}; use "loss"')
    logits, own = model.logits_of(outputs), targets[:, None]
    return logits.scatter(1, own, -torch.inf).amax(1) - logits.gather(1, own)[:, 0]


def _decided(model: Model, outputs: Tensor) -> Tensor:
    if model.task in ("classification", "language-modeling"):
        return model.logits_of(outputs).argmax(-1)
    if model.task == "multilabel":
        return (outputs > 0).long()
    return torch.as_tensor(model.values_of(outputs))
