"""Estimators of the package MAPIE, behind the face of our conformal predictors."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from trustml.core.random import seeded
from trustml.core.validation import check_finite, check_same_length, restore, to_numpy
from trustml.evidence import read_alphas
from trustml.warnings import CoverageWarning


class _Mapie(BaseEstimator):
    """What both kinds share: one MAPIE estimator for each alpha, made and calibrated when asked."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make

    def fit(self, X_cal: Any, y_cal: Any) -> Self:
        """Keep the rows that MAPIE will conformalize on, or fit and conformalize on.

        Parameters
        ----------
        X_cal : array of shape (n, ...), or a frame
            Rows. For MAPIE's cross and jackknife estimators: those it trains on.
        y_cal : array of shape (n,)
            Their labels or values.

        Returns
        -------
        Self

        Raises
        ------
        TypeError
            If ``make`` cannot be called.
        """
        if not callable(self.make):
            raise TypeError(
                "make must be a callable confidence_level -> MAPIE estimator, such as "
                f"functools.partial(SplitConformalClassifier, fitted), got {self.make!r}"
            )
        X, y = _rows(X_cal, "X_cal"), to_numpy(y_cal)
        check_same_length(X_cal=X, y_cal=y)
        check_finite(y, "y_cal")
        self.X_, self.y_ = X, y
        self.made_: dict[Fraction, Any] = {}
        return self

    def _answers(self, X: Any, alpha: Any, ask: str) -> Any:
        check_is_fitted(self, "made_")
        alphas, single = read_alphas(alpha)
        rows = _rows(X, "X")
        # MAPIE may draw from the global generators, afresh at each call.
        with seeded(1):
            found = [self._ask(self._at(a, ask), rows, float(1 - a), ask) for a in alphas]
        if ask == "predict_interval" and not np.isfinite(found).all():
            warnings.warn(
                f"{len(self.y_)} rows are too few for alpha {float(min(alphas)):g}: MAPIE's "
                "intervals are infinite. Give more rows or raise alpha.",
                CoverageWarning,
                stacklevel=3,
            )
        return restore(found[0] if single else np.stack(found, axis=-1), X)

    def _at(self, alpha: Fraction, ask: str) -> Any:
        """Return the MAPIE estimator of this alpha, calibrated.

        Returns
        -------
        object

        Raises
        ------
        TypeError
            If what was made is no MAPIE estimator of this kind.
        """
        if alpha in self.made_:
            return self.made_[alpha]
        made = self.make(confidence_level=float(1 - alpha))
        names = ("fit_conformalize", "conformalize") if hasattr(made, ask) else ("fit",)
        step = next((getattr(made, name) for name in names if hasattr(made, name)), None)
        if step is None or not (hasattr(made, ask) or _has_levels(made)):
            raise TypeError(
                f"{type(self).__name__} needs a MAPIE estimator with {ask}, make gave "
                f"{type(made).__name__}"
            )
        with seeded(0):
            step(self.X_, self.y_)
        self.made_[alpha] = made
        return made

    def _ask(self, made: Any, X: Any, level: float, name: str) -> np.ndarray:
        """Return the sets or intervals, (n, width)."""
        if hasattr(made, name):
            answer, more = getattr(made, name), {}
        else:  # time series take their level when asked
            answer, more = made.predict, {"confidence_level": level}
        if "allow_infinite_bounds" in inspect.signature(answer).parameters:
            more["allow_infinite_bounds"] = True
        found: np.ndarray = answer(X, **more)[1][..., 0]
        return found


class MapieClassifier(_Mapie):
    """Any of MAPIE's classifiers of sets, with our shapes, levels and rules.

    MAPIE fixes its level when it is made, so one estimator is made for each alpha that is asked
    for, and kept. MAPIE's rules stay MAPIE's: its ranks, its refusals, and the random numbers of
    its APS and RAPS, which belong to a row's place in the batch and not to the row.

    Parameters
    ----------
    make : callable confidence_level -> MAPIE estimator
        Its classes are such callables once their other arguments are given:
        ``functools.partial(SplitConformalClassifier, fitted, conformity_score="aps")``.
        Estimators that are conformalized apart must be made fitted (``prefit=True``, or fitted
        inside ``make``).

    Attributes
    ----------
    made_ : dict
        MAPIE's estimators by alpha, calibrated.

    References
    ----------
    Taquet, Blot, Morzadec, Lacombe and Brunel (2022), MAPIE: an open-source library for
    distribution-free uncertainty quantification, arXiv:2207.12274.

    Examples
    --------
    >>> from functools import partial
    >>> from mapie.classification import SplitConformalClassifier  # doctest: +SKIP
    >>> cp = MapieClassifier(partial(SplitConformalClassifier, fitted))  # doctest: +SKIP
    >>> cp.fit(X_cal, y_cal).predict_set(X, alpha=[0.1, 0.2]).shape  # doctest: +SKIP
    (100, 10, 2)
    """

    def predict_set(self, X: Any, alpha: Any = 0.1) -> Any:
        """Return which labels are in each row's set.

        Parameters
        ----------
        X : array of shape (n, ...), or a frame
            New rows.
        alpha : float in (0, 1), or list of m of them
            Allowed error rate.

        Returns
        -------
        bool array of shape (n, c), or (n, c, m) for a list
            Columns in the order of the classes of MAPIE's estimator.
        """
        return self._answers(X, alpha, "predict_set")


class MapieRegressor(_Mapie):
    """Any of MAPIE's regressors of intervals, with our shapes, levels and rules.

    MAPIE fixes its level when it is made, so one estimator is made for each alpha that is asked
    for, and kept. Where rows are too few the ends are infinite, which MAPIE allows on request.

    Parameters
    ----------
    make : callable confidence_level -> MAPIE estimator
        ``functools.partial(CrossConformalRegressor, Ridge(), cv=5)``, or a function, for
        estimators that must be fitted for the level (``ConformalizedQuantileRegressor``) or are
        asked for it later (``TimeSeriesRegressor``).

    Attributes
    ----------
    made_ : dict
        MAPIE's estimators by alpha, calibrated.

    References
    ----------
    Taquet, Blot, Morzadec, Lacombe and Brunel (2022), MAPIE: an open-source library for
    distribution-free uncertainty quantification, arXiv:2207.12274.

    Examples
    --------
    >>> from functools import partial
    >>> from mapie.regression import CrossConformalRegressor  # doctest: +SKIP
    >>> cp = MapieRegressor(partial(CrossConformalRegressor, Ridge(), cv=5))  # doctest: +SKIP
    >>> cp.fit(X_train, y_train).predict_interval(X, alpha=0.1).shape  # doctest: +SKIP
    (100, 2)
    """

    def predict_interval(self, X: Any, alpha: Any = 0.1) -> Any:
        """Return the ends of each row's interval.

        Parameters
        ----------
        X : array of shape (n, ...), or a frame
            New rows.
        alpha : float in (0, 1), or list of m of them
            Allowed error rate.

        Returns
        -------
        array of shape (n, 2), or (n, 2, m) for a list
            Low and high, in the unit of y; infinite where there are too few rows.

        Warns
        -----
        CoverageWarning
            If an end is infinite.
        """
        return self._answers(X, alpha, "predict_interval")


def _rows(X: Any, name: str) -> Any:
    """Return rows as MAPIE reads them: an array for a tensor, else as they are."""
    rows = to_numpy(X) if isinstance(X, (Tensor, list)) else X
    check_finite(rows, name)
    return rows


def _has_levels(made: Any) -> bool:
    predict = getattr(made, "predict", None)
    return predict is not None and "confidence_level" in inspect.signature(predict).parameters
