"""Preprocessing that treats the training rows otherwise than a new row."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from trustml.model import Model
from trustml.warnings import CoverageWarning

# They are fitted to the number of columns alone; the others without a fit say so by their tags.
_BLIND = (
    "PolynomialFeatures",
    "GaussianRandomProjection",
    "SparseRandomProjection",
    "RBFSampler",
    "PolynomialCountSketch",
    "SkewedChi2Sampler",
)


def warn_if_asymmetric(model: Model, what: str, refit: bool) -> None:
    """Warn if a pipeline's transformers have learnt from the training rows and are held.

    Full conformal prediction and the jackknife need a training that treats the new row as it
    treats the others. A scaler or PCA that has seen the training rows only does not; there the
    guarantee is void, and coverage does fall short with few rows.

    Parameters
    ----------
    model : Model
        Any.
    what : str
        Name of the caller, for the warning.
    refit : bool
        Whether it retrains: by ``train_fn`` it trains the transformers too.

    Warns
    -----
    CoverageWarning
        With the names of the transformers.
    """
    anew = refit and not hasattr(getattr(model.refit, "train", None), "refit_end")
    names = [] if anew else sorted({type(step).__name__ for step in _learnt(model.estimator)})
    if not names:
        return
    split = "SplitRegressor" if model.task == "regression" else "SplitClassifier"
    warnings.warn(
        f"{', '.join(names)} learnt from the training rows and {what} holds it as it is: a new row "
        "is not treated as the training rows were, so the coverage may fall short, with few rows "
        f"most; fit it on other rows, or use {what}(refit=True) with a model wrapped with a "
        f"train_fn that fits the whole pipeline, or {split}",
        CoverageWarning,
        stacklevel=3,
    )


def _learnt(estimator: Any) -> Iterator[Any]:
    """Yield the transformers of a pipeline, however nested, that depend on the data."""
    inner = getattr(estimator, "best_estimator_", estimator)
    for _, step in getattr(inner, "steps", [])[:-1]:
        yield from _parts(step)


def _parts(step: Any) -> Iterator[Any]:
    if step is None or isinstance(step, str):  # "passthrough", "drop"
        return
    nested = [part for _, part in getattr(step, "steps", [])]
    nested += [part for _, part, *_ in getattr(step, "transformers_", [])]
    nested += [part for _, part in getattr(step, "transformer_list", [])]
    if nested:
        for part in nested:
            yield from _parts(part)
        return
    tags = step.__sklearn_tags__() if hasattr(step, "__sklearn_tags__") else None
    if type(step).__name__ not in _BLIND and (tags is None or tags.requires_fit):
        yield step
