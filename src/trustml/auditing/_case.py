"""The model and the data of one audit, and what every check derives from them once."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trustml.core.batches import Data
from trustml.core.random import numpy_generator
from trustml.core.validation import take_rows, to_numpy
from trustml.model import Model

# Operations of a direct solve, some seconds of one core; beyond, influence asks the last layer.
_DIRECT = 1e11


@dataclass(frozen=True)
class Split:
    """Rows to calibrate with and other rows to judge on.

    Attributes
    ----------
    X_cal, y_cal : array-like
        Calibration rows and labels.
    X, y : array-like
        Rows to judge.
    rows : int array
        Positions of the judged rows in the test set.
    note : str
        How the split came about, empty if the user made it.
    """

    X_cal: Any
    y_cal: NDArray[Any]
    X: Any
    y: NDArray[Any]
    rows: NDArray[np.intp]
    note: str


@dataclass(frozen=True)
class Case:
    """What is audited.

    Attributes
    ----------
    model : Model
        The wrapped model.
    X, y : array-like and ndarray
        Test rows and their labels or values.
    X_cal, y_cal : array-like and ndarray, or None
        Calibration rows.
    groups : dict of str to ndarray of str
        Sensitive features of the test rows.
    ood : dict of str to array-like
        The user's out-of-distribution sets; empty if there is none.
    level : float in (0, 1)
        Confidence level of each check.
    random_state : int
        Seed of everything random.
    """

    model: Model
    X: Any
    y: NDArray[Any]
    X_cal: Any = None
    y_cal: NDArray[Any] | None = None
    groups: dict[str, NDArray[Any]] = field(default_factory=dict)
    ood: dict[str, Any] = field(default_factory=dict)
    level: float = 0.95
    random_state: int = 0

    @property
    def n(self) -> int:
        """Number of test rows."""
        return len(self.y)

    @cached_property
    def predictions(self) -> NDArray[Any]:
        """Predicted labels or values of the test rows."""
        return to_numpy(self.model.predict(self.X))

    @cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """Class probabilities of the test rows, (n, c)."""
        return np.asarray(to_numpy(self.model.predict_proba(self.X)), dtype=np.float64)

    @cached_property
    def label_index(self) -> NDArray[np.intp]:
        """Column of each test row's true label."""
        return to_numpy(self.model.targets(self.y)).astype(np.intp)

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each test row is predicted right."""
        right: NDArray[np.bool_] = self.probabilities.argmax(1) == self.label_index
        return right

    @cached_property
    def class_names(self) -> list[str]:
        """Names of the classes in column order."""
        return [str(name) for name in self.model.class_names or []]

    @cached_property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one test row."""
        return tuple(int(size) for size in self.X.shape[1:])

    @cached_property
    def feature_names(self) -> list[str]:
        """Names of the features of flat rows."""
        width = int(np.prod(self.row_shape))
        names = self.model.feature_names
        if names is not None and len(names) == width:
            return [str(name) for name in names]
        return [f"feature {j}" for j in range(width)]

    @cached_property
    def train(self) -> Data | None:
        """Training rows as the model reads them; None if none were given, or none can be read."""
        try:
            return self.model.train
        except TypeError:
            if self.model.differentiable:
                raise
            return None  # text that only the model's own preprocessing turns into numbers

    @cached_property
    def no_influence(self) -> str | None:
        """Why training rows have no influence functions here; None if they have."""
        if not self.model.differentiable:
            return "The model only predicts: influence of training rows needs gradients."
        if self.train is None:
            return "No training data: wrap the model with train=(X, y)."
        try:
            _ = self.model.objective
        except TypeError as error:  # its training minimised what has no curvature of this kind
            return f"The training objective is not known: {error}."
        return None

    @cached_property
    def influence(self) -> Any:
        """Influence functions, factorised once for all checks; only if ``no_influence`` is None."""
        from trustml.influence import InfluenceFunctions

        parameters = "last_layer" if self.last_layer_only else None
        return InfluenceFunctions(self.model, parameters=parameters).fit()

    @cached_property
    def last_layer_only(self) -> bool:
        """Whether leave-one-out effects through all parameters would take too long."""
        objective = self.model.objective
        outputs = self.model.n_outputs * len(objective.data)
        return outputs * objective.space.size**2 > _DIRECT and self.model.head_name is not None

    @cached_property
    def split(self) -> Split:
        """Calibration rows and judged rows; without ``X_cal``, two halves of the test set."""
        if self.X_cal is not None and self.y_cal is not None:
            return Split(self.X_cal, self.y_cal, self.X, self.y, np.arange(self.n), "")
        order = numpy_generator(self.random_state).permutation(self.n)
        cal, judged = np.sort(order[: self.n // 2]), np.sort(order[self.n // 2 :])
        return Split(
            take_rows(self.X, cal),
            self.y[cal],
            take_rows(self.X, judged),
            self.y[judged],
            judged,
            f"No calibration data were given: a random half of the test set ({len(cal)} rows) "
            f"calibrates and the other half ({len(judged)} rows) is judged.",
        )

    def sample(self, limit: int, salt: int) -> NDArray[np.intp]:
        """Return the sorted positions of at most `limit` test rows, drawn by the seed."""
        if self.n <= limit:
            return np.arange(self.n)
        generator = numpy_generator(self.random_state + salt)
        return np.sort(generator.choice(self.n, limit, replace=False))

    def bonferroni(self, k: int) -> float:
        """Return the level of each of `k` intervals that together hold at ``level``."""
        return 1 - (1 - self.level) / max(k, 1)
