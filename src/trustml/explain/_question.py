"""Which number of the model is explained, row by row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from trustml.core.validation import check_choice, to_numpy
from trustml.model import Model

OUTPUTS = ("logit", "probability", "loss")


@dataclass(frozen=True, eq=False)
class Question:
    """The numbers F(x) that attributions share out among the features.

    Attributes
    ----------
    model : Model
    output : {"logit", "probability", "loss"}
        "logit" of a regression is its raw output.
    columns : Tensor of shape (n,) or None
        The output explained for each row; None explains all of them.
    targets : Tensor or None
        Encoded targets, for "loss".
    """

    model: Model
    output: str
    columns: Tensor | None = None
    targets: Tensor | None = None

    def select(self, rows: Tensor) -> Self:
        """Return the question for the rows at these indices; repeats are welcome."""
        columns = None if self.columns is None else self.columns[rows]
        targets = None if self.targets is None else self.targets[rows]
        return replace(self, columns=columns, targets=targets)

    def read(self, outputs: Tensor) -> Tensor:
        """Return the explained numbers of a module's outputs: (n,), or (n, c) for several."""
        if self.output == "loss":
            return self.model.loss_fn(outputs, self.targets)  # type: ignore[arg-type]
        if self.model.task == "regression":
            return self._pick(outputs[:, None] if outputs.ndim == 1 else outputs)
        probability = self.output == "probability"
        return self._pick((self.model.proba_of if probability else self.model.logits_of)(outputs))

    def field(self, points: Tensor, owner: Tensor) -> Tensor:
        """Return the explained numbers at inputs, each for the row that owns it."""
        return self.select(owner).read(self.model.outputs(points))

    def answer(self, X: Any) -> np.ndarray:
        """Return the explained numbers of raw rows; every model can, gradients or not."""
        model = self.model
        if self.output == "loss":
            outputs = model.observe(X).outputs
            if not model.differentiable and model.task != "regression":
                outputs = model.logits_of(outputs)  # the loss reads logits, not probabilities
            return to_numpy(model.loss_fn(outputs, self.targets))  # type: ignore[arg-type]
        if model.task == "regression":
            values = to_numpy(model.observe(X).outputs)
        else:
            values = to_numpy(
                (model.predict_proba if self.output == "probability" else model.logits)(X)
            )
        values = values[:, None] if values.ndim == 1 else values
        return to_numpy(self._pick(torch.from_numpy(values)))

    @property
    def names(self) -> list[str] | None:
        """Names of the outputs along the last axis; None where there is no such axis."""
        if self.columns is not None or self.output == "loss" or one_output(self.model):
            return None
        return self.model.class_names or [f"output {k}" for k in range(self.model.n_outputs)]

    def _pick(self, values: Tensor) -> Tensor:
        """Keep the asked columns; a one-output classifier is the log-odds of either class."""
        single = one_output(self.model)
        if self.columns is None:
            return values[:, -1] if single else values
        columns = self.columns.to(values.device)
        if single and self.model.task == "classification" and self.output == "logit":
            return values[:, 1] * (2 * columns - 1).to(values.dtype)
        return values.gather(1, columns[:, None]).squeeze(1)


def one_output(model: Model) -> bool:
    """Say whether the model has one raw output, so that its explanations have no output axis."""
    return model.n_outputs == 1


def ask(model: Model, output: str, target: Any, y: Any, n: int) -> Question:
    """Return the question that ``target`` and ``y`` put about ``n`` rows.

    Returns
    -------
    Question

    Raises
    ------
    TypeError
        If the model has no such output.
    ValueError
        If ``y`` is missing or of no use, or does not fit the rows.
    """
    check_choice(output, "output", OUTPUTS)
    if model.task == "language-modeling":
        raise TypeError("explainers read one output a row, and this model has one a token")
    if output == "loss":
        if y is None or target is not None:
            raise ValueError("output='loss' explains the loss at y: pass y=, and no target")
        targets = model.targets(y)
        if len(targets) != n:
            raise ValueError(f"X has {n} rows, but y has {len(targets)}")
        return Question(model, output, targets=targets)
    if output == "probability" and model.task == "regression":
        raise TypeError("a regression has no probabilities: use output='logit' or 'loss'")
    if y is not None:
        raise ValueError(f"y is read by output='loss' only, and output is {output!r}")
    return Question(model, output, None if target is None else _columns(model, target, n))


def _columns(model: Model, target: Any, n: int) -> Tensor:
    """Return the column of each row: of a class label, or the index of an output."""
    scalar = isinstance(target, (str, bytes, bool, int, float, np.generic))
    wanted = np.full(n, target) if scalar else to_numpy(target)
    if wanted.shape != (n,):
        raise ValueError(f"target must be one label, or one a row ({n},), got {wanted.shape}")
    if model.task == "classification":
        try:
            return model.targets(wanted)
        except ValueError as error:
            raise ValueError(
                f"target must be a class of the model, as its labels are: {error}"
            ) from error
    if wanted.dtype.kind not in "iu" or (wanted < 0).any() or (wanted >= model.n_outputs).any():
        raise ValueError(
            f"target must be an output index in 0..{model.n_outputs - 1}, got {target!r}"
        )
    return torch.from_numpy(wanted.astype(np.int64)).to(model.device)
