"""Results on disk that know what they belong to, and go on where a killed run stopped.

A folder holds a manifest (JSON), tables of numbers (``.npy``, memory-mapped, with a journal of the
rows that are done) and groups of tensors (safetensors). Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from trustml.core import distributed
from trustml.core._files import check_disk, replace, unreadable
from trustml.core._stored_rows import StoredRows
from trustml.errors import StoreMismatchError

_MANIFEST, _FORMAT = "manifest.json", 1
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")


class Store:
    """A folder of results that belong to one model, one data set and one set of settings.

    What is written is complete or not there at all, whenever the process is killed. One process
    writes at a time; inside ``data_parallel()`` the first one does, and all must see the folder.

    Parameters
    ----------
    folder : str or Path
        Made if it is not there.
    belongs_to : mapping of str to JSON values
        What the results depend on: hashes of weights and data, settings. A mapping inside it is
        compared entry by entry.

    Attributes
    ----------
    folder : Path
        Where the files are.

    Raises
    ------
    StoreMismatchError
        If the folder belongs to something else; the message names what differs.
    ValueError
        If the folder holds other files, or a manifest that cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = Store(folder, {"weights": "3f2a", "settings": {"damping": 0.1}})
    ...     squares = store.rows("squares", shape=(5, 1))
    ...     values = squares.fill(lambda s: torch.arange(s.start, s.stop)[:, None] ** 2, block=2)
    ...     values[:, 0].tolist(), squares.complete
    ([0.0, 1.0, 4.0, 9.0, 16.0], True)
    """

    def __init__(self, folder: str | os.PathLike[str], belongs_to: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        expected: dict[str, Any] = json.loads(json.dumps(dict(belongs_to)))
        distributed.once(lambda: self._open(expected))

    def __repr__(self) -> str:
        """Show where it is."""
        return f"Store({str(self.folder)!r})"

    def rows(self, name: str, shape: tuple[int, ...], dtype: str = "float64") -> StoredRows:
        """Return a table of numbers that is filled block by block, made on first use.

        Parameters
        ----------
        name : str
            A file name without its ending.
        shape : tuple of int
            The first axis counts the rows.
        dtype : str
            A numpy type of numbers.

        Returns
        -------
        StoredRows
        """
        return StoredRows(self._path(name, ".npy"), shape, np.dtype(dtype))

    def save(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write a group of tensors, replacing what was there, all or nothing.

        Parameters
        ----------
        name : str
            A file name without its ending.
        tensors : mapping of str to Tensor
            On any device.
        """
        path = self._path(name, ".safetensors")

        def write() -> None:
            held = {key: x.detach().cpu().contiguous().clone() for key, x in tensors.items()}
            check_disk(self.folder, sum(x.numel() * x.element_size() for x in held.values()))
            replace(path, lambda partial: save_file(held, partial))

        distributed.once(write)

    def load(self, name: str) -> dict[str, Tensor] | None:
        """Return a group of tensors on the CPU, or None if it was not saved.

        Parameters
        ----------
        name : str
            As it was saved.

        Returns
        -------
        dict of str to Tensor, or None

        Raises
        ------
        ValueError
            If the file is damaged.
        """
        path = self._path(name, ".safetensors")
        if not distributed.agreed(float(path.exists())):
            return None
        try:
            return load_file(path)
        except SafetensorError as reason:
            raise ValueError(unreadable(path, reason)) from reason

    def note(self, name: str, value: Any) -> None:
        """Write JSON values under a name, replacing what was there, all or nothing."""
        path, text = self._path(name, ".json"), json.dumps(value)
        distributed.once(lambda: replace(path, lambda partial: partial.write_text(text)))

    def noted(self, name: str) -> Any:
        """Return the JSON values under a name, or None."""
        path = self._path(name, ".json")
        return json.loads(path.read_text()) if distributed.agreed(float(path.exists())) else None

    def _path(self, name: str, ending: str) -> Path:
        if not _NAME.match(name) or name == "manifest":
            raise ValueError(
                f"name must be letters, digits, dots, dashes and underscores, got {name!r}"
            )
        return self.folder / f"{name}{ending}"

    def _open(self, expected: dict[str, Any]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ValueError(f"a store is a folder, and {error.filename} is a file") from error
        manifest = self.folder / _MANIFEST
        if manifest.exists():
            self._check(expected)
            return
        others = [p.name for p in self.folder.iterdir() if not p.name.endswith(".partial")]
        if others:
            raise ValueError(
                f"{self.folder} holds files but no manifest of a store ({sorted(others)[:3]}); "
                "give an empty or a new folder"
            )
        text = json.dumps({"format": _FORMAT, "belongs_to": expected}, indent=2, sort_keys=True)
        replace(manifest, lambda partial: partial.write_text(text))

    def _check(self, expected: dict[str, Any]) -> None:
        manifest = self.folder / _MANIFEST
        try:
            found = json.loads(manifest.read_text())
            version, belongs_to = found["format"], found["belongs_to"]
            known = _flat(belongs_to)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{manifest} is not the manifest of a store: {error}") from error
        if version != _FORMAT:
            raise StoreMismatchError(
                f"{self.folder} was written in format {version}, this version reads {_FORMAT}; "
                "give another folder"
            )
        wanted = _flat(expected)
        differ = [
            f"{key} ({known.get(key, 'not given')!s} there, {wanted.get(key, 'not given')!s} here)"
            for key in sorted({*known, *wanted})
            if known.get(key) != wanted.get(key)
        ]
        if differ:
            raise StoreMismatchError(
                f"the store in {self.folder} belongs to something else; it differs in "
                f"{'; '.join(differ)}. Give another folder, or delete this one"
            )


def hash_tensors(*tensors: Tensor | None) -> str:
    """Return a hash of tensors' types, shapes and bits.

    Parameters
    ----------
    *tensors : Tensor or None
        On any device.

    Returns
    -------
    str
        32 hexadecimal digits.

    Examples
    --------
    >>> hash_tensors(torch.ones(2)) == hash_tensors(torch.ones(2, 1))
    False
    """
    digest = hashlib.blake2b(digest_size=16)
    for x in tensors:
        digest.update(b"None" if x is None else f"{x.dtype}{tuple(x.shape)}".encode())
        if x is not None:
            flat = x.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        inner = _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else None
        flat |= {f"{prefix}{key}": value} if inner is None else inner
    return flat
