"""Which rows belong to which group; several sensitive columns give their intersections."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import narwhals.stable.v1 as nw
import numpy as np

from trustml.core.validation import to_numpy
from trustml.warnings import SmallGroupWarning

SMALL_GROUP = 20  # rows; below, the 95 % interval of a rate is wider than 0.4

_CONTINUOUS = 10  # more distinct fractional values than this are a measurement, not groups


@dataclass(frozen=True)
class Groups:
    """A partition of the rows.

    Attributes
    ----------
    codes : numpy.ndarray of shape (n,)
        Index into ``labels`` of each row's group.
    labels : tuple
        The groups present, sorted: the user's own values, tuples of them for several columns.
    names : tuple of str
        The sensitive columns.
    """

    codes: np.ndarray
    labels: tuple[Any, ...]
    names: tuple[str, ...]

    @property
    def counts(self) -> np.ndarray:
        """Rows of each group, shape (n_groups,)."""
        return np.bincount(self.codes, minlength=len(self.labels))

    def index(self, label: Any, name: str = "privileged") -> int:
        """Return the position of a group, or say which groups there are."""
        wanted = tuple(label) if isinstance(label, list) else label
        for position, present in enumerate(self.labels):
            if present == wanted:
                return position
        raise ValueError(
            f"{name} must be one of the groups {list(self.labels)} of {' x '.join(self.names)}, "
            f"got {label!r}; a group can vanish in a split: stratify the split by it"
        )

    def warn_if_small(self, stacklevel: int = 3) -> None:
        """Warn once, naming every group of fewer than ``SMALL_GROUP`` rows."""
        small = {
            str(label): int(count)
            for label, count in zip(self.labels, self.counts, strict=True)
            if count < SMALL_GROUP
        }
        if small:
            warnings.warn(
                f"groups with fewer than {SMALL_GROUP} rows: {small}; their metrics are mostly "
                "noise: read the intervals (.ci()), merge groups, or bring more rows",
                SmallGroupWarning,
                stacklevel=stacklevel + 1,
            )


def as_groups(sensitive_features: Any, n: int) -> Groups:
    """Split ``n`` rows by the values of one or several sensitive columns.

    Parameters
    ----------
    sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
        Several columns give one group for each combination that occurs.
    n : int
        Rows that are expected.

    Returns
    -------
    Groups

    Raises
    ------
    ValueError
        If the length is wrong, a value is missing, a column looks continuous, or all rows are in
        one group.
    """
    columns = _columns(sensitive_features)
    parts = []
    for name, values in columns.items():
        if len(values) != n:
            raise ValueError(
                f"sensitive_features must have one row for each of the {n} labels, but column "
                f"{name!r} has {len(values)}"
            )
        _refuse_missing(values, name)
        _refuse_continuous(values, name)
        parts.append(values.tolist())
    keys = parts[0] if len(parts) == 1 else list(zip(*parts, strict=True))
    labels = _sorted_unique(keys)
    if len(labels) < 2:
        raise ValueError(
            f"sensitive_features has one group only, {labels[0]!r}; fairness compares at least two:"
            " check how the rows were selected, and stratify the split by the sensitive features"
        )
    if 2 * len(labels) > max(n, 4):
        raise ValueError(
            f"sensitive_features has {len(labels)} groups for {n} rows; is a column an identifier "
            "or continuous? Bin it, or leave it out"
        )
    position = {label: code for code, label in enumerate(labels)}
    codes = np.fromiter((position[key] for key in keys), dtype=np.int64, count=n)
    return Groups(codes, tuple(labels), tuple(columns))


def _columns(x: Any) -> dict[str, np.ndarray]:
    """Name -> (n,) array for each sensitive column."""
    if x is None:
        raise TypeError("sensitive_features is None; pass one value a row: group membership")
    if isinstance(x, dict):
        frame = {str(name): to_numpy(column).ravel() for name, column in x.items()}
        if not frame:
            raise ValueError("sensitive_features is an empty dict; pass at least one column")
        return frame
    x = _with_plain_names(x)
    native = nw.from_native(x, pass_through=True, allow_series=True)
    if isinstance(native, nw.LazyFrame):
        native = native.collect()
    if isinstance(native, nw.DataFrame):
        if not native.columns:
            raise ValueError("sensitive_features is a frame without columns")
        return {str(name): native[:, j].to_numpy() for j, name in enumerate(native.columns)}
    if isinstance(native, nw.Series):
        return {str(native.name or "sensitive_feature_0"): native.to_numpy()}
    array = to_numpy(x)
    if isinstance(x, (list, tuple)) and array.dtype.kind in "OU":
        array = np.array(x, dtype=object)  # as text 1 and "1" would be one group
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"sensitive_features must have shape (n,) or (n, k), got {array.shape}")
    return {f"sensitive_feature_{j}": array[:, j] for j in range(array.shape[1])}


def _with_plain_names(x: Any) -> Any:
    """Return a pandas frame with one name a column; equal names raise."""
    names = getattr(x, "columns", None)
    if names is None or not hasattr(x, "iloc"):
        return x
    if getattr(names, "nlevels", 1) > 1:
        x = x.set_axis([" ".join(map(str, name)) for name in names], axis=1)
        names = x.columns
    plain = [str(name) for name in names]
    twice = sorted({name for name in plain if plain.count(name) > 1})
    if twice:
        raise ValueError(
            f"sensitive_features has more than one column called {', '.join(map(repr, twice))}; "
            "rename or drop them"
        )
    return x


def _refuse_missing(values: np.ndarray, name: str) -> None:
    if np.ma.is_masked(values):
        missing = np.ma.getmaskarray(values)
    elif values.dtype.kind in "biuSU":
        return
    elif values.dtype.kind == "f":
        missing = np.isnan(values)
    else:
        missing = np.array(
            [
                v is None
                or type(v).__name__ in ("NAType", "NaTType")
                or (isinstance(v, (float, np.floating)) and bool(np.isnan(v)))
                for v in values.tolist()
            ]
        )
    if missing.any():
        raise ValueError(
            f"sensitive column {name!r} has {int(missing.sum())} missing values (first at row "
            f"{int(np.flatnonzero(missing)[0])}); drop these rows, or give the missing a group of "
            "their own, such as 'unknown'"
        )


def _refuse_continuous(values: np.ndarray, name: str) -> None:
    if values.dtype.kind != "f":
        return
    distinct = np.unique(values)
    if len(distinct) > _CONTINUOUS and (distinct != np.round(distinct)).any():
        raise ValueError(
            f"sensitive column {name!r} looks continuous ({len(distinct)} distinct values); bin it "
            "first, for instance with numpy.digitize"
        )


def _sorted_unique(keys: list[Any]) -> list[Any]:
    distinct = list(dict.fromkeys(keys))
    try:
        return sorted(distinct)
    except TypeError:  # mixed types have no order of their own
        return sorted(distinct, key=lambda key: (type(key).__name__, str(key)))
