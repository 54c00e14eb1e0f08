"""Losses on outputs: which one is meant, and their derivatives with respect to the outputs."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

from torch import Tensor, nn

from trustml.core._cross_entropy import CrossEntropy
from trustml.core._likelihoods import BinaryCrossEntropy, Poisson, SquaredError
from trustml.core._loss import Autodiff, OutputLoss
from trustml.core.validation import check_choice

__all__ = [
    "Autodiff",
    "BinaryCrossEntropy",
    "CrossEntropy",
    "OutputLoss",
    "Poisson",
    "SquaredError",
    "as_loss",
]

TASKS = ("classification", "regression", "multilabel", "language-modeling")


def as_loss(
    loss: OutputLoss | nn.Module | Callable[..., Any] | None,
    task: str,
    n_outputs: int | None = None,
) -> OutputLoss:
    """Return the loss on outputs that is meant.

    Parameters
    ----------
    loss : OutputLoss, torch loss module, callable or None
        None: by task. The reduction of a torch loss is set aside: losses are summed over a row's
        outputs and never averaged (``torch.nn.MSELoss()`` with c outputs is ours divided by c). A
        callable maps ``(outputs, targets)`` to losses of shape (n,).
    task : "classification", "regression", "multilabel" or "language-modeling"
        Decides where ``loss`` is None.
    n_outputs : int or None
        A classifier with one output has the binary loss.

    Returns
    -------
    OutputLoss

    Raises
    ------
    TypeError
        If ``loss`` is none of these.
    ValueError
        If the loss does not take a module's raw outputs, or does not fit the number of outputs.

    Examples
    --------
    >>> as_loss(None, "classification", 1)
    BinaryCrossEntropy(pos_weight=None)
    """
    check_choice(task, "task", TASKS)
    if loss is not None and (isinstance(loss, type) or not callable(loss)):
        raise TypeError(
            f"loss must be a torch loss module, a callable (outputs, targets) -> (n,), or None, "
            f"got {loss!r}"
        )
    found = _default(task, n_outputs) if loss is None else _convert(loss)
    if isinstance(found, CrossEntropy) and n_outputs == 1:
        raise ValueError(
            "cross-entropy of one output is constant; use torch.nn.BCEWithLogitsLoss(), or a "
            "module with one output a class"
        )
    return found


def _default(task: str, n_outputs: int | None) -> OutputLoss:
    if task == "regression":
        return SquaredError()
    if task == "multilabel" or (task == "classification" and n_outputs == 1):
        return BinaryCrossEntropy()
    return CrossEntropy()


def _convert(loss: OutputLoss | nn.Module | Callable[..., Any]) -> OutputLoss:
    if isinstance(loss, OutputLoss):
        return loss
    if type(loss) is nn.CrossEntropyLoss:
        return CrossEntropy(loss.weight, loss.label_smoothing, loss.ignore_index)
    if type(loss) is nn.BCEWithLogitsLoss and loss.weight is None:
        return BinaryCrossEntropy(loss.pos_weight)
    if type(loss) is nn.MSELoss:
        return SquaredError()
    if type(loss) is nn.PoissonNLLLoss and loss.log_input:
        return Poisson(loss.full)
    if isinstance(loss, nn.NLLLoss):
        raise ValueError(
            "NLLLoss takes log-probabilities, so its curvature depends on a log-softmax inside the "
            "module; let the module return logits and use torch.nn.CrossEntropyLoss(), or pass "
            "trustml.core.losses.Autodiff(lambda f, y: -f.gather(1, y[:, None])[:, 0])"
        )
    if isinstance(loss, nn.Module) and isinstance(getattr(loss, "reduction", None), str):
        return Autodiff(_unreduced(loss), type(loss).__name__)
    return Autodiff(loss)


def _unreduced(loss: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss without its reduction, summed over each row; ``loss`` is left alone."""
    own: Any = copy(loss)
    own.reduction = "none"

    def per_example(outputs: Tensor, targets: Tensor) -> Tensor:
        if targets.numel() == outputs.numel() and len(targets) == len(outputs):
            targets = targets.reshape(outputs.shape).to(outputs)
        losses: Tensor = own(outputs, targets)
        return losses.reshape(len(outputs), -1).sum(1)

    return per_example
