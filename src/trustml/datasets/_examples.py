"""The two examples that audits and tutorials use: digits and diabetes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trustml.core.random import RandomState, numpy_generator


@dataclass(frozen=True, eq=False)
class Split:
    """Some rows with their labels and what is known of the people.

    Attributes
    ----------
    X : ndarray of shape (n, d)
        Inputs.
    y : ndarray of shape (n,)
        Class numbers.
    sensitive_features : dict of str to ndarray of shape (n,)
        Groups by attribute; empty where the rows are no people.
    """

    X: NDArray[np.floating]
    y: NDArray[np.integer]
    sensitive_features: dict[str, NDArray[np.str_]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        """Shapes, not numbers."""
        groups = f", sensitive_features={list(self.sensitive_features)}"
        return (
            f"Split(X={self.X.shape}, y={self.y.shape}{groups if self.sensitive_features else ''})"
        )


@dataclass(frozen=True, eq=False)
class Example:
    """A data set in three exchangeable parts.

    Attributes
    ----------
    name : str
        What it is called.
    train, calibration, test : Split
        Disjoint rows, shuffled before the split.
    feature_names, class_names : tuple of str
        Columns of X, and what the class numbers mean.
    image_shape : tuple of int or None
        (height, width) of a row, where it is an image.
    bounds : tuple of float or None
        Range of valid inputs, where there is one.
    source : str
        Where it comes from.
    """

    name: str
    train: Split
    calibration: Split
    test: Split
    feature_names: tuple[str, ...]
    class_names: tuple[str, ...]
    image_shape: tuple[int, int] | None
    bounds: tuple[float, float] | None
    source: str

    def __repr__(self) -> str:
        """Parts and what they hold, not their numbers."""
        parts = "\n".join(
            f"  {name:12s}{getattr(self, name)!r}" for name in ("train", "calibration", "test")
        )
        return f"{self.name}: {self.source}\n{parts}\n  {len(self.class_names)} classes"


def _parts(
    n: int, random_state: RandomState, fractions: tuple[float, float]
) -> list[NDArray[np.intp]]:
    order = numpy_generator(random_state).permutation(n)
    first = round(fractions[0] * n)
    return np.split(order, [first, first + round(fractions[1] * n)])


def digits(random_state: RandomState = 0) -> Example:
    """Return 1797 handwritten digits, 8 x 8 pixels in [0, 1], float32.

    scikit-learn's file is ordered by writer; the rows are shuffled here, or calibration and test
    would hold other writers than training and nothing would be exchangeable.

    Parameters
    ----------
    random_state : int, Generator or None
        Decides the shuffle.

    Returns
    -------
    Example
        1078 training, 359 calibration and 360 test rows.

    References
    ----------
    Alpaydin and Kaynak (1998), Optical recognition of handwritten digits, UCI.

    Examples
    --------
    >>> example = digits(random_state=0)
    >>> example.train.X.shape, len(example.calibration), len(example.test)
    ((1078, 64), 359, 360)
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    X, y = (data.data / 16).astype(np.float32), data.target.astype(np.int64)
    train, calibration, test = (Split(X[i], y[i]) for i in _parts(len(y), random_state, (0.6, 0.2)))
    return Example(
        name="digits",
        train=train,
        calibration=calibration,
        test=test,
        feature_names=tuple(data.feature_names),
        class_names=tuple(str(digit) for digit in range(10)),
        image_shape=(8, 8),
        bounds=(0.0, 1.0),
        source="UCI optical recognition of handwritten digits, as in scikit-learn",
    )


def diabetes_risk(random_state: RandomState = 0) -> Example:
    """Return 442 patients, and whether their disease progressed more than the median in a year.

    Inputs are in their own units (age in years, body mass index, blood pressure, six blood
    values). The file codes sex as 1 and 2 and its source does not say which is which.

    Parameters
    ----------
    random_state : int, Generator or None
        Decides the shuffle.

    Returns
    -------
    Example
        221 training, 110 calibration and 111 test rows, float64, with the sensitive features
        "sex" and "age_group" (under 50, or 50 and over); sex and age are inputs too.

    References
    ----------
    Efron, Hastie, Johnstone and Tibshirani (2004), Least angle regression, Annals of Statistics.

    Examples
    --------
    >>> example = diabetes_risk(random_state=0)
    >>> example.class_names
    ('below median', 'above median')
    >>> sorted(example.test.sensitive_features)
    ['age_group', 'sex']
    """
    from sklearn.datasets import load_diabetes

    data = load_diabetes(scaled=False)
    X = data.data.astype(np.float64)
    y = (data.target > np.median(data.target)).astype(np.int64)
    age, sex = (X[:, data.feature_names.index(name)] for name in ("age", "sex"))
    groups = {
        "sex": np.where(sex == 1, "sex 1", "sex 2"),
        "age_group": np.where(age < 50, "under 50", "50 and over"),
    }
    train, calibration, test = (
        Split(X[i], y[i], {name: of[i] for name, of in groups.items()})
        for i in _parts(len(y), random_state, (0.5, 0.25))
    )
    return Example(
        name="diabetes",
        train=train,
        calibration=calibration,
        test=test,
        feature_names=tuple(data.feature_names),
        class_names=("below median", "above median"),
        image_shape=None,
        bounds=None,
        source="Efron et al. (2004) diabetes data, as in scikit-learn",
    )
