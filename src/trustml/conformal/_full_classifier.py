"""Full conformal classification, without refits."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from trustml.conformal._full_diagnosis import FullDiagnosis, few_rows
from trustml.conformal._leaving_out import leaving_out, new_rows
from trustml.conformal._plus_interval import chunks
from trustml.conformal._proximal import Kernel, pulls
from trustml.conformal._ranked import TIE, RankedClassifier
from trustml.conformal._refitting import Enlarged
from trustml.conformal._symmetry import warn_if_asymmetric
from trustml.core.batches import Data
from trustml.core.progress import track
from trustml.core.validation import check_choice, take_rows, to_numpy
from trustml.model import Model, as_model


class FullClassifier(RankedClassifier):
    """Sets of labels from the training rows alone: none are held out to calibrate.

    For every label, the model is trained with the new row under that label, and the p-value is
    the rank of its score -log p among those of the training rows. Without refits the curvature
    engine says what the training would have given: its quadratic model of the objective meets the
    exact loss of the new row. Exact training keeps P(label not in set) <= alpha; the step is near
    it where the model is at a minimum, and ``diagnose`` says how near.

    Parameters
    ----------
    model : Model or what `trustml.wrap` takes
        A classifier that was wrapped with ``train=``.
    score : {"deleted", "ordinary"}
        "deleted": -log p of a row by the model that has seen all the others; its sets are small
        with few rows. "ordinary": by the model that has seen all rows, itself included; cheaper
        where models are trained anew.
    refit : bool
        True trains anew: one model a label for "ordinary", n + 1 for "deleted", for each new row.
        The reference, also for models without gradients.
    curvature, damping : str or float
        For `trustml.influence.InfluenceFunctions`; without refits only.

    Attributes
    ----------
    model_ : Model
        The wrapped model.
    classes_ : array of shape (c,)
        Labels in the order of the columns.
    n_train_ : int
        Number of training rows.
    influence_ : InfluenceFunctions
        The engine that stands in for training; without refits only.

    References
    ----------
    Vovk, Gammerman and Shafer (2005), Algorithmic Learning in a Random World, chapter 2.
    Abad Martinez, Bhatt, Weller and Cherubin (2023), Approximating full conformal prediction at
    scale via influence functions, arXiv:2202.01315; the step here is not linear in the new row.

    Examples
    --------
    >>> import numpy as np
    >>> import trustml
    >>> from sklearn.linear_model import LogisticRegression
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(60, 2))
    >>> y = (X.sum(1) > 0).astype(int)
    >>> model = trustml.wrap(LogisticRegression().fit(X, y), train=(X, y))
    >>> full = FullClassifier(model).fit()
    >>> full.predict_set(np.array([[2.0, 2.0], [-2.0, -2.0]]), alpha=0.1)
    array([[False,  True],
           [ True, False]])
    """

    def __init__(
        self,
        model: Any,
        score: Literal["deleted", "ordinary"] = "deleted",
        refit: bool = False,
        curvature: str = "auto",
        damping: str | float = "auto",
    ) -> None:
        self.model = model
        self.score = score
        self.refit = refit
        self.curvature = curvature
        self.damping = damping

    def fit(self) -> Self:
        """Prepare the engine; nothing is trained.

        Returns
        -------
        FullClassifier
            Itself.

        Raises
        ------
        TypeError
            If the model is no classifier, or has no gradients and ``refit`` is False.

        Warns
        -----
        CoverageWarning
            If the curvature had to be damped, or a transformer of a pipeline has learnt from the
            training rows alone.
        """
        model = as_model(self.model)
        if model.task != "classification":
            raise TypeError(
                f"FullClassifier needs a classifier, got a model for {model.task}; for regression "
                "use FullRegressor"
            )
        check_choice(self.score, "score", ("deleted", "ordinary"))
        model.require_train("FullClassifier")
        train: Data = model.train  # type: ignore[assignment]
        warn_if_asymmetric(model, "FullClassifier", self.refit)
        if not self.refit:
            self.influence_ = leaving_out(model, "FullClassifier", self.curvature, self.damping)
            self._kernel = Kernel(self.influence_)
        self.model_, self.classes_ = model, np.asarray(model.classes_)
        self.n_train_ = len(train)
        return self

    def diagnose(self, X: Any, n_points: int = 3) -> FullDiagnosis:
        """Train anew for a few rows and compare their p-values.

        Parameters
        ----------
        X : array of shape (m, ...), or whatever the model takes
            New rows; labels are not needed.
        n_points : int
            How many of them are looked at, evenly spaced. Each takes c refits for the score
            "ordinary" and c (n + 1) for "deleted".

        Returns
        -------
        FullDiagnosis
        """
        check_is_fitted(self, "n_train_")
        rows = few_rows(len(new_rows(self.model_, X)), n_points)
        p = to_numpy(self.p_values(X))[rows]
        exact = np.stack([self._refitted(X, int(row)) for row in rows]) / (self.n_train_ + 1)
        return FullDiagnosis(rows=rows, p_values=p, refitted=exact)

    def _ranks(self, X: Any) -> np.ndarray:
        data = new_rows(self.model_, X)
        if self.refit:
            found = [
                self._refitted(X, i) for i in track(range(len(data)), "full: refits", len(data))
            ]
            return np.stack(found)
        o, c = self._kernel.outputs.shape[1], len(self.classes_)
        width = 3 * self.n_train_ * o * max(o, c) + self.model_.objective.space.size * o
        parts = [self._stepped(data.subset(rows)) for rows in chunks(len(data), width)]
        return np.concatenate(parts)

    def _stepped(self, rows: Data) -> np.ndarray:
        """Return the ranks of new rows without refits."""
        model, kernel, c = self.model_, self._kernel, len(self.classes_)
        outputs = model.observe(rows).outputs.double()
        spread, across = kernel.with_rows(rows)
        every = torch.arange(c, device=outputs.device)
        pull = pulls(model.objective.loss, outputs, spread, every.expand(len(outputs), c))
        # Where the row drags the training rows' outputs: (n, b, c, o).
        moved = torch.einsum("nobq,blq->nblo", across, -pull.gradient)
        if self.score == "deleted":
            moved = torch.einsum("nop,nblp->nblo", kernel.freed, moved)
            theirs = kernel.left_out[:, None, None] + moved
            own = outputs.reshape(len(outputs), 1, -1).expand_as(pull.outputs)
        else:
            theirs, own = kernel.outputs[:, None, None] + moved, pull.outputs
        labels = model.train.targets.to(theirs.device)  # type: ignore[union-attr]
        their_scores = self._scores(theirs, labels[:, None, None])
        own_scores = self._scores(own, every[None, :])
        ranks: np.ndarray = to_numpy(1 + (their_scores >= own_scores - TIE).sum(0))
        return ranks

    def _scores(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return -log p of labels by outputs (..., o)."""
        log_p = self.model_.logits_of(outputs.reshape(-1, outputs.shape[-1])).log_softmax(-1)
        log_p = log_p.reshape(*outputs.shape[:-1], -1)
        chosen = labels.expand(log_p.shape[:-1])[..., None]
        return -log_p.gather(-1, chosen)[..., 0]

    def _refitted(self, X: Any, row: int) -> np.ndarray:
        """Return the ranks (c,) of one row by real training."""
        bigger = Enlarged(self.model_, X, row)
        n, ranks = bigger.n, np.empty(len(self.classes_), dtype=int)
        for k, label in enumerate(self.classes_):
            y = bigger.targets(label)
            if self.score == "ordinary":
                scores = _log_loss(bigger.with_target(label), bigger.X, y)
            else:
                scores = np.array([
                    _log_loss(bigger.with_target(label, i), bigger.row(i), _at(y, i))[0]
                    for i in range(n + 1)
                ])  # fmt: skip
            ranks[k] = 1 + (scores[:n] >= scores[n] - TIE).sum()
        return ranks


def _at(y: Any, i: int) -> Any:
    return take_rows(y, np.array([i]))


def _log_loss(model: Model, X: Any, y: Any) -> np.ndarray:
    """Return -log p of labels; infinite for a label that the model has never seen."""
    logits = model.observe(X).logits
    if logits is None:
        raise TypeError(f"{model!r} gives no probabilities, so -log p is not defined")
    log_p = to_numpy(logits.double().log_softmax(-1))
    known = np.asarray(model.classes_)[None, :] == to_numpy(y).reshape(-1, 1)
    return -np.where(known.any(1), (np.where(known, log_p, -np.inf)).max(1), -np.inf)
