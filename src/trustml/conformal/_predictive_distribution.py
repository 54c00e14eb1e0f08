"""Conformal predictive distributions."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from trustml.conformal._band import BandRegressor
from trustml.conformal._calibration import Condition
from trustml.conformal._regression import as_regressor, measured
from trustml.conformal._residual_score import ResidualScore, as_residual_score
from trustml.conformal._scored import rows_of
from trustml.conformal._split_regressor import ResidualBand
from trustml.core.random import RandomState, numpy_generator, row_uniforms
from trustml.core.validation import restore, to_numpy
from trustml.evidence import exact_alpha, pvalues


class ConformalPredictiveDistribution(BandRegressor):
    """A whole distribution of each row's value, calibrated at every level at once.

    The distribution of a row is its prediction plus its scale times the n calibration residuals
    per scale. That of a new row's own value is uniform, whatever the model and the noise: over
    calibration and test rows that are exchangeable and that the model was not trained on, and
    within each group of a ``condition``. Intervals are `SplitRegressor`'s of signed residuals.

    Parameters
    ----------
    model : Model or what `trustml.wrap` takes
        A regressor of one output.
    score : ResidualScore, or the name of one
        Its scale: "absolute" gives all rows one shape; "normalized" and others stretch it by the
        row's difficulty.
    condition : None, column or callable X -> groups (n,)
        A distribution of residuals for every group of rows.
    random_state : int, Generator or None
        Seed of the random part of ``pit``, a hash of the seed and the row.

    Attributes
    ----------
    model_ : Model
        The wrapped model.
    calibration_ : tuple of CalibrationScores
        Sorted residuals per scale by group, negated and as they are.
    n_calibration_ : int
        Number of calibration rows.

    References
    ----------
    Vovk, Petej, Nouretdinov, Manokhin and Gammerman (2020), Computationally efficient versions of
    conformal predictive distributions, arXiv:1911.00941.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import Ridge
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(300, 2))
    >>> y = X.sum(1) + rng.normal(size=300)
    >>> cp = ConformalPredictiveDistribution(Ridge().fit(X[:100], y[:100]))
    >>> cp = cp.fit(X[100:], y[100:])
    >>> cp.quantiles([[0.0, 0.0], [3.0, 3.0]], [0.1, 0.9]).round(1)
    array([[-1.1,  1.2],
           [ 5. ,  7.3]])
    >>> cp.cdf([[0.0, 0.0]], [1.0]).round(1)
    array([0.9])
    """

    symmetric = False  # each side is calibrated: the ends are quantiles

    def __init__(
        self,
        model: Any,
        score: str | ResidualScore = "absolute",
        condition: Condition | None = None,
        random_state: RandomState = None,
    ) -> None:
        self.model = model
        self.score = score
        self.condition = condition
        self.random_state = random_state

    def fit(self, X_cal: Any, y_cal: Any) -> Self:
        """Keep the calibration rows' residuals; the model is not trained.

        Parameters
        ----------
        X_cal : array of shape (n, ...), or whatever the model takes
            Rows that the model was not trained on.
        y_cal : array of shape (n,)
            Their values.

        Returns
        -------
        ConformalPredictiveDistribution
            Itself.
        """
        model = as_regressor(self.model, "ConformalPredictiveDistribution")
        bands = ResidualBand(model, as_residual_score(self.score).scale(model))
        seed = int(numpy_generator(self.random_state).integers(2**62))
        self._calibrate(bands, bands(X_cal), X_cal, measured(model, y_cal))
        self.model_, self.seed_ = model, seed
        return self

    def cdf(self, X: Any, y: Any) -> Any:
        """Return the probability that each row's value is at most y.

        Parameters
        ----------
        X : array of shape (n, ...), or whatever the model takes
            New rows.
        y : array of shape (n,) or (n, k)
            One value or several for each row.

        Returns
        -------
        array of shape (n,) or (n, k)
            The middle of the jump where y is a residual's place: strictly between 0 and 1, and
            within 1 / (2 n + 2) of every value that conformal calibration allows.

        Raises
        ------
        ValueError
            If ``y`` has another length, or NaN.
        """
        check_is_fitted(self, "calibration_")
        values = to_numpy(y).astype(np.float64)
        if values.ndim not in (1, 2) or np.isnan(values).any():
            raise ValueError(
                f"y must be (n,) or (n, k) without NaN, got shape {values.shape}; drop such values"
            )
        places = self._places(X, values.reshape(len(values), -1), np.full(len(values), 0.5))
        return restore(places.reshape(values.shape), X)

    def pit(self, X: Any, y: Any) -> Any:
        """Return each row's own place in its distribution, exactly uniform for new rows.

        Parameters
        ----------
        X : array of shape (n, ...), or whatever the model takes
            New rows.
        y : array of shape (n,)
            Their true values.

        Returns
        -------
        array of shape (n,)
            In (0, 1), jumps filled at random: a probability integral transform. Rows that share
            calibration rows are not independent.
        """
        check_is_fitted(self, "calibration_")
        uniforms = row_uniforms(rows_of(X), self.seed_)
        return restore(self._places(X, measured(self.model_, y)[:, None], uniforms)[:, 0], X)

    def quantiles(self, X: Any, levels: Any) -> Any:
        """Return the least values that hold each row's own with these probabilities, or more.

        Parameters
        ----------
        X : array of shape (n, ...), or whatever the model takes
            New rows.
        levels : float in (0, 1), or list of k of them
            P(value <= quantile) is in [level, level + 1 / (n + 1)] where residuals are distinct.

        Returns
        -------
        array of shape (n,), or (n, k) for a list
            In the unit of y; +inf where there are too few calibration rows for the level.

        Raises
        ------
        ValueError
            If a level is not in (0, 1).

        Warns
        -----
        CoverageWarning
            If a group has too few calibration rows for a level.
        """
        check_is_fitted(self, "calibration_")
        asked = np.asarray(levels, dtype=np.float64)
        if asked.ndim > 1 or asked.size == 0 or not ((asked > 0) & (asked < 1)).all():
            raise ValueError(f"levels must be numbers in (0, 1), one or a list, got {levels!r}")
        rates = [1 - exact_alpha(level) for level in asked.reshape(-1).tolist()]
        band = self._bands(X)
        codes = self._codes(X, len(band.low))
        above = self.calibration_[1].thresholds(rates, codes)[codes]
        found = band.high[:, None] + above * band.unit_high[:, None]
        return restore(found[:, 0] if asked.ndim == 0 else found, X)

    def crps(self, X: Any, y: Any) -> Any:
        """Return the continuous ranked probability score of each row, in closed form.

        The integral of the squared distance between the distribution function, n equal jumps, and
        the step at the true value: proper, less is better, abs(y - f(x)) for a single jump.

        Parameters
        ----------
        X : array of shape (n, ...), or whatever the model takes
            New rows.
        y : array of shape (n,)
            Their true values.

        Returns
        -------
        array of shape (n,)
            In the unit of y; +inf for rows of a group without calibration rows.

        References
        ----------
        Gneiting and Raftery (2007), Strictly proper scoring rules, equation 21.
        """
        check_is_fitted(self, "calibration_")
        scaled, codes, unit = self._scaled(X, measured(self.model_, y)[:, None])
        out = np.full(len(codes), np.inf)
        for g, residuals in enumerate(self.calibration_[1].by_group):
            mine = codes == g
            if len(residuals):
                out[mine] = _crps(residuals, scaled[mine, 0]) * unit[mine]
        return restore(out, X)

    def _scaled(self, X: Any, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return residuals per scale (n, k), groups (n,), scales (n,)."""
        band = self._bands(X)
        if len(y) != len(band.low):
            raise ValueError(f"X has {len(band.low)} rows, y has {len(y)}; give one y a row")
        codes = self._codes(X, len(y))
        return (y - band.low[:, None]) / band.unit_low[:, None], codes, band.unit_low

    def _places(self, X: Any, y: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        """Return where y (n, k) is in each row's distribution, jumps filled by uniforms (n,)."""
        scaled, codes, _ = self._scaled(X, y)
        out = np.repeat(uniforms[:, None], y.shape[1], axis=1)  # without residuals: anywhere
        for g, negated in enumerate(self.calibration_[0].by_group):
            mine = codes == g
            if len(negated) and mine.any():
                out[mine] = pvalues(negated, -scaled[mine], uniforms=uniforms[mine])
        return out


def _crps(residuals: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Return E|R - r| - E|R - R'| / 2 for sorted residuals and new ones."""
    n, middle = len(residuals), residuals[len(residuals) // 2]
    # About their median, so that the sums below cancel nothing.
    residuals, r = residuals - middle, r - middle
    sums = np.concatenate([[0.0], np.cumsum(residuals)])
    k = np.searchsorted(residuals, r)
    distance = (r * (2 * k - n) + sums[-1] - 2 * sums[k]) / n
    spread = (2 * np.arange(1, n + 1) - n - 1) @ residuals / n**2
    score: np.ndarray = distance - spread
    return score
