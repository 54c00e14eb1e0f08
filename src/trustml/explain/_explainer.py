"""The face of an explainer, and of those that read gradients."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from trustml.core.batches import Batch, as_data, map_batches
from trustml.core.validation import as_tensor, frame_columns, restore
from trustml.explain._explanation import Explanation
from trustml.explain._gradients import Field
from trustml.explain._question import Question, ask
from trustml.model import Model, as_model
from trustml.warnings import ConvergenceWarning

_ROWS = 64  # rows of one call; each has many points
_POOR = 0.01  # a relative gap above this is worth a warning


class Explainer(BaseEstimator, ABC):
    """A way to share out a model's output among the features of a row.

    Subclasses store their parameters untouched, as scikit-learn's estimators do; ``adds_up``
    says whether attributions sum to the output minus the base value by construction.
    """

    method: ClassVar[str]
    adds_up: ClassVar[bool] = False
    model: Any
    output: str

    @abstractmethod
    def attribute(self, X: Any, target: Any = None, y: Any = None) -> Explanation:
        """Return the attributions of the rows of ``X``."""


@dataclass(frozen=True, eq=False)
class Attribution:
    """A batch's attributions; the field's column axis is there only if the field has it.

    Attributes
    ----------
    values : Tensor of shape (n, *features[, c])
    base, gap : Tensor of shape (n[, c]), or None
        Output at the baseline, and by how much the sums miss the output.
    miss : Tensor of shape (n,), or None
        The gap as a share of the output's size and variation, where it should be nothing.
    passes : Tensor of shape (n,)
    plan : object
        What ``again`` needs to take the same attributions with a graph.
    """

    values: Tensor
    base: Tensor | None
    gap: Tensor | None
    miss: Tensor | None
    passes: Tensor
    plan: Any


class GradientExplainer(Explainer, ABC):
    """An explainer made of input gradients: it can itself be differentiated.

    A subclass implements ``explain`` and ``again``; rows must not depend on each other.
    """

    def attribute(
        self, X: Any, target: Any = None, y: Any = None, uncertainty: bool = False
    ) -> Explanation:
        """Return the attributions of the rows of ``X``.

        Parameters
        ----------
        X : array-like of shape (n, *features)
            Rows in input units.
        target : label, array of labels, or None
            The class (or output index) to explain, the same for all rows or one a row. None
            explains all outputs, along a last axis; one-output models have no such axis.
        y : array-like of shape (n,) or None
            True labels, for ``output="loss"``.
        uncertainty : bool
            Fill ``uncertainty`` with standard errors, through the engine; needs ``train``.

        Returns
        -------
        Explanation
            Arrays for arrays, tensors for tensors.
        """
        model, rows, question = self.prepare(X, target, y)

        def one(batch: Batch) -> Attribution:
            index = batch.indices.to(rows.device)
            return self.explain(model, question.select(index).field, rows[index])

        parts = list(map_batches(one, as_data(rows), _ROWS, f"explain ({self.method})"))
        _warn_of([part.miss for part in parts])
        errors = None
        if uncertainty:
            from trustml.explain._uncertainty import uncertainty as standard_errors

            errors = standard_errors(self, X, target, y=y)
        return Explanation(
            values=restore(torch.cat([part.values for part in parts]), X),
            base_values=_joined([part.base for part in parts], X),
            data=restore(as_tensor(X).detach(), X),
            feature_names=names_of(model, X, rows.shape[1:]),
            output_names=question.names,
            completeness=_joined([part.gap for part in parts], X),
            uncertainty=errors,
            method=self.method,
            output=self.output,
            target=target,
            baseline=self.baseline_name,
            passes=restore(torch.cat([part.passes for part in parts]), X),
        )

    def prepare(self, X: Any, target: Any, y: Any) -> tuple[Model, Tensor, Question]:
        """Return the wrapped model, the rows that its module eats, and what is explained."""
        model = as_model(self.model)
        rows = model.continuous_inputs(X, f"explain.{type(self).__name__}").detach()
        if rows.ndim < 2:
            raise ValueError(f"X must have shape (n, *features), got {tuple(rows.shape)}")
        return model, rows, ask(model, self.output, target, y, len(rows))

    @property
    def baseline_name(self) -> str | None:
        """What the result calls the baseline; None if there is none."""
        return None

    @abstractmethod
    def explain(
        self, model: Model, field: Field, rows: Tensor, thorough: bool = False
    ) -> Attribution:
        """Return the attributions of a batch; ``thorough`` ones are to be differentiated."""

    @abstractmethod
    def again(self, field: Field, rows: Tensor, plan: Any) -> Tensor:
        """Return the same values with a graph to whatever ``field`` depends on."""


def names_of(model: Model, X: Any, shape: torch.Size) -> list[str]:
    """Return a name for each feature of the flattened row."""
    names = frame_columns(X) or model.feature_names
    size = shape.numel()
    if names is not None and len(names) == size:
        return list(names)
    if len(shape) == 1:
        return [f"x{j}" for j in range(size)]
    places = torch.cartesian_prod(*(torch.arange(k) for k in shape)).tolist()
    return [f"x[{', '.join(map(str, place))}]" for place in places]


def _warn_of(misses: list[Tensor | None]) -> None:
    """Warn if attributions that should add up do not."""
    found = [miss for miss in misses if miss is not None]
    if not found:
        return
    miss = torch.cat(found)
    poor = int((miss > _POOR).sum())
    if poor:
        warnings.warn(
            f"the attributions of {poor} of {len(miss)} rows miss completeness by up to "
            f"{float(miss.max()):.1%} of the output's variation; raise max_passes",
            ConvergenceWarning,
            stacklevel=3,
        )


def _joined(parts: list[Tensor | None], like: Any) -> Any:
    found = [part for part in parts if part is not None]
    return restore(torch.cat(found), like) if found else None
