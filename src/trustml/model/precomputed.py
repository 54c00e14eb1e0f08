"""Models whose inputs are their outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trustml.core.losses import as_loss
from trustml.core.validation import check_choice
from trustml.model.converted import Converted, Outputs, Task
from trustml.model.face import Model
from trustml.model.intake import Intake
from trustml.model.labels import Labels
from trustml.model.passes import Passes
from trustml.model.tasks import infer_classes
from trustml.model.training import Training


class Stored:
    """A stand-in for the estimator: returns what it is given."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, outputs: Any) -> Any:
        """Return ``outputs``."""
        return outputs


def precomputed(
    kind: str = "probabilities",
    train: Any = None,
    class_names: Sequence[str] | None = None,
) -> Model:
    """Return a model whose inputs ARE the outputs, for methods that need only predictions.

    Parameters
    ----------
    kind : {"probabilities", "logits", "features", "values"}
        What the rows of X are: class probabilities (n, c), class logits (n, c), penultimate
        features (n, h), or predicted values of a regression (n,).
    train : (X, y) or None
        Such rows for the training set, and its labels; gives the classes their names.
    class_names : sequence of str or None
        Names of the columns; labels are then these strings if y holds strings.

    Returns
    -------
    Model

    Examples
    --------
    >>> import numpy as np
    >>> model = precomputed("probabilities")
    >>> model.predict(np.array([[0.2, 0.8], [0.9, 0.1]]))
    array([1, 0])
    """
    check_choice(kind, "kind", ("probabilities", "logits", "features", "values"))
    outputs: Outputs = kind  # type: ignore[assignment]
    task: Task = "regression" if kind == "values" else "classification"
    stored = Stored(kind)
    converted = Converted(source=stored, call=stored, outputs=outputs, task=task)
    passes = Passes(converted, Intake(converted), "auto")
    training = None if train is None else Training.of(train)
    names = None if class_names is None else [str(name) for name in class_names]
    labels = None
    if training is not None:
        passes.called(training.X)
    if task == "classification" and (training is not None or names is not None):
        width = len(names) if names is not None else passes.n_outputs
        width = None if kind == "features" and names is None else width
        found = None if training is None else training.labels
        classes = infer_classes(found, width, names)
        labels = None if classes is None else Labels(classes, names)
    return Model(
        converted,
        passes,
        task=task,
        labels=labels,
        loss_fn=as_loss(None, task, None),
        training=training,
        class_names=names,
    )
