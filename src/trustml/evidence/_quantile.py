"""The conformal quantile, its rank in rational arithmetic."""

from __future__ import annotations

import math
import warnings
from bisect import bisect_left
from fractions import Fraction
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trustml.core.validation import as_tensor, check_alpha
from trustml.evidence._checks import as_nonnegative, as_vector
from trustml.warnings import CoverageWarning


def exact_alpha(alpha: Any) -> Fraction:
    """Read an error rate as the rational number that its author wrote.

    The shortest decimal of ``float(alpha)``, rounded to 1e-9: 0.1 is 1/10, not the binary
    number beside it. A single-precision 0.3 (also one that went through ``float``) is 3/10.

    Parameters
    ----------
    alpha : float, numpy or torch scalar, Fraction
        Error rate in (0, 1). A ``Fraction`` is taken as it is.

    Returns
    -------
    Fraction
        The exact rate.

    Raises
    ------
    ValueError
        If ``alpha`` is not in (0, 1), or so near an end that it rounds to it.

    Examples
    --------
    >>> import numpy as np
    >>> exact_alpha(np.float32(0.3))
    Fraction(3, 10)
    """
    number = check_alpha(alpha)
    if isinstance(alpha, Fraction):
        return alpha
    if isinstance(alpha, np.floating):
        decimal = np.format_float_positional(alpha)
    elif float(np.float32(number)) == number:
        # Only one double in 2^29 is a float32 by chance: this one was written in float32.
        decimal = np.format_float_positional(np.float32(number))
    else:
        decimal = repr(number)
    exact = round(Fraction(decimal), 9)
    if not 0 < exact < 1:
        raise ValueError(f"alpha must be in (0, 1) after rounding to 1e-9, got {alpha!r}")
    return exact


def conformal_rank(n: int, alpha: Any) -> int:
    """Return ``ceil((n + 1)(1 - alpha))``, exactly; more than ``n`` when n is too small.

    Parameters
    ----------
    n : int
        Number of calibration scores.
    alpha : float in (0, 1)
        Allowed error rate.

    Returns
    -------
    int
        Rank, from 1, of the calibration score that is the threshold.

    Examples
    --------
    >>> conformal_rank(9, 0.1), conformal_rank(9, 0.7)  # in floats the second would be 4
    (9, 3)
    """
    return math.ceil((n + 1) * (1 - exact_alpha(alpha)))


def read_alphas(alpha: Any) -> tuple[list[Fraction], bool]:
    """Return the error rates, and whether one number was given.

    Parameters
    ----------
    alpha : float in (0, 1), or list or array of m of them
        Each is read by `exact_alpha`.

    Returns
    -------
    list of Fraction, bool

    Raises
    ------
    ValueError
        If it is neither a number nor a list of numbers.

    Examples
    --------
    >>> read_alphas([0.1, 0.5])
    ([Fraction(1, 10), Fraction(1, 2)], False)
    """
    if isinstance(alpha, Fraction) or np.ndim(alpha) == 0:
        return [exact_alpha(alpha)], True
    if np.ndim(alpha) != 1 or len(alpha) == 0:
        raise ValueError(f"alpha must be a number or a non-empty list of numbers, got {alpha!r}")
    return [exact_alpha(a) for a in alpha], False


def quantile(scores: Any, alpha: Any, weights: Any = None, test_weight: Any = None) -> Any:
    """Return the smallest score with at least ``1 - alpha`` of all mass at or below it.

    All mass is that of the n scores and of the new row, which stands at +inf. Without weights
    that is the ``ceil((n + 1)(1 - alpha))``-th smallest score: a new score that is exchangeable
    with these exceeds it with probability at most ``alpha``, whatever the distribution. With
    weights, that holds for a new score that is exchangeable with them once weighted. Ranks are
    found in rational arithmetic, weights taken as the binary numbers that they are: equal weights
    give the unweighted answer, whole ones that of repeated scores.

    Parameters
    ----------
    scores : array of shape (n,)
        Calibration scores, higher = stranger; infinities may stand, NaN may not. A tensor is
        sorted on its device.
    alpha : float in (0, 1), or list of a of them
        Allowed error rate, read by `exact_alpha`.
    weights : array of shape (n,) or None
        Finite, at least 0, such as the density ratio at each calibration row; on any scale.
    test_weight : float, array of shape (m,) or None
        Weight of the new row, or of m new rows, on the scale of ``weights``; goes with them.

    Returns
    -------
    float, or array of shape (a,), (m,) or (m, a)
        The threshold: accept what scores at most this; +inf where the scores hold too little
        mass. A tensor of scores gives a tensor of its dtype on its device.

    Raises
    ------
    ValueError
        If a score is NaN, a weight is negative or not finite, all of them are zero, or only one
        of ``weights`` and ``test_weight`` is given.

    Warns
    -----
    CoverageWarning
        Once, if a threshold is +inf because n, or the weight of the scores, is too small.

    References
    ----------
    Vovk, Gammerman and Shafer (2005), Algorithmic Learning in a Random World, chapter 2.
    Tibshirani, Barber, Candès and Ramdas (2019), Conformal prediction under covariate shift,
    arXiv:1904.06019, lemma 3.

    Examples
    --------
    >>> quantile([0.3, 0.1, 0.2, 0.4], alpha=0.2)
    0.4
    >>> quantile([0.3, 0.1, 0.2, 0.4], 0.2, weights=[1, 5, 5, 1], test_weight=[1.0, 2.0])
    array([0.3, 0.4])
    """
    alphas, single = read_alphas(alpha)
    values = _on_device(scores)
    ordered, order = values.sort()
    n = len(ordered)
    if weights is None and test_weight is None:
        ranks = np.array([min(conformal_rank(n, a), n + 1) for a in alphas])
    elif weights is None or test_weight is None:
        raise ValueError(
            "weights and test_weight go together: the weight of the new row must be on the scale "
            "of the weights of the calibration rows"
        )
    else:
        w, test = as_nonnegative(weights, "weights"), as_nonnegative(test_weight, "test_weight")
        if w.shape != (n,) or test.ndim > 1:
            raise ValueError(
                f"weights must have shape ({n},), one a score, and test_weight () or (m,); got "
                f"{w.shape} and {test.shape}"
            )
        if not w.any() and not test.all():
            raise ValueError("weights and test_weight are all zero; some weight must be positive")
        ranks = _weighted_ranks(w[order.cpu().numpy()], test.ravel(), alphas)
        ranks = ranks.reshape(*test.shape, len(alphas))
    if (ranks > n).any():
        _warn_of_infinity(n, alphas, weighted=weights is not None, ranks=ranks)
    index = torch.from_numpy(ranks[..., 0] if single else ranks) - 1
    found = torch.cat([ordered, ordered.new_tensor([math.inf])])[index.to(ordered.device)]
    if isinstance(scores, Tensor):
        return found.to(scores.dtype if scores.is_floating_point() else found.dtype)
    return found.numpy() if found.ndim else float(found)


def _on_device(scores: Any) -> Tensor:
    """Scores as a checked float64 vector, a tensor on its own device."""
    if not isinstance(scores, Tensor):
        return as_tensor(as_vector(scores, "scores"))
    values = scores.detach().to(torch.float64)
    if values.ndim != 1 or len(values) == 0 or values.isnan().any():
        as_vector(values, "scores")  # says what is wrong
    return values


def _weighted_ranks(weights: np.ndarray, test: np.ndarray, alphas: list[Fraction]) -> np.ndarray:
    """Least k with w_1 + ... + w_k >= (1 - alpha)(all w + test), (m, a); n + 1 for none."""
    # Floats decide where their rounding cannot matter, whole numbers do the rest.
    n, sums = len(weights), np.cumsum(weights)
    distinct, back = np.unique(test, return_inverse=True)
    total = sums[-1] + distinct[:, None]
    need = total * np.array([float(1 - alpha) for alpha in alphas])
    slack = (2 * n + 8) * np.finfo(np.float64).eps * total
    low, high = np.searchsorted(sums, need - slack), np.searchsorted(sums, need + slack)
    doubtful = np.argwhere(low < high)
    if len(doubtful):
        mantissas, exponents = np.frexp(weights)
        unit = int(exponents.min()) - 53
        whole = np.ldexp(mantissas, 53).astype(np.int64).tolist()
        shifts = (exponents - 53 - unit).tolist()
        exact = list(accumulate(m << shift for m, shift in zip(whole, shifts, strict=True)))
        for j, a in doubtful.tolist():
            all_mass = exact[-1] + Fraction(float(distinct[j])) / Fraction(2) ** unit
            low[j, a] = bisect_left(exact, (1 - alphas[a]) * all_mass, low[j, a], high[j, a])
    return np.asarray(low[back] + 1)


def _warn_of_infinity(n: int, alphas: list[Fraction], weighted: bool, ranks: np.ndarray) -> None:
    alpha = min(alphas)
    if weighted:
        short = int((ranks > n).reshape(-1, len(alphas)).any(axis=1).sum())
        what = (
            f"the weights of {n} calibration scores are less than {1 - float(alpha):g} of all "
            f"weight for {short} of {ranks.size // len(alphas)} new rows"
        )
    else:
        what = (
            f"{n} calibration scores cannot give coverage {1 - float(alpha):g}; at least "
            f"{math.ceil(1 / alpha) - 1} are needed"
        )
    warnings.warn(
        f"{what}. The threshold is +inf: everything is accepted.", CoverageWarning, stacklevel=3
    )
