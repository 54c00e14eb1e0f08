"""The smallest set of training rows without which a prediction would be another."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from torch import Tensor

from trustml.core.batches import Inputs, as_data, batch_length
from trustml.core.results import Result
from trustml.core.validation import check_positive_int, to_numpy
from trustml.influence._influence_functions import InfluenceFunctions
from trustml.influence._perturbation import check_influence
from trustml.influence._removal import DOUBTFUL
from trustml.model import Model
from trustml.warnings import ConvergenceWarning

_ROUNDS = 5  # Newton steps, and refits, on the way to a flip
_RIVALS = 5  # other classes that are tried, the likeliest first
_ROWS = 4096
_MORE = 0.1  # of the rows found are added at a time where a refit does not flip


@dataclass(frozen=True, eq=False, repr=False)
class FlippingSubset(Result):
    """Training rows whose removal flips a prediction.

    Attributes
    ----------
    indices : numpy.ndarray of shape (m,)
        The rows, the most important first; empty if none were found.
    found : bool
        Whether removing them flips the prediction, by the best evidence there is.
    verified_by : str or None
        "refit" (a model trained anew), "newton" (one Newton step), or None if nothing was found.
    margin : float
        Score of the predicted class minus that of the runner-up, before.
    margin_first_order, margin_newton, margin_refit : float
        The same margin without the rows, as predicted and as measured; negative: flipped. NaN
        where it was not computed.
    reason : str
        Why this set, or why none.
    """

    indices: np.ndarray
    found: bool
    verified_by: str | None
    margin: float
    margin_first_order: float
    margin_newton: float
    margin_refit: float
    reason: str

    def __len__(self) -> int:
        return len(self.indices)

    def _columns(self) -> dict[str, Any]:
        return {"training row": self.indices}

    def _title(self) -> str:
        return f"FlippingSubset({len(self)} rows, found={self.found}): {self.reason}"


def flipping_subset(
    influence: InfluenceFunctions,
    x: Any,
    *,
    max_rows: int | None = None,
    refit: bool | None = None,
) -> FlippingSubset:
    """Return few training rows without which a prediction would be another.

    Rows are taken in the order of their effect on the margin between the predicted class and the
    runner-up until its predicted sum flips it, then as many as a Newton step without them
    confirms; where the step falls short, effects are computed anew at the new parameters. A refit
    has the last word, and stands in for a step that is too short a way. Greedy: a smaller set may
    exist.

    Parameters
    ----------
    influence : InfluenceFunctions
        Fitted, of a classifier.
    x : array-like of shape (1, ...)
        One row, as the model takes it.
    max_rows : int or None
        At most so many; None allows half of the training rows.
    refit : bool or None
        Verify with ``Model.retrain``. None: where the model can be trained anew.

    Returns
    -------
    FlippingSubset
        With ``found`` False and a ``reason`` where no set flips it.

    Raises
    ------
    ValueError
        If ``x`` is not one row, or the model is no classifier.

    References
    ----------
    Yang, Jain and Wallace (2023), How many and which training points would need to be removed to
    flip this prediction?, arXiv:2302.02169, algorithms 1 and 2.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from trustml.influence import InfluenceFunctions
    >>> from trustml.model import wrap
    >>> X, y = load_iris(return_X_y=True)
    >>> model = wrap(LogisticRegression(tol=1e-8, max_iter=5000).fit(X, y), train=(X, y))
    >>> found = flipping_subset(InfluenceFunctions(model).fit(), X[70:71])
    >>> found.found, found.verified_by
    (True, 'refit')
    """
    check_influence(influence, "flipping_subset")
    model = influence.model_
    if model.task != "classification":
        raise ValueError(f"flipping_subset needs a classifier, this model's task is {model.task}")
    inputs = model.inputs(x)
    if batch_length(inputs) != 1:
        raise ValueError(f"flipping_subset asks about one row, got {batch_length(inputs)}")
    n = len(influence.objective_.data)
    limit = max(1, n // 2) if max_rows is None else check_positive_int(max_rows, "max_rows")
    retrains = model.refit is not None if refit is None else refit
    search = _Search(influence, inputs, min(limit, n - 1), retrains)
    rows, rest, reason = search.newton()
    refitted = float("nan")
    if len(rows) and retrains:
        rows, refitted, reason = search.refit(rows, rest)
    return search.result(rows, refitted, reason)


class _Search:
    """Which rows to take, and what the model says of the one row without them."""

    def __init__(
        self, influence: InfluenceFunctions, inputs: Inputs, limit: int, retrains: bool
    ) -> None:
        self.influence, self.inputs, self.limit = influence, inputs, limit
        self.retrains = retrains
        self.model = influence.model_
        self.n = len(influence.objective_.data)
        logits = self.logits(self.model)
        self.own = int(logits.argmax())
        # A few of the likeliest others: the easiest flip is to one of them.
        self.rivals = [c for c in logits.argsort(descending=True).tolist() if c != self.own][
            :_RIVALS
        ]

    def logits(self, model: Model) -> Tensor:
        return model.logits_of(model.outputs(self.inputs)).detach()[0].double()

    def margin(self, model: Model) -> float:
        logits = self.logits(model)
        others = logits[torch.arange(len(logits), device=logits.device) != self.own]
        return float(logits[self.own] - others.max())

    def stepped(self, rows: np.ndarray) -> tuple[Model, float]:
        """Return the model after Newton steps without some rows, and what is left of their pull."""
        with warnings.catch_warnings():
            # How far the step can be trusted is in the reason.
            warnings.simplefilter("ignore", ConvergenceWarning)
            moved = self.influence.remove(rows)
        return moved, self.influence.removal_.remaining

    def without(self, rows: np.ndarray) -> tuple[Model, str]:
        """Return the model without some rows, and how: by a Newton step if it reaches so far."""
        moved, left = self.stepped(rows)
        if left <= DOUBTFUL:
            return moved, "a Newton step"
        if self.retrains and self._trainable(rows):
            return self.retrained(rows), "a refit"
        return moved, f"a Newton step that leaves {left:.0%} of the rows' pull (a refit is surer)"

    def retrained(self, rows: np.ndarray) -> Model:
        return self.model.retrain(np.setdiff1d(np.arange(self.n), rows))

    def _trainable(self, rows: np.ndarray) -> bool:
        """Whether every class is left: an estimator trained without one would not know it."""
        if not hasattr(self.model.estimator, "classes_"):
            return True
        objective = self.influence.objective_
        labels = to_numpy(torch.cat([objective.targets(b) for b in objective.data.batches(_ROWS)]))
        return len(np.unique(np.delete(labels, rows))) == len(np.unique(labels))

    def effects(self, influence: InfluenceFunctions) -> tuple[float, np.ndarray]:
        """Return the margin that is easiest to flip, and the effect of each row's absence on it."""
        found = []
        for rival in self.rivals:

            def gap(outputs: Tensor, *_: Any, rival: int = rival) -> Tensor:
                logits = influence.model_.logits_of(outputs)
                return logits[:, self.own] - logits[:, rival]

            effects = to_numpy(influence.scores(as_data(self.inputs), measure=gap).values)[0]
            now = float(gap(influence.model_.outputs(self.inputs)).detach()[0])
            reach = now + np.cumsum(np.sort(effects))
            rows = int(np.argmax(reach < 0)) if reach.min() < 0 else self.n
            found.append((rows, now, effects.astype(np.float64)))
        _, now, effects = min(found, key=lambda item: item[:2])
        return now, effects

    def newton(self) -> tuple[np.ndarray, np.ndarray, str]:
        """Return rows without which a Newton step flips the prediction, those next in line, why."""
        taken: np.ndarray = np.empty(0, dtype=np.int64)
        influence, left = self.influence, np.arange(self.n)
        for round_ in range(_ROUNDS):
            now, effects = self.effects(influence)
            order = np.argsort(effects, kind="stable")
            order = order[effects[order] < 0]
            reach = now + np.cumsum(effects[order])
            k = int(np.argmax(reach < 0)) + 1 if len(order) and reach.min() < 0 else len(order)
            k = min(k, self.limit - len(taken))
            if k <= 0:
                break
            rows = np.concatenate([taken, left[order]])
            moved, how = self.without(rows[: len(taken) + k])
            if self.margin(moved) < 0:
                m = self._fewest(rows, len(taken), len(taken) + k)
                return rows[:m], rows[m:], f"confirmed by {how}, in round {round_ + 1}"
            taken = rows[: len(taken) + k]
            left = np.setdiff1d(np.arange(self.n), taken)
            influence = clone(self.influence)
            influence.set_params(model=moved, damping=self.influence.damping_.value).fit()
        limit = f"the limit of {self.limit} rows" if len(taken) >= self.limit else "the search"
        reason = "no row's absence is predicted to lower the margin"
        if len(taken):
            moved, how = self.without(taken)
            reason = f"{limit} ended with a margin of {self.margin(moved):.3g} left, by {how}"
        return np.empty(0, dtype=np.int64), taken, reason

    def _fewest(self, rows: np.ndarray, low: int, high: int) -> int:
        """Return how many of the rows, in order, are enough; ``high`` are."""
        while high - low > 1:
            middle = (low + high) // 2
            if self.margin(self.without(rows[:middle])[0]) < 0:
                high = middle
            else:
                low = middle
        return high

    def refit(self, rows: np.ndarray, rest: np.ndarray) -> tuple[np.ndarray, float, str]:
        """Train anew without the rows, adding the next ones until the prediction flips."""
        margin = math.nan
        for _ in range(_ROUNDS):
            if not self._trainable(rows):
                if math.isnan(margin):
                    how = self.without(rows)[1]
                    return rows, margin, f"confirmed by {how}; a class is gone, so no refit can"
                break
            margin = self.margin(self.retrained(rows))
            if margin < 0:
                return rows, margin, "confirmed by a refit without the rows"
            more = min(max(1, int(_MORE * len(rows))), self.limit - len(rows), len(rest))
            if more <= 0:
                break
            rows, rest = np.concatenate([rows, rest[:more]]), rest[more:]
        told = f"a refit without {len(rows)} rows keeps the prediction (margin {margin:.3g})"
        return np.empty(0, dtype=np.int64), margin, f"{told}, though a Newton step flips it"

    def result(self, rows: np.ndarray, refitted: float, reason: str) -> FlippingSubset:
        """Put together what was found."""
        now, effects = self.effects(self.influence)
        found = len(rows) > 0
        return FlippingSubset(
            indices=rows,
            found=found,
            verified_by=None if not found else ("newton" if math.isnan(refitted) else "refit"),
            margin=self.margin(self.model),
            margin_first_order=now + float(effects[rows].sum()) if found else float("nan"),
            margin_newton=self.margin(self.stepped(rows)[0]) if found else float("nan"),
            margin_refit=refitted,
            reason=reason,
        )
