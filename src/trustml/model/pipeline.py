"""Scikit-learn pipelines: encoders run first, scalers become layers, the end is converted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from trustml.model.converted import Converted, fitted_columns
from trustml.model.layers import differentiable_layer

Convert = Callable[[Any, NDArray[Any] | None], Converted | None]


def convert(estimator: Any, labels: NDArray[Any] | None, convert_end: Convert) -> Converted | None:
    """Turn a fitted ``Pipeline`` with a convertible last step into one module.

    The longest run of differentiable transformers before the last step (scalers, PCA, feature
    selection) becomes layers, so that gradients with respect to inputs are in the units that the
    user's data have there. What comes before (encoders, imputers, anything else) has no gradient:
    it runs as ``encode``.

    Parameters
    ----------
    estimator : object
        Anything; only pipelines are taken.
    labels : ndarray of shape (n, ...) or None
        Training labels as the user gave them.
    convert_end : callable
        (estimator, labels) -> Converted or None, for the last step.

    Returns
    -------
    Converted or None
        None if it is no pipeline, or its last step has no differentiable form.
    """
    from sklearn.pipeline import Pipeline

    if not isinstance(estimator, Pipeline):
        return None
    end = convert_end(estimator[-1], labels)
    if end is None or end.module is None:
        return None
    steps = list(estimator.steps[:-1])
    layers: list[tuple[str, nn.Module]] = []
    while steps and (layer := differentiable_layer(steps[-1][1])) is not None:
        layers.insert(0, (steps.pop()[0], layer))
    width, names = fitted_columns(estimator)
    return replace(
        end,
        source=estimator,
        module=_joined(layers, end.module),
        encode=Encode(estimator[: len(steps)]) if steps else None,
        n_features=width,
        feature_names=names,
        refit=Refit(estimator, end.refit) if end.refit is not None else None,
    )


def _joined(layers: list[tuple[str, nn.Module]], end: nn.Module) -> nn.Sequential:
    """Put the scalers before the end's own children, whose parameter names stay."""
    taken = dict(end.named_children())
    module = nn.Sequential()
    for name, layer in layers:
        clean = name.replace(".", "_")
        module.add_module(f"{clean}_" if clean in taken else clean, layer)
    for name, child in taken.items():
        module.add_module(name, child)
    return module


@dataclass(frozen=True)
class Encode:
    """Raw X -> the dense matrix that the module eats."""

    prefix: Any

    def __call__(self, X: Any) -> Any:
        """Return the transformed rows."""
        encoded = self.prefix.transform(X)
        return encoded.toarray() if hasattr(encoded, "toarray") else np.asarray(encoded)


@dataclass(frozen=True)
class Refit:
    """Refits the last step alone: the transformers stay what the objective takes as given."""

    pipeline: Any
    refit_end: Callable[[Any, Any, int], Any]

    def __call__(self, X: Any, y: Any, n: int) -> Any:
        """Return the pipeline with its last step fitted on these rows."""
        from sklearn.pipeline import Pipeline

        fitted = self.refit_end(self.pipeline[:-1].transform(X), y, n)
        steps = self.pipeline.steps
        return Pipeline([*steps[:-1], (steps[-1][0], fitted)])
