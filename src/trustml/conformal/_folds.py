"""Folds of the training rows, and the models that have not seen them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from trustml.conformal._leaving_out import is_linear, leaving_out
from trustml.conformal._linear_folds import linear_steps
from trustml.core.progress import track
from trustml.core.random import RandomState, numpy_generator
from trustml.core.validation import check_positive_int
from trustml.influence import InfluenceFunctions
from trustml.model import Model


def drawn_folds(folds: int, n: int, random_state: RandomState) -> np.ndarray:
    """Return the fold (n,) of each row; sizes differ by one at most.

    Returns
    -------
    int ndarray of shape (n,)

    Raises
    ------
    ValueError
        If there are fewer than 2 folds, or fewer rows than folds.
    """
    if not 2 <= check_positive_int(folds, "folds") <= n:
        raise ValueError(f"folds must be from 2 to the {n} training rows, got {folds}")
    return numpy_generator(random_state).permutation(np.arange(n) % folds)


def fold_models(
    model: Model,
    what: str,
    fold: np.ndarray,
    refit: bool,
    curvature: str = "auto",
    damping: float | str = "auto",
) -> list[Model]:
    """Return the model without each fold: trained anew, or by Newton steps of the engine.

    Parameters
    ----------
    model : Model
        With its training rows.
    what : str
        Name of the caller, for errors and warnings.
    fold : ndarray of shape (n,)
        From `drawn_folds`.
    refit : bool
        True trains.
    curvature, damping : str or float
        As for `InfluenceFunctions`; without refits only.

    Returns
    -------
    list of Model
    """
    if refit:
        numbers = range(int(fold.max()) + 1)
        steps = track(numbers, f"{what}: folds", len(numbers))
        return [model.retrain(np.flatnonzero(fold != k)) for k in steps]
    influence = leaving_out(model, what, curvature, damping, "none")
    return removed(influence, [np.flatnonzero(fold == k) for k in range(int(fold.max()) + 1)])


def unseen_shares(seen: np.ndarray, remedy: str) -> np.ndarray:
    """Return the share (B, n) of each model in the mean of those that have not seen a row.

    Parameters
    ----------
    seen : bool ndarray of shape (B, n)
        Which rows each model has seen.
    remedy : str
        What the user can do where every model has seen a row.

    Returns
    -------
    ndarray of shape (B, n)

    Raises
    ------
    ValueError
        If every model has seen some row.
    """
    lacking = (~seen).sum(axis=0)
    if not lacking.all():
        raise ValueError(
            f"all {len(seen)} models have seen row {np.argmin(lacking)}, which so has no "
            f"leave-one-out prediction; {remedy}"
        )
    shares: np.ndarray = ~seen / lacking
    return shares


def removed(influence: InfluenceFunctions, blocks: Sequence[np.ndarray]) -> list[Model]:
    """Return the model without each block of rows, by Newton steps.

    Returns
    -------
    list of Model
    """
    model = influence.model_
    n, space = len(influence.objective_.data), influence.objective_.space
    if is_linear(model):
        masks = torch.zeros(len(blocks), n, dtype=torch.bool)
        for mask, rows in zip(masks, blocks, strict=True):
            mask[rows] = True
        steps = linear_steps(influence, masks)
        if steps is not None:
            places = space.vector().double() + steps
            return [
                model.replace(space, place.to(space.dtype), without=rows)
                for place, rows in zip(places, blocks, strict=True)
            ]
    return [influence.remove(rows) for rows in blocks]
