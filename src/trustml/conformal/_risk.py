"""What a risk of a tuned decision is, and how one is found by name."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from trustml.conformal._listed import listed


class Risk(ABC):
    """The mean loss of a decision that a parameter tunes, or what it differs by between groups.

    Subclasses are final: they have a ``name``, implement ``losses`` and ``decide``, and say what
    holds of them in the attributes below.

    Attributes
    ----------
    name : str
        What the controllers' ``risk=`` knows it by.
    bound : float
        Largest loss that is possible; losses lie in [0, bound].
    binary : bool
        Losses are 0 or ``bound`` only, which allows the exact Clopper-Pearson p-value.
    partial : bool
        A loss may be NaN: the row does not count at this parameter.
    compares_groups : bool
        The risk is the largest difference of two groups' mean losses; the rows that count must be
        the same at every parameter.
    sequential : bool
        Evidence is strongest at the safest parameter, so a fixed sequence may start there.
    safest : float or None
        Parameter, inside the grid or not, at which the risk is 0 for certain.
    """

    name: str
    bound: float = 1.0
    binary: bool = False
    partial: bool = False
    compares_groups: bool = False
    sequential: bool = True
    safest: float | None = None

    @abstractmethod
    def losses(self, outputs: np.ndarray, y: np.ndarray, parameter: Any) -> np.ndarray:
        """Return the loss of every row, shape (n,).

        Parameters
        ----------
        outputs : ndarray of shape (n, ...)
            The model's probabilities or values, or the scores themselves.
        y : ndarray of shape (n, ...)
            The truth.
        parameter : object
            One member of the grid.
        """

    @abstractmethod
    def decide(self, outputs: np.ndarray, parameter: Any) -> np.ndarray:
        """Return the decisions (n, ...) whose losses these are."""

    def default_grid(self) -> np.ndarray:
        """Return 101 thresholds in [0, 1] from the safest."""
        grid = np.linspace(0.0, 1.0, 101)
        return grid if self.safest is None or self.safest < 0 else grid[::-1]


LossFunction = Callable[[np.ndarray, np.ndarray, Any], Any]


class _Plain(Risk):
    """A risk from a user's function (outputs, y, parameter) -> losses (n,)."""

    name = "a function"

    def __init__(self, function: LossFunction, bound: float) -> None:
        self.function, self.bound = function, bound

    def losses(self, outputs: np.ndarray, y: np.ndarray, parameter: Any) -> np.ndarray:
        return np.asarray(self.function(outputs, y, parameter))

    def decide(self, outputs: np.ndarray, parameter: Any) -> np.ndarray:
        raise TypeError(
            "a function of losses says nothing of decisions: use parameter_, or give a Risk with "
            "losses and decide"
        )

    def default_grid(self) -> np.ndarray:
        raise ValueError("a function of losses needs grid=, from the safest parameter")


def as_risk(risk: str | Risk | LossFunction, bound: float = 1.0) -> Risk:
    """Return a risk from its name, a function, or a risk as it is.

    Parameters
    ----------
    risk : str, Risk or callable
        A callable is (outputs, y, parameter) -> losses (n,).
    bound : float
        Largest loss of a callable.

    Returns
    -------
    Risk

    Raises
    ------
    ValueError
        If no risk has this name; the message lists those that exist.
    TypeError
        If it is neither a name, a risk nor callable, or a class instead of an object.
    """
    if isinstance(risk, str):
        known = listed(Risk)  # type: ignore[type-abstract]
        if risk not in known:
            raise ValueError(f"risk must be one of {sorted(known)} or a Risk, got {risk!r}")
        return known[risk]()
    if isinstance(risk, Risk):
        return risk
    if inspect.isclass(risk) or not callable(risk):
        raise TypeError(
            "risk must be a name, a Risk or a callable (outputs, y, parameter) -> losses (n,), got "
            f"{risk!r}; a class needs its brackets"
        )
    return _Plain(risk, bound)
