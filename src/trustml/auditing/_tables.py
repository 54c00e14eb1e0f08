"""Data files of an audit: CSV, Parquet, npz."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trustml.auditing._config import Config, ConfigError
from trustml.auditing._settings import hint
from trustml.core.optional import require
from trustml.core.validation import to_numpy

_TABLES = (".csv", ".parquet", ".pq")


@dataclass(frozen=True)
class Rows:
    """One split of the data.

    Attributes
    ----------
    X : array or data frame
        Features.
    y : ndarray or None
        Target; None for out-of-distribution rows.
    sensitive : dict of str to ndarray
        Sensitive columns.
    """

    X: Any
    y: NDArray[Any] | None
    sensitive: dict[str, NDArray[Any]] = field(default_factory=dict)


def read_rows(
    config: Config, key: str, name: Any, features: list[str] | None, labelled: bool = True
) -> Rows:
    """Read one split.

    Parameters
    ----------
    config : Config
        Names the columns.
    key : str
        The split: "test", "calibration", "train", "ood".
    name : str
        The file, relative to the configuration.
    features : list of str or None
        Columns the model was fitted with; used where the configuration names none.
    labelled : bool
        Whether the target must be there.

    Returns
    -------
    Rows

    Raises
    ------
    ConfigError
        If the file is missing, of another kind, or lacks a column.
    """
    path = config.file(name, f"[data] {key}")
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return _arrays(config, key, path, labelled)
    if suffix in _TABLES:
        return _frame(config, key, path, features, labelled)
    raise ConfigError(
        f"{config.path.name}: [data] {key}: {path.name} has an unknown ending {suffix!r}; use "
        ".csv, .parquet or .npz"
    )


def _frame(
    config: Config, key: str, path: Path, features: list[str] | None, labelled: bool
) -> Rows:
    pandas = require("pandas", "frames")
    try:
        frame = (
            pandas.read_csv(path) if path.suffix.lower() == ".csv" else pandas.read_parquet(path)
        )
    except (ValueError, OSError) as error:
        raise ConfigError(f"[data] {key}: cannot read {path.name}: {error}") from error
    columns = [str(column) for column in frame.columns]
    data = config.data
    target = data.get("target")
    if labelled and target is None:
        raise ConfigError(
            f'{config.path.name}: [data] needs target = "..."; the columns of {path.name} are '
            f"{columns}"
        )
    sensitive = list(data.get("sensitive", ())) if labelled and key == "test" else []
    needed = [*([target] if labelled else []), *sensitive]
    chosen = data.get("features") or features
    left_out = {target, *data.get("drop", ())}
    if chosen is None:
        chosen = [column for column in columns if column not in left_out]
    for column in (*needed, *chosen):
        if column not in columns:
            raise ConfigError(
                f"{path.name} has no column {column!r}{hint(column, columns)}; it has {columns}"
            )
    return Rows(
        frame[chosen],
        to_numpy(frame[target]) if labelled else None,
        {column: to_numpy(frame[column]) for column in sensitive},
    )


def _arrays(config: Config, key: str, path: Path, labelled: bool) -> Rows:
    data = config.data
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except ValueError as error:
        raise ConfigError(
            f"[data] {key}: cannot read {path.name}: {error}; object arrays are pickles: save text "
            "as np.array(values, dtype=str)"
        ) from error

    def named(name: str) -> NDArray[Any]:
        for candidate in (f"{name}_{key}", name):
            if candidate in arrays:
                found: NDArray[Any] = arrays[candidate]
                return found
        raise ConfigError(
            f"{path.name} has neither an array {name + '_' + key!r} nor {name!r}; it has "
            f"{list(arrays)}"
        )

    return Rows(
        named(data.get("inputs", "X")),
        named(data.get("target", "y")) if labelled else None,
        {name: named(name) for name in data.get("sensitive", ())} if key == "test" else {},
    )
