"""Files as their publishers made them: with or without a header, codes for what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trustml.core.optional import require
from trustml.datasets._datasheet import Datasheet, group_sizes
from trustml.datasets._tables import Table, _check_present


def read_text_table(path: Path | str, names: Sequence[str] | None, *, separator: str = ",") -> Any:
    """Return a frame of strings; ``?`` is missing and a line that starts with ``|`` is none.

    Parameters
    ----------
    path : Path or str
        A file, plain or compressed (.gz); a string is an address on the network.
    names : sequence of str or None
        Columns of a file without a header; None, or a first line that starts with the first of
        them: the header is the file's own.
    separator : str
        Regular expression if longer than a character.

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it has no rows, or another number of columns than ``names``.
    """
    pandas = require("pandas", "frames")
    if isinstance(path, Path) and not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        frame = pandas.read_csv(
            path, sep=separator, header=None, dtype=str, skipinitialspace=True, na_values=["?"],
            comment="|" if names else None, engine="python" if len(separator) > 1 else "c",
        )  # fmt: skip
    except pandas.errors.EmptyDataError:
        frame = pandas.DataFrame()
    except (UnicodeDecodeError, pandas.errors.ParserError) as error:
        raise ValueError(
            f"{path} is no table of text: {error}; check that it is the file"
        ) from error
    if names is None or (len(frame) and frame.iloc[0, 0] == names[0]):
        if len(frame) < 2:
            raise ValueError(f"{path} has no rows")
        return frame[1:].set_axis(frame.iloc[0].tolist(), axis=1).reset_index(drop=True)
    if len(frame) == 0:
        raise ValueError(f"{path} has no rows")
    if frame.shape[1] != len(names):
        raise ValueError(
            f"{path} has {frame.shape[1]} columns, and {len(names)} were expected: "
            + ", ".join(names)
        )
    return frame.set_axis(list(names), axis=1)


def numbers(frame: Any, columns: Sequence[str], where: str) -> Any:
    """Return the frame with these columns as numbers, whole ones where none is missing."""
    pandas = require("pandas", "frames")
    _check_present(list(columns), list(frame.columns), where)
    try:
        return frame.assign(**{c: pandas.to_numeric(frame[c]) for c in columns})
    except ValueError as error:
        raise ValueError(f"{where}: a column of numbers holds something else: {error}") from error


def favourable(labels: Any, meaning: Mapping[str, int], where: str) -> np.ndarray:
    """Return 1 where the label is the favourable one, or say which labels are unknown."""
    cleaned = labels.astype(str).str.strip().str.rstrip(".")
    unknown = sorted(set(cleaned) - set(meaning))
    if unknown:
        raise ValueError(f"{where}: unknown labels {unknown[:5]}; known are {list(meaning)}")
    coded: np.ndarray = cleaned.map(meaning).to_numpy(dtype=np.int64)
    return coded


def need_path(path: str | Path | None, download: bool, loader: str, file: str) -> None:
    """Refuse to guess between a file and the network."""
    if (path is None) == (not download):
        raise ValueError(
            f"{loader} reads a file, path= {file}, or fetches it with download=True; got "
            f"path={path!r} with download={download!r}"
        )


def described(
    X: Any, y: np.ndarray, extras: Mapping[str, Any], attributes: Sequence[str], **facts: Any
) -> tuple[Table, Datasheet]:
    """Return table and datasheet, the sizes of groups counted."""
    aside = {name: _plain(column) for name, column in extras.items()}
    sizes = group_sizes(y, {name: aside[name] for name in attributes})
    return Table(X.reset_index(drop=True), y, aside), Datasheet(rows=len(y), groups=sizes, **facts)


def _plain(column: Any) -> np.ndarray:
    array = np.asarray(column)
    return array if array.dtype.kind in "iuf" else array.astype(np.str_)
