"""Tables from files and from OpenML: inputs, target, and columns kept aside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trustml.core.optional import require

_CSV = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
_PARQUET = (".parquet", ".pq")


class Table(NamedTuple):
    """Inputs, target and extra columns of one table.

    Attributes
    ----------
    X : frame or ndarray of shape (n, ...)
        Inputs.
    y : ndarray of shape (n,)
        Target.
    extras : dict of str to ndarray of shape (n,)
        Columns kept aside, such as sensitive features.
    """

    X: Any
    y: NDArray[Any]
    extras: dict[str, NDArray[Any]]


def load_table(
    path: str | Path,
    target: str = "y",
    extras: Sequence[str] = (),
    *,
    drop: Sequence[str] = (),
    keep_extras: bool = False,
) -> Table:
    """Read a CSV, Parquet or npz file.

    Parameters
    ----------
    path : str or Path
        Ends in .csv, .tsv (also .gz), .parquet or .npz. Nothing is unpickled.
    target : str
        Column, or array of the npz file, that is predicted.
    extras : sequence of str
        Columns to keep aside; of an npz file, arrays. All other arrays of an npz file than "X" and
        the target are kept aside too.
    drop : sequence of str
        Columns that are not read at all.
    keep_extras : bool
        Whether the extras are inputs too.

    Returns
    -------
    Table
        X is a pandas frame for CSV and Parquet, an array for npz.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the ending is unknown, a column is missing, or there are no rows.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    name = path.name.lower()
    if name.endswith(".npz"):
        return _from_npz(path, target, extras)
    if name.endswith(_CSV):
        pandas = require("pandas", "frames")
        frame = pandas.read_csv(path, sep="\t" if ".tsv" in name else ",")
    elif name.endswith(_PARQUET):
        require("pyarrow", "frames")
        frame = require("pandas", "frames").read_parquet(path)
    else:
        known = ", ".join((*_CSV, *_PARQUET, ".npz"))
        raise ValueError(f"cannot read {path.name}: the ending must be one of {known}")
    return _split(frame, target, extras, drop, keep_extras, str(path))


def fetch_openml(
    name: str,
    version: int | str = "active",
    target: str | None = None,
    extras: Sequence[str] = (),
    *,
    drop: Sequence[str] = (),
    keep_extras: bool = False,
    data_home: str | None = None,
) -> Table:
    """Download a table from OpenML, or read it from scikit-learn's cache.

    Parameters
    ----------
    name : str
        Name of the data set.
    version : int or "active"
        Pin a number to get the same rows tomorrow.
    target : str or None
        None is the data set's own default target.
    extras, drop : sequence of str
        Columns to keep aside, columns to leave out.
    keep_extras : bool
        Whether the extras are inputs too.
    data_home : str or None
        Cache folder; None is scikit-learn's.

    Returns
    -------
    Table

    Raises
    ------
    ValueError
        If the data set has no single default target and none was named.
    """
    require("pandas", "frames")
    from sklearn.datasets import fetch_openml as fetch

    bunch = fetch(name=name, version=version, as_frame=True, data_home=data_home, parser="auto")
    if target is None:
        if len(bunch.target_names) != 1:
            raise ValueError(f"{name} has the targets {bunch.target_names}; name one with target=")
        target = str(bunch.target_names[0])
    return _split(bunch.frame, target, extras, drop, keep_extras, f"OpenML {name}")


def _split(
    frame: Any,
    target: str,
    extras: Sequence[str],
    drop: Sequence[str],
    keep_extras: bool,
    where: str,
) -> Table:
    columns = [str(column) for column in frame.columns]
    frame = frame.set_axis(columns, axis=1)
    _check_present([target, *extras, *drop], columns, where)
    if len(frame) == 0:
        raise ValueError(f"{where} has no rows")
    if frame[target].isna().any():
        raise ValueError(f"{where}: the target {target!r} has missing values; drop these rows")
    away = {target, *drop} | (set() if keep_extras else set(extras))
    kept = [column for column in columns if column not in away]
    if not kept:
        raise ValueError(f"{where} has no input columns left beside {sorted(away)}")
    return Table(
        frame[kept],
        frame[target].to_numpy(),
        {name: frame[name].to_numpy() for name in extras},
    )


def _from_npz(path: Path, target: str, extras: Sequence[str]) -> Table:
    with np.load(path, allow_pickle=False) as stored:
        _check_present(["X", target, *extras], list(stored.files), str(path))
        try:
            arrays = {name: stored[name] for name in stored.files}
        except ValueError as error:
            raise ValueError(
                f"{path.name} holds Python objects, which are not read from untrusted files; save "
                "plain numbers or fixed-width strings"
            ) from error
    X, y = arrays.pop("X"), arrays.pop(target)
    rows = {name: len(array) for name, array in arrays.items() if array.ndim}
    if len(X) == 0 or len(y) != len(X) or any(rows.get(name) != len(X) for name in extras):
        raise ValueError(
            f"{path.name}: X has {len(X)} rows, {target} has {len(y)}, others have {rows}; "
            "all must have the same number, at least one"
        )
    return Table(X, y, arrays)


def _check_present(wanted: Sequence[str], present: list[str], where: str) -> None:
    missing = [name for name in wanted if name not in present]
    if missing:
        shown = ", ".join(present[:30]) + (", ..." if len(present) > 30 else "")
        raise ValueError(f"{where} has no {', '.join(map(repr, missing))}; there are: {shown}")
