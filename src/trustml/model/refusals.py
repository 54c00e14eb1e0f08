"""What a model cannot do, said with what works instead."""

from __future__ import annotations

from typing import Any, NoReturn


def no_gradients(model: Any, what: str) -> NoReturn:
    """Refuse what needs a differentiable model."""
    raise TypeError(
        f"{what} needs gradients, and {model!r} only predicts. What needs only predictions works: "
        "conformal.SplitClassifier and SplitRegressor, ood.Msp and Entropy, explain.KernelShap, "
        "fairness.group_metrics, and audit. For the rest, wrap a torch module with parameters or "
        "a scikit-learn linear model, MLP, or pipeline that ends in one"
    )


def no_train(model: Any, what: str) -> NoReturn:
    """Refuse what needs the training data."""
    raise ValueError(
        f"{what} needs the training data of {model!r}: wrap(..., train=(X, y)) with the rows that "
        "it was fitted on"
    )


def odd_objective(source: Any, what: str, why: str) -> NoReturn:
    """Refuse the objective of a model whose training minimised something else."""
    raise TypeError(
        f"{what} is not available for {type(source).__name__}: {why}. Its predictions, features "
        "and input gradients work; for the training objective refit it with a smooth loss and an "
        "L2 penalty, or pass loss= and weight_decay= of your own to wrap"
    )


def wrong_task(task: str, what: str, wanted: tuple[str, ...]) -> NoReturn:
    """Refuse what another task has."""
    raise TypeError(f"{what} needs a model for {' or '.join(wanted)}, but this one is for {task}")
