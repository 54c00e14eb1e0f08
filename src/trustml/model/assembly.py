"""How a ``Model`` is put together, once for ``wrap`` and again for each retraining."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from trustml.core.losses import Autodiff, OutputLoss, as_loss
from trustml.core.random import seeded
from trustml.core.validation import frame_columns
from trustml.model.bounds import check_names
from trustml.model.conversion import convert
from trustml.model.converted import Converted, Task
from trustml.model.face import Model
from trustml.model.intake import Intake
from trustml.model.labels import Labels
from trustml.model.passes import Passes
from trustml.model.tasks import infer_classes, infer_task
from trustml.model.training import Training

_PROBE_ROWS = 8


@dataclass(frozen=True)
class Recipe:
    """The arguments of ``wrap`` apart from the estimator and its training data."""

    task: Task | None
    loss: OutputLoss | nn.Module | Callable[..., Any] | None
    weight_decay: float | dict[str, float]
    train_fn: Callable[..., Any] | None
    bounds: tuple[Any, Any] | None
    feature_names: Sequence[str] | None
    class_names: list[str] | None
    device: torch.device | str | None
    batch_size: int | Literal["auto"]

    def build(self, estimator: Any, data: Training | None, labels: Labels | None = None) -> Model:
        """Put the model together.

        Parameters
        ----------
        estimator : object
            What ``wrap`` takes.
        data : Training or None
            Its training data.
        labels : Labels or None
            The classes, where they are known from a first training.

        Returns
        -------
        Model
        """
        converted = self._converted(estimator, data)
        passes = Passes(converted, Intake(converted, self.device), self.batch_size)
        if data is not None:
            _look(passes, data)
        task = infer_task(
            self.task,
            converted.task,
            self.loss,
            None if data is None else data.labels,
            passes.n_outputs,
        )
        passes.settle(task)
        if labels is None and task == "classification":
            labels = self._labels(converted, passes, data)
        width = converted.n_features
        names = check_names(self.feature_names, width, "feature_names")
        if names is None and passes.intake.columns is not None:
            names = list(passes.intake.columns)
        train = self.train_fn or converted.refit
        kept = labels if converted.classes is None else None  # an estimator says its own
        model = Model(
            converted,
            passes,
            task=task,
            labels=labels,
            loss_fn=self._loss(converted, passes, task),
            training=data,
            refit=None if train is None else Refit(self, train, kept),
            bounds=self.bounds,
            feature_names=names,
            class_names=self.class_names,
        )
        if data is not None:
            _check_training(model, data)
        return model

    def _converted(self, estimator: Any, data: Training | None) -> Converted:
        found = convert(estimator, self.task, None if data is None else data.labels, self.device)
        own_loss = self.loss is not None
        if self.weight_decay != 0.0:
            settled = own_loss or found.loss is not None or found.no_objective is None
            why = None if settled else found.no_objective
            return replace(found, weight_decay=self.weight_decay, no_objective=why)
        if own_loss and found.task is not None and found.module is not None:
            # Another loss than the estimator's: its penalty is not this objective's.
            return replace(found, weight_decay=0.0, no_objective=None)
        return found

    def _labels(self, converted: Converted, passes: Passes, data: Training | None) -> Labels | None:
        if converted.classes is not None:
            check_names(self.class_names, len(converted.classes), "class_names")
            return Labels(converted.classes, self.class_names)
        found = None if data is None else data.labels
        classes = infer_classes(found, passes.n_outputs, self.class_names)
        return None if classes is None else Labels(classes, self.class_names)

    def _loss(self, converted: Converted, passes: Passes, task: Task) -> OutputLoss:
        if self.loss is None and converted.loss is not None:
            return converted.loss
        n_outputs = passes.n_outputs
        if passes.module is None and task == "classification":
            n_outputs = None  # the loss reads [0, f] or log-probabilities, never one column
        return as_loss(self.loss, task, n_outputs)


@dataclass(frozen=True)
class Refit:
    """(X, y, n) -> the model trained on these rows, by ``train_fn`` or its converter."""

    recipe: Recipe
    train: Callable[..., Any]
    labels: Labels | None

    def __call__(self, X: Any, y: Any, n: int, seed: int | None) -> Model:
        """Return the new model."""
        with nullcontext() if seed is None else seeded(seed):
            fitted = self._fitted(X, y, n, seed)
        return self.recipe.build(fitted, Training.of((X, y)), self.labels)

    def _fitted(self, X: Any, y: Any, n: int, seed: int | None) -> Any:
        if self.recipe.train_fn is None:
            return (self.train if seed is None else _with_seed(self.train, seed))(X, y, n)
        if seed is not None and "random_state" in inspect.signature(self.train).parameters:
            return self.train(X, y, random_state=seed)
        return self.train(X, y)


def _with_seed(refit: Any, seed: int) -> Any:
    """Return a converter's refit whose estimator has this seed wherever it takes one."""
    if hasattr(refit, "refit_end"):
        return replace(refit, refit_end=_with_seed(refit.refit_end, seed))
    from sklearn.base import clone

    names = [name for name in refit.estimator.get_params() if name.endswith("random_state")]
    return replace(refit, estimator=clone(refit.estimator).set_params(**dict.fromkeys(names, seed)))


def _look(passes: Passes, data: Training) -> None:
    """Run the first training rows, for the number of outputs, the head and the row shape."""
    X = data.X
    if passes.intake.columns is None:
        columns = frame_columns(X)
        passes.intake.columns = None if columns is None else tuple(columns)
    passes.intake.takes_tensors = isinstance(X, Tensor)
    lazy = isinstance(X, (Dataset, DataLoader))
    few = X if lazy else data.subset(np.arange(min(_PROBE_ROWS, len(data))))[0]
    if passes.module is None:
        if passes.kind is None and not lazy:
            passes.called(few)
        return
    held = passes.intake.data(few)
    inputs = held.rows(0, min(_PROBE_ROWS, len(held))).inputs
    passes.learn(inputs)


def _check_training(model: Model, data: Training) -> None:
    """Find what is wrong with the training data now, not at the first use."""
    if isinstance(data.X, (Dataset, DataLoader)):
        return
    if not model.differentiable:
        model.targets(data.labels)
        return
    train = model.train
    if train is None or not isinstance(model.loss_fn, Autodiff):
        return
    few = train.rows(0, min(4, len(train)))
    if few.targets is None or len(few) < 2:
        return
    outputs = model.outputs(few.inputs).detach()
    together = model.loss_fn(outputs, few.targets)
    apart = torch.cat(
        [model.loss_fn(outputs[i : i + 1], few.targets[i : i + 1]) for i in range(len(few))]
    )
    if not torch.allclose(together, apart, rtol=1e-3, atol=1e-6):
        raise ValueError(
            f"the loss {model.loss_fn.name} mixes rows: four rows together give other losses than "
            f"one by one. Outputs have shape {tuple(outputs.shape)} and targets "
            f"{tuple(few.targets.shape)}; squeeze or reshape one, and do not average over rows"
        )
