"""The one face over every trained model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trustml.core.batches import Data, Inputs
from trustml.core.losses import OutputLoss
from trustml.core.modes import refuse_inference_mode
from trustml.core.parameters import ParameterSpace
from trustml.core.validation import check_same_length, restore
from trustml.model.converted import Converted, Task
from trustml.model.inside import Inside
from trustml.model.labels import Labels
from trustml.model.outputs import as_logits, as_probabilities, as_values
from trustml.model.passes import Passes
from trustml.model.refusals import no_gradients, no_train, odd_objective, wrong_task
from trustml.model.training import Training

if TYPE_CHECKING:
    from trustml.ihvp import Objective


class Model(Inside):
    """A trained model with its task, labels and training data; made by ``wrap``.

    Rows ``X`` are an array, list, frame, tensor, dict or tuple of tensors, Dataset or unshuffled
    DataLoader. Tensors in give tensors out on their device, everything else gives numpy arrays.
    The user's module is never changed: it runs in eval mode and gets its training flags back.

    Attributes
    ----------
    task : str
        "classification", "regression", "multilabel" or "language-modeling".
    loss_fn : OutputLoss
        The training loss per example, as a function of raw outputs and encoded targets.
    bounds : tuple or None
        (low, high) of valid inputs.
    feature_names : list of str or None
        One per input column.
    batch_size : int or "auto"
        Rows per forward pass.
    refit : callable or None
        How it is trained anew.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from trustml.model import wrap
    >>> X, y = torch.randn(20, 3), torch.arange(20) % 2
    >>> model = wrap(nn.Linear(3, 2), train=(X, y))
    >>> model.predict_proba(X).shape
    torch.Size([20, 2])
    """

    def __init__(
        self,
        converted: Converted,
        passes: Passes,
        *,
        task: Task,
        labels: Labels | None,
        loss_fn: OutputLoss,
        training: Training | None = None,
        refit: Callable[[Any, Any, int, int | None], Model] | None = None,
        bounds: tuple[Any, Any] | None = None,
        feature_names: list[str] | None = None,
        class_names: list[str] | None = None,
    ) -> None:
        self.task, self.loss_fn = task, loss_fn
        self.bounds, self.feature_names, self.batch_size = bounds, feature_names, passes.batch_size
        self._converted, self._passes, self._labels = converted, passes, labels
        self._training, self.refit, self._class_names = training, refit, class_names
        self._train: Data | None = None
        self._objective: Objective | None = None

    def __repr__(self) -> str:
        facts = [type(self.estimator).__name__, self.task]
        if self.task == "classification" and self._labels is not None:
            facts.append(f"{len(self._labels)} classes")
        if self._training is not None:
            facts.append(f"{len(self._training)} training rows")
        facts.append("differentiable" if self.differentiable else "prediction-only")
        return f"Model({', '.join(facts)})"

    def __sklearn_clone__(self) -> Model:
        """Return itself: a clone of an estimator must not unfit the model that it asks."""
        return self

    @property
    def estimator(self) -> Any:
        """What was wrapped."""
        return self._converted.source

    @property
    def differentiable(self) -> bool:
        """Whether gradients with respect to parameters and inputs exist."""
        return self._passes.module is not None

    @property
    def module(self) -> nn.Module:
        """The differentiable module; scalers of a pipeline are inside, encoders are not."""
        self.require_gradients("module")
        return self._passes.module  # type: ignore[return-value]

    @property
    def device(self) -> torch.device:
        """Where the module runs."""
        return self._passes.intake.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating point type of the module."""
        return self._passes.intake.dtype

    @property
    def n_outputs(self) -> int:
        """Size of the last axis of the raw outputs; a ValueError before any data was seen."""
        if self._passes.n_outputs is None:
            return self._passes.looked("n_outputs").n_outputs
        return self._passes.n_outputs

    @property
    def n_classes(self) -> int | None:
        """Number of classes or labels; None for other tasks."""
        if self.task == "classification":
            return len(self._known_labels())
        return self.n_outputs if self.task == "multilabel" else None

    @property
    def classes_(self) -> NDArray[Any] | None:
        """The user's labels in column order; None for other tasks than classification."""
        return self._known_labels().classes if self.task == "classification" else None

    @property
    def class_names(self) -> list[str] | None:
        """Names of the columns of probabilities; by default the labels as text."""
        if self._class_names is None and self.task == "classification":
            return [str(label) for label in self._known_labels().classes.tolist()]
        return self._class_names

    @property
    def train(self) -> Data | None:
        """Encoded training inputs and targets; None without ``train=``."""
        if self._training is not None and self._train is None:
            self._train = self._training.encoded(self._passes.intake, self.targets)
        return self._train

    @property
    def weight_decay(self) -> float | dict[str, float]:
        """L2 term of the training objective, in all or per parameter name."""
        self._require_plain_objective("weight_decay")
        if self._converted.weight_decay is None:
            no_train(self, "weight_decay")
        return self._converted.weight_decay

    def inputs(self, X: Any) -> Inputs:
        """Return what the module eats: rows checked, encoded, on its device, in its dtype."""
        return self._passes.intake.inputs(X)

    def continuous_inputs(self, X: Any, what: str) -> Tensor:
        """Return X as one float tensor that the module eats, or a TypeError that names ``what``."""
        self.require_gradients(what)
        return self._passes.intake.continuous(X, what)

    def targets(self, y: Any) -> Tensor:
        """Return class indices (long) of labels, floats of regression targets, on the device."""
        if self.task == "classification":
            return self._known_labels(y).encode(y, self.device)
        return self._passes.intake.targets(y, self.task, self._passes.n_outputs)

    def outputs(self, inputs: Inputs) -> Tensor:
        """Return raw outputs (n, ...) of ``inputs(X)`` with their graph, in eval mode."""
        return self._passes.outputs(inputs)

    def logits_of(self, outputs: Tensor) -> Tensor:
        """Return class logits (n, c) of raw outputs; one output f becomes [0, f]."""
        self._require_scores("logits")
        return as_logits(outputs, self.task, self._passes.kind or "logits")

    def proba_of(self, outputs: Tensor) -> Tensor:
        """Return probabilities (n, c) of raw outputs."""
        self._require_scores("probabilities")
        return as_probabilities(outputs, self.task, self._passes.kind or "logits")

    def values_of(self, outputs: Tensor) -> Tensor:
        """Return predicted means, (n,) or (n, m), of a regressor's raw outputs."""
        if self.task != "regression":
            wrong_task(self.task, "values", ("regression",))
        return as_values(outputs, self._converted.inverse_link)

    def predict(self, X: Any) -> Any:
        """Return labels or values.

        Returns
        -------
        ndarray or Tensor of shape (n,)
            The user's labels; (n, m) for several outputs or labels a row.
        """
        if self._converted.decide is not None:
            labels = np.asarray(self._converted.decide(self._passes.intake.rows(X)))
            return restore(labels, X) if labels.dtype.kind in "biuf" else labels
        seen = self.observe(X)
        if self.task == "regression":
            return restore(self.values_of(seen.outputs), X)
        logits = self._scores(seen.logits, "predict")
        if self.task == "multilabel":
            return restore((logits > 0).long(), X)
        best = logits.argmax(-1)
        if self.task == "language-modeling":
            return restore(best, X)
        found = self._known_labels().decode(best)
        return restore(found, X) if isinstance(found, Tensor) else found

    def predict_proba(self, X: Any) -> Any:
        """Return probabilities, columns in the order of ``classes_``.

        They are the softmax of the logits, as well calibrated as the model is.

        Returns
        -------
        ndarray or Tensor of shape (n, c)
        """
        self._require_scores("predict_proba")
        return restore(self._scores(self.observe(X).probabilities, "predict_proba"), X)

    def logits(self, X: Any) -> Any:
        """Return logits; one output f becomes [0, f], probabilities become their logarithms.

        Returns
        -------
        ndarray or Tensor of shape (n, c)
        """
        self._require_scores("logits")
        return restore(self._scores(self.observe(X).logits, "logits"), X)

    def loss(self, X: Any, y: Any) -> Any:
        """Return each example's training loss, without the regulariser.

        Parameters
        ----------
        X : array-like, frame, dict or tuple of tensors
            Rows.
        y : array-like of shape (n, ...)
            Targets as the user writes them.

        Returns
        -------
        ndarray or Tensor of shape (n,)
        """
        seen = self.observe(X)
        targets = self.targets(y)
        check_same_length(X=seen, y=targets)
        outputs = seen.outputs
        if not self.differentiable and seen.logits is not None:
            outputs = seen.logits  # losses read logits, never probabilities
        return restore(self.loss_fn(outputs, targets), X)

    @property
    def objective(self) -> Objective:
        """The training objective: mean loss over ``train`` plus the L2 term."""
        self.require_gradients("objective")
        self._require_plain_objective("objective")
        self.require_train("objective")
        if self._objective is None:
            from trustml.ihvp import Objective

            self._objective = Objective(
                self.module,
                self.loss_fn,
                self.train,
                weight_decay=self.weight_decay,
                head=self.head_name,
                batch_size=self.batch_size,
                n=self._training.n,  # type: ignore[union-attr]
            )
        return self._objective

    def retrain(self, indices: Any, random_state: int | None = None) -> Model:
        """Return the model trained anew on some training rows, the regulariser held.

        Uses ``train_fn``, or else a clone of the scikit-learn estimator: C and alpha stay what they
        were beside the SUM of losses, "balanced" weights and a pipeline's transformers as fitted.

        Parameters
        ----------
        indices : array-like of int, or mask
            Rows of ``train`` that are kept.
        random_state : int or None
            Seed of the training (``train_fn``'s too, if it takes ``random_state=``), and meanwhile
            of the global generators. None: as the training has it.

        Returns
        -------
        Model

        Raises
        ------
        TypeError
            If there is no way to train it.
        """
        self.require_train("retrain")
        if self.refit is None:
            how = "pass train_fn=, a callable (X, y) -> fitted estimator, to wrap"
            raise TypeError(f"{self!r} cannot be trained anew: {how}")
        training: Training = self._training  # type: ignore[assignment]
        return self.refit(*training.subset(training.positions(indices)), training.n, random_state)

    def replace(self, space: ParameterSpace, vector: Tensor, without: Any = None) -> Model:
        """Return a copy with these parameters (p,); rows ``without`` leave J, its n and R stay."""
        self.require_gradients("replace")
        other = copy.copy(self)
        if without is not None:
            self.require_train("replace(without=)")
            other._training, other._train = self._training.without(without), None  # type: ignore[union-attr]
        module = copy.deepcopy(self.module)
        space.load(module, vector)
        other._passes, other._objective = self._passes.with_module(module), None
        return other

    def require_gradients(self, what: str) -> None:
        """Raise a TypeError that says what works instead, if the model only predicts."""
        if not self.differentiable:
            no_gradients(self, what)
        refuse_inference_mode(what)

    def require_train(self, what: str) -> None:
        """Raise a ValueError that names ``train``, if it was not given."""
        if self._training is None:
            no_train(self, what)

    def _require_plain_objective(self, what: str) -> None:
        if self._converted.no_objective is not None:
            odd_objective(self.estimator, what, self._converted.no_objective)

    def _require_scores(self, what: str) -> None:
        if self.task == "regression":
            wrong_task(self.task, what, ("classification", "multilabel", "language-modeling"))

    def _scores(self, found: Tensor | None, what: str) -> Tensor:
        if found is None:
            raise TypeError(f"{what} needs outputs, but this model holds features only")
        return found

    def _known_labels(self, y: Any = None) -> Labels:
        if self._labels is not None:
            return self._labels
        if y is not None and (self._passes.kind == "features" or self._passes.n_outputs is None):
            return Labels.of(y)
        self._labels = Labels(np.arange(max(self.n_outputs, 2)), self._class_names)
        return self._labels
