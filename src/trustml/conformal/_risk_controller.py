"""What the controllers of risk share: how they are fitted, what they chose, how they predict."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from trustml.conformal._risk import LossFunction, Risk, as_risk
from trustml.conformal._risk_table import (
    RiskTable,
    calibration_rows,
    check_losses,
    loss_table,
    outputs_of,
)
from trustml.core.validation import restore, to_numpy
from trustml.warnings import CoverageWarning


class RiskController(BaseEstimator, ABC):
    """Chooses one parameter of a grid whose risk is controlled, or says that there is none."""

    model: Any
    risk: str | Risk | LossFunction | list[Any]
    grid: Any
    bound: float

    def fit(self, X_cal: Any, y_cal: Any, *, sensitive_features: Any = None) -> Self:
        """Choose the parameter on calibration rows; no training.

        Parameters
        ----------
        X_cal : array of shape (n, ...), or whatever the model takes
            Rows that neither the model nor the grid has seen; without a model, their scores.
        y_cal : array of shape (n,) or (n, ...)
            Their truth: labels, values, or zeros and ones for each label or pixel.
        sensitive_features : array of shape (n,) or None
            Groups of the rows, for a risk that compares groups.

        Returns
        -------
        RiskController
            Itself.

        Raises
        ------
        ValueError
            If the grid is empty, a loss is NaN or outside [0, bound], or shapes do not fit.

        Warns
        -----
        CoverageWarning
            If no parameter of the grid is shown to control the risk.
        """
        model, outputs, y = calibration_rows(self.model, X_cal, y_cal)
        given = self.risk if isinstance(self.risk, (list, tuple)) else [self.risk]
        risks = [as_risk(risk, self.bound) for risk in given]
        if not risks:
            raise ValueError("risk is an empty list; give at least one risk")
        grid = as_grid(risks[0].default_grid() if self.grid is None else self.grid)
        tables = [loss_table(risk, outputs, y, grid, sensitive_features) for risk in risks]
        self.model_, self.risks_, self.grid_ = model, risks, grid
        self._learn(tables)
        return self

    def fit_losses(self, losses: Any) -> Self:
        """Choose the parameter on losses that are known already.

        Parameters
        ----------
        losses : array of shape (n, m), or list of them
            Losses in [0, bound] of n calibration rows at the m parameters of the grid (its
            positions, if ``grid`` is None), from the safest parameter; a list holds one table for
            each of several risks.

        Returns
        -------
        RiskController
            Itself; it cannot ``predict``.

        Raises
        ------
        ValueError
            If a loss is NaN or outside [0, bound], or the tables do not fit the grid.

        Warns
        -----
        CoverageWarning
            If no parameter of the grid is shown to control the risk.
        """
        several = isinstance(losses, (list, tuple)) and any(np.ndim(t) == 2 for t in losses)
        tables = [to_numpy(t).astype(np.float64) for t in (losses if several else [losses])]
        for table in tables:
            check_losses(table, self.bound)
        m = tables[0].shape[1]
        grid = as_grid(np.arange(m) if self.grid is None else self.grid)
        if any(table.shape[1] != len(grid) for table in tables):
            raise ValueError(
                f"losses must have one column for each of the {len(grid)} parameters, got shapes "
                f"{[table.shape for table in tables]}"
            )
        self.model_, self.risks_, self.grid_ = None, [], grid
        self._learn([RiskTable(table, self.bound) for table in tables])
        return self

    def predict(self, X: Any) -> Any:
        """Return the decisions at the chosen parameter.

        Parameters
        ----------
        X : array of shape (n, ...), or whatever the model takes
            New rows; without a model, their scores.

        Returns
        -------
        array of shape (n, ...)
            What the first risk decides: bool sets, columns with -1 for abstention, selections.

        Raises
        ------
        TypeError
            If the risk was given as losses only.
        ValueError
            If no parameter is valid, and none is safe for certain.
        """
        check_is_fitted(self, "grid_")
        if not self.risks_:
            raise TypeError("fitted on losses alone, which say nothing of decisions: use fit")
        outputs = outputs_of(self.model_, X)
        if self.parameter_ is None:
            raise ValueError(
                "no parameter of the grid controls the risk, and none is safe for certain: give "
                "more calibration rows, a higher alpha or a grid with safer parameters"
            )
        return restore(self.risks_[0].decide(outputs, self.parameter_), X)

    @abstractmethod
    def _learn(self, tables: list[RiskTable]) -> None:
        """Set what was learnt, ending with ``_settle``."""

    def _settle(self, index: int | None, best: str) -> None:
        """Take the parameter at ``index``; for None the one that is safe for certain, aloud."""
        self.index_, self.certified_ = index, index is not None
        if index is not None:
            self.parameter_ = self.grid_[index]
            return
        safest = {risk.safest for risk in self.risks_}
        self.parameter_ = safest.pop() if len(safest) == 1 else None
        instead = (
            "parameter_ is None, and predict refuses"
            if self.parameter_ is None
            else f"parameter_ is {self.parameter_}, at which the risk is 0 for certain"
        )
        warnings.warn(
            f"no parameter of the grid is shown to control the risk ({best}): {instead}. Calibrate "
            "on more rows, raise alpha, or give a grid with safer parameters.",
            CoverageWarning,
            stacklevel=4,
        )


def only_table(tables: list[RiskTable], what: str) -> RiskTable:
    """Return the one table of plain losses; ``what`` names the caller.

    Returns
    -------
    RiskTable

    Raises
    ------
    ValueError
        If there are several risks, or one that is no mean over all rows.
    """
    if len(tables) != 1 or tables[0].groups is not None or np.isnan(tables[0].losses).any():
        raise ValueError(
            f"{what} controls one mean of losses of all rows; for several risks, groups or "
            "abstention use LearnThenTest"
        )
    return tables[0]


def as_grid(grid: Any) -> Any:
    """Return the parameters: a vector of numbers, or a list of whatever they are.

    Returns
    -------
    ndarray of shape (m,), or list

    Raises
    ------
    ValueError
        If there are none, or one is NaN.
    """
    members = grid.tolist() if hasattr(grid, "tolist") else list(grid)
    if not members:
        raise ValueError("grid is empty; give at least one parameter, from the safest")
    if any(isinstance(x, (float, np.floating)) and np.isnan(x) for x in members):
        raise ValueError("grid has NaN")
    numbers = all(isinstance(x, (int, float, np.number)) for x in members)
    return np.asarray(members) if numbers else members
