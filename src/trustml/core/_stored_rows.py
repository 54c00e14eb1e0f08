"""A table on disk that is filled block by block, and knows which blocks are whole."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trustml.core import distributed
from trustml.core._files import check_disk, flush, replace, unreadable
from trustml.core.progress import track
from trustml.core.validation import check_positive_int, to_numpy
from trustml.errors import StoreMismatchError

_RECORD = re.compile(r"^(\d+) (\d+) ([0-9a-f]{8})$")


class StoredRows:
    """A table on disk, filled block by block; made by ``Store.rows``.

    A block is written first, then noted in a journal with its checksum: what the journal does not
    vouch for is computed again.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        for size in shape:
            check_positive_int(size, "shape")
        if not shape or dtype.kind not in "biuf":
            raise ValueError(f"a table needs an axis of rows and numbers, got {shape} of {dtype}")
        self.shape, self.dtype = tuple(shape), dtype
        self._path, self._journal = path, path.with_suffix(".journal")
        distributed.once(lambda: None if path.exists() else self._make())
        with path.open("rb") as file:
            read = np.lib.format.read_array_header_1_0
            try:
                known = np.lib.format.read_magic(file) == (1, 0)
                fits = known and read(file) == (self.shape, False, dtype)
            except ValueError as reason:
                raise ValueError(unreadable(path, reason)) from reason
            if not fits:
                raise StoreMismatchError(
                    f"{path} is not a table of shape {self.shape} and type {dtype}; delete it"
                )
            self._offset = file.tell()
        self._row_bytes = math.prod(shape[1:]) * dtype.itemsize
        if path.stat().st_size != self._offset + shape[0] * self._row_bytes:
            raise ValueError(f"{path} has been cut off; delete it")
        self.done = self._vouched()

    def __repr__(self) -> str:
        """Show how far it is."""
        return f"StoredRows({self._path.name}, {int(self.done.sum())} of {self.shape[0]} rows)"

    @property
    def complete(self) -> bool:
        """Whether every row is there."""
        return bool(self.done.all())

    @property
    def values(self) -> np.ndarray:
        """The numbers, memory-mapped; changes stay in memory. Zero where a row is not done."""
        whole: np.ndarray = np.load(self._path, mmap_mode="c", allow_pickle=False)
        return whole

    def pending(self, block: int = 1) -> Iterator[slice]:
        """Yield slices of rows that are not done, at most ``block`` long, in order.

        Parameters
        ----------
        block : int
            At least 1.

        Yields
        ------
        slice
        """
        block = check_positive_int(block, "block")
        missing = np.flatnonzero(~self.done)
        runs = np.split(missing, np.flatnonzero(np.diff(missing) > 1) + 1)
        for run in runs:
            for start in range(0, len(run), block):
                part = run[start : start + block]
                yield slice(int(part[0]), int(part[-1]) + 1)

    def write(self, start: int, rows: Tensor | np.ndarray) -> None:
        """Write finished rows; they survive whatever happens to the process afterwards.

        Parameters
        ----------
        start : int
            Where the first of them belongs.
        rows : Tensor or array of shape (b, ...)
            In order.

        Raises
        ------
        ValueError
            If they do not fit into the table.
        """
        array = to_numpy(rows)
        stop = start + len(array)
        if array.shape[1:] != self.shape[1:] or not 0 <= start < stop <= self.shape[0]:
            raise ValueError(
                f"rows of shape {array.shape} do not fit at {start} into a table of {self.shape}"
            )
        if distributed.is_first():
            numbers = np.ascontiguousarray(array, dtype=self.dtype).tobytes()
            with self._path.open("r+b") as file:
                file.seek(self._offset + start * self._row_bytes)
                file.write(numbers)
                flush(file)
            with self._journal.open("ab") as file:
                file.write(f"\n{start} {stop} {zlib.crc32(numbers):08x}\n".encode())
                flush(file)
        self.done[start:stop] = True

    def fill(
        self,
        compute: Callable[[slice], Tensor | np.ndarray],
        block: int = 1,
        description: str | None = None,
    ) -> np.ndarray:
        """Compute and write what is not done yet.

        Parameters
        ----------
        compute : callable
            Maps a slice of rows to their numbers (b, ...).
        block : int
            Rows at a time.
        description : str or None
            Text of a progress bar; None shows none.

        Returns
        -------
        numpy.ndarray
            ``values``.
        """
        parts = list(self.pending(block))
        for part in track(parts, description):
            self.write(part.start, compute(part))
        distributed.agreed(0.0)
        return self.values

    def _make(self) -> None:
        size = math.prod(self.shape) * self.dtype.itemsize
        check_disk(self._path.parent, size)
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": self.shape}

        def write(partial: Path) -> None:
            with partial.open("wb") as file:
                np.lib.format.write_array_header_1_0(file, header)
                file.truncate(file.tell() + size)

        self._journal.unlink(missing_ok=True)
        replace(self._path, write)

    def _vouched(self) -> np.ndarray:
        """Return which rows the journal vouches for; the first process's word counts."""
        done = np.zeros(self.shape[0], dtype=bool)
        if distributed.is_first() and self._journal.exists():
            with self._path.open("rb") as file:
                for line in self._journal.read_text(errors="replace").splitlines():
                    record = _RECORD.match(line)
                    if record is None:  # cut off by a kill
                        continue
                    start, stop = int(record[1]), int(record[2])
                    if not start < stop <= len(done):
                        continue
                    file.seek(self._offset + start * self._row_bytes)
                    numbers = file.read((stop - start) * self._row_bytes)
                    done[start:stop] = zlib.crc32(numbers) == int(record[3], 16)
        mine = torch.as_tensor(done) if distributed.is_first() else None
        found: np.ndarray = distributed.gather(lambda: mine).numpy()
        return found
