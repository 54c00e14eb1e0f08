"""The error rates of a threshold on the score of a binary classifier."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from trustml.conformal._risk import Risk
from trustml.conformal._set_risks import at_least
from trustml.core.validation import check_choice

# Which rows count, from their truth and whether they are selected.
_COUNTED: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "all": lambda truth, selected: np.ones(len(truth), dtype=bool),
    "false-positive": lambda truth, selected: ~truth,
    "false-negative": lambda truth, selected: truth,
    "false-discovery": lambda truth, selected: selected,
    "false-omission": lambda truth, selected: ~selected,
}
_SAFEST = {"false-positive": math.inf, "false-discovery": math.inf}
_SAFEST |= {"false-negative": -math.inf, "false-omission": -math.inf}


class ErrorRate(Risk):
    """Share of wrong decisions among some rows, for a threshold on a score.

    Outputs are scores (n,) of the positive class, or (n, 2) of both; y is zeros and ones. A row is
    selected, that is called positive, if it scores at least the threshold. Rates that are shares
    of what is known only after the decision have no evidence where nobody is selected, or
    everybody: a fixed sequence must not start there. For `LearnThenTest`, which controls several
    at once, as precision and recall.

    Parameters
    ----------
    rate : {"all", "false-positive", "false-negative", "false-discovery", "false-omission"}
        Wrong decisions among all rows (1 - accuracy), the truly negative (1 - specificity), the
        truly positive (1 - recall), the selected (1 - precision), or the others (1 - negative
        predictive value).

    References
    ----------
    Angelopoulos, Bates, Candès, Jordan and Lei (2021), arXiv:2110.01052.

    Examples
    --------
    >>> scores, y = np.array([0.9, 0.2, 0.6]), np.array([1, 1, 0])
    >>> ErrorRate("false-discovery").losses(scores, y, 0.5)
    array([ 0., nan,  1.])
    >>> ErrorRate("false-negative").losses(scores, y, 0.5)
    array([ 0.,  1., nan])
    """

    name = "error-rate"
    binary = True
    partial = True

    def __init__(self, rate: str = "all") -> None:
        check_choice(rate, "rate", tuple(_COUNTED))
        self.rate = rate
        self.safest = _SAFEST.get(rate)
        self.sequential = rate in ("false-positive", "false-negative")

    def __repr__(self) -> str:
        return f"ErrorRate({self.rate!r})"

    def losses(self, outputs: np.ndarray, y: np.ndarray, parameter: Any) -> np.ndarray:
        """Return 1 for a wrong decision, 0 for a right one, NaN for a row that does not count."""
        chosen, truth = selected(outputs, parameter), positive(outputs, y)
        return np.where(_COUNTED[self.rate](truth, chosen), chosen != truth, np.nan)

    def decide(self, outputs: np.ndarray, parameter: Any) -> np.ndarray:
        """Return who is selected, bool (n,)."""
        return selected(outputs, parameter)


def selected(outputs: np.ndarray, threshold: Any) -> np.ndarray:
    """Return which rows reach the threshold with the score of the positive class.

    Returns
    -------
    bool ndarray of shape (n,)

    Raises
    ------
    ValueError
        If the outputs are not scores of two classes.
    """
    if outputs.ndim == 2 and outputs.shape[1] == 2:
        outputs = outputs[:, 1]
    if outputs.ndim != 1:
        raise ValueError(f"scores (n,) or (n, 2) of two classes expected, got {outputs.shape}")
    return at_least(outputs, threshold)


def positive(outputs: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the truth of the rows as bool (n,).

    Returns
    -------
    bool ndarray of shape (n,)

    Raises
    ------
    ValueError
        If y is not zeros and ones, one a row.
    """
    if y.shape != outputs.shape[:1] or not np.isin(y, (0, 1)).all():
        raise ValueError(f"y must be zeros and ones, one a row, got shape {y.shape}")
    return y.astype(bool)
