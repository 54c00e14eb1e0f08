"""Difficulty of a row from a second model, of the first one's residuals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone

from trustml.conformal._regression import measured, predicted
from trustml.conformal._residual_score import ResidualScore, Scale, check_floor, space
from trustml.core.batches import Data
from trustml.model import Model


class ResidualModel(ResidualScore):
    """The residual over what a second regressor expects of its size.

    The second regressor learns the logarithm of the training rows' absolute residuals, so that no
    scale is negative and a few large residuals do not decide all. It reads what the model's last
    layer reads where there is one, otherwise the model's inputs. Needs ``train=``; a model that
    fits its training rows exactly has no residuals to learn from.

    Parameters
    ----------
    estimator : scikit-learn regressor or None
        Is cloned and fitted. None: a forest with leaves of 10 rows.
    floor : float
        Share of the mean absolute residual that is added to each, so that none is zero; above 0.

    Raises
    ------
    ValueError
        If ``floor`` is not positive.

    References
    ----------
    Papadopoulos, Gammerman and Vovk (2008), Normalized nonconformity measures for regression
    conformal prediction. Lei, G'Sell, Rinaldo, Tibshirani and Wasserman (2018), Distribution-free
    predictive inference for regression, arXiv:1604.04173, section 5.2.

    Examples
    --------
    >>> import numpy as np
    >>> import trustml
    >>> from sklearn.linear_model import LinearRegression
    >>> from trustml.conformal import SplitRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(size=(300, 1))
    >>> y = X[:, 0] * rng.normal(size=300)
    >>> train = X[:150], y[:150]
    >>> model = trustml.wrap(LinearRegression().fit(*train), train=train)
    >>> cp = SplitRegressor(model, ResidualModel(LinearRegression())).fit(X[150:], y[150:])
    >>> narrow, wide = np.diff(cp.predict_interval([[0.1], [0.9]], alpha=0.1))
    >>> bool(wide > 2 * narrow)
    True
    """

    name = "residual_model"

    def __init__(self, estimator: Any = None, floor: float = 0.01) -> None:
        self.estimator, self.floor = estimator, check_floor(floor)

    def scale(self, model: Model) -> Scale:
        """Return the fitted second regressor's expectation."""
        from sklearn.ensemble import RandomForestRegressor

        model.require_train("SplitRegressor(score='residual_model')")
        train: Data = model.train  # type: ignore[assignment]
        residuals = np.abs(predicted(model, train) - measured(model, train.targets))
        added = self.floor * max(float(residuals.mean()), np.finfo(np.float64).tiny)
        second = RandomForestRegressor(min_samples_leaf=10, max_features=1 / 3, random_state=0)
        second = second if self.estimator is None else clone(self.estimator)
        return _Expected(model, second.fit(space(model, train), np.log(residuals + added)))


@dataclass(frozen=True, eq=False)
class _Expected:
    model: Model
    second: Any

    def __call__(self, X: Any) -> np.ndarray:
        size: np.ndarray = np.exp(self.second.predict(space(self.model, X)))
        return size
