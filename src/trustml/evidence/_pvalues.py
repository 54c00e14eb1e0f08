"""Conformal p-values: the rank of a new score among calibration scores."""

from __future__ import annotations

from typing import Any

import numpy as np

from trustml.core.random import RandomState, numpy_generator
from trustml.core.validation import restore, to_numpy
from trustml.evidence._checks import as_nonnegative, as_vector


def pvalues(
    cal_scores: Any,
    scores: Any,
    random_state: RandomState = None,
    *,
    weights: Any = None,
    test_weights: Any = None,
    uniforms: Any = None,
) -> Any:
    """Return ``(1 + #{calibration scores >= s}) / (n + 1)`` for every new score s.

    Super-uniform for a new score that is exchangeable with the calibration scores:
    P(p <= t) <= t for every t. With weights, each calibration score counts with its weight and
    the new one with its own, ``(w{>= s} + w) / (w{all} + w)``. O((n + m k) log n).

    Parameters
    ----------
    cal_scores : array of shape (n,)
        Calibration scores, higher = stranger.
    scores : array of shape (m,) or (m, k)
        New scores; k candidate labels a row, say.
    random_state : int, Generator or None
        Given: ties are broken at random and the p-values are exactly uniform,
        ``(#{>} + U (1 + #{=})) / (n + 1)``. None: the conservative p-values above.
    weights : array of shape (n,) or None
        Finite, at least 0, such as the density ratio at each calibration row; on any scale.
    test_weights : float or array of shape (m,) or (m, k), or None
        Weights of the new rows, or of each of their labels, on the scale of ``weights``.
    uniforms : float or array of shape (m,) or (m, k), or None
        The U in (0, 1] to break ties with, instead of ``random_state``.

    Returns
    -------
    array of shape (m,) or (m, k)
        p-values in (0, 1], of the kind of ``scores``; 0 only for a new row of weight 0.

    Raises
    ------
    ValueError
        If there are NaN, shapes do not fit, a weight is negative or not finite, all of them are
        zero, or only one of ``weights`` and ``test_weights`` is given.

    References
    ----------
    Vovk, Gammerman and Shafer (2005), Algorithmic Learning in a Random World, chapter 2.
    Tibshirani, Barber, Candès and Ramdas (2019), Conformal prediction under covariate shift,
    arXiv:1904.06019, for weights.

    Examples
    --------
    >>> pvalues([1.0, 2.0, 3.0], [2.5, 9.0])
    array([0.5 , 0.25])
    >>> pvalues([1.0, 2.0, 3.0], [2.5, 9.0], weights=[1, 1, 4], test_weights=[2.0, 2.0])
    array([0.75, 0.25])
    """
    new = np.asarray(to_numpy(scores))
    if new.ndim not in (1, 2):
        raise ValueError(f"scores must be 1-d or 2-d, (m,) or (m, k), got shape {new.shape}")
    new = as_vector(new.ravel(), "scores").reshape(new.shape)
    calibration = as_vector(cal_scores, "cal_scores")
    n = len(calibration)
    if (weights is None) != (test_weights is None):
        raise ValueError(
            "weights and test_weights go together: the weights of the new rows must be on the "
            "scale of those of the calibration rows"
        )
    if weights is None:
        ordered, own = np.sort(calibration), np.ones(())
        mass = np.arange(n, -1.0, -1.0)  # of what stands at or after each place in the order
    else:
        w = as_nonnegative(weights, "weights")
        if w.shape != (n,):
            raise ValueError(f"weights must have shape ({n},), one a score, got {w.shape}")
        own = _by_row(as_nonnegative(test_weights, "test_weights"), new.shape, "test_weights")
        if not w.any() and not own.all():
            raise ValueError("weights and test_weights are all zero; some weight must be positive")
        order = np.argsort(calibration)
        ordered = calibration[order]
        mass = np.append(np.cumsum(w[order[::-1]])[::-1], 0.0)
    total = mass[0] + own
    p = (mass[np.searchsorted(ordered, new, side="left")] + own) / total
    if random_state is not None or uniforms is not None:
        above = mass[np.searchsorted(ordered, new, side="right")] / total
        p = above + _uniforms(random_state, uniforms, new.shape) * (p - above)
    return restore(p, scores)


def _by_row(values: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    """One number, one a row or one an entry, so that it broadcasts against ``shape``."""
    if values.shape not in ((), shape[:1], shape):
        raise ValueError(
            f"{name} must be one number, one a row {shape[:1]} or one a score {shape}, got shape "
            f"{values.shape}"
        )
    return values[:, None] if values.ndim == 1 and len(shape) == 2 else values


def _uniforms(random_state: RandomState, uniforms: Any, shape: tuple[int, ...]) -> np.ndarray:
    """U of every score, in (0, 1]: a p-value of exactly zero would claim the impossible."""
    if uniforms is None:
        return np.asarray(1 - numpy_generator(random_state).random(shape))
    if random_state is not None:
        raise ValueError("give random_state or uniforms, not both")
    u = as_nonnegative(uniforms, "uniforms")
    if u.min() == 0 or u.max() > 1:
        raise ValueError(f"uniforms must be in (0, 1], got {u.min()} to {u.max()}")
    return _by_row(u, shape, "uniforms")
