"""``audit.toml``: what to audit, on which data, with which thresholds."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trustml.auditing._settings import hint

_TOP = ("model", "data", "audit", "checks")
_MODEL = (
    "load", "path", "trusted_types", "task", "bounds", "class_names", "feature_names",
    "weight_decay", "device",
)  # fmt: skip
_DATA = ("test", "calibration", "train", "ood", "target", "inputs", "features", "drop", "sensitive")
_AUDIT = ("name", "checks", "level", "random_state", "fail_on")


class ConfigError(ValueError):
    """The audit file, or a file that it names, cannot be used; the text says what to change."""


@dataclass(frozen=True)
class Config:
    """The contents of an ``audit.toml``, checked; paths are relative to its folder.

    Attributes
    ----------
    path : Path
        The file.
    model, data, audit : dict
        Its tables of these names.
    checks : dict
        Check name -> thresholds, for the checks that are to run; empty: all, by default.
    """

    path: Path
    model: dict[str, Any]
    data: dict[str, Any]
    audit: dict[str, Any] = field(default_factory=dict)
    checks: dict[str, Any] = field(default_factory=dict)

    def file(self, name: Any, key: str) -> Path:
        """Return the path of a file that the configuration names, or say that it is missing."""
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{self.path.name}: {key} must be a file name, got {name!r}")
        found = self.path.parent / name
        if not found.is_file():
            raise ConfigError(
                f"{self.path.name}: {key} = {name!r}: there is no file {found}; paths are relative "
                "to the folder of the audit file"
            )
        return found


def read_config(path: str | Path) -> Config:
    """Read and check an audit file.

    Parameters
    ----------
    path : str or Path
        A TOML file with tables [model] and [data], and optionally [audit] and [checks.NAME].

    Returns
    -------
    Config

    Raises
    ------
    ConfigError
        If it is missing, is no TOML, or has a key that is unknown or of the wrong kind.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(
            f"there is no file {path}; name an audit file (see the guide), or use --example digits"
        )
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name} is not valid TOML: {error}") from error
    _known(document, _TOP, path, "table")
    tables = {name: _table(document, name, path) for name in _TOP}
    for name, keys in (("model", _MODEL), ("data", _DATA), ("audit", _AUDIT)):
        _known(tables[name], keys, path, f"key in [{name}]")
    _check_model(tables["model"], path)
    _check_data(tables["data"], path)
    return Config(path, tables["model"], tables["data"], tables["audit"], _chosen(tables, path))


def _table(document: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    value = document.get(name, {})
    if not isinstance(value, dict):
        raise ConfigError(f"{path.name}: [{name}] must be a table, got {value!r}")
    return value


def _known(table: Mapping[str, Any], keys: tuple[str, ...], path: Path, what: str) -> None:
    for key in table:
        if key not in keys:
            raise ConfigError(
                f"{path.name}: unknown {what}: {key!r}{hint(key, keys)}; there are {list(keys)}"
            )


def _check_model(model: Mapping[str, Any], path: Path) -> None:
    if ("load" in model) == ("path" in model):
        raise ConfigError(
            f'{path.name}: [model] needs either load = "package.module:function" or '
            'path = "model.skops" (or .pt2)'
        )
    for key in ("class_names", "feature_names", "trusted_types"):
        _strings(model, key, path, "model")


def _check_data(data: Mapping[str, Any], path: Path) -> None:
    if "test" not in data:
        raise ConfigError(f'{path.name}: [data] needs test = "test.csv" (or .parquet, .npz)')
    for key in ("features", "drop", "sensitive"):
        _strings(data, key, path, "data")
    for key in ("target", "inputs"):
        if not isinstance(data.get(key, ""), str):
            raise ConfigError(f"{path.name}: [data] {key} must be a name, got {data[key]!r}")


def _strings(table: Mapping[str, Any], key: str, path: Path, name: str) -> None:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"{path.name}: [{name}] {key} must be a list of names, got {value!r}")


def _chosen(tables: Mapping[str, dict[str, Any]], path: Path) -> dict[str, Any]:
    """Return the thresholds of the checks that are to run; empty for all defaults."""
    from trustml.auditing.checks import CHECKS

    given = tables["checks"]
    _known(given, tuple(CHECKS), path, "check in [checks]")
    wanted = tables["audit"].get("checks", list(CHECKS))
    if not isinstance(wanted, list) or not all(isinstance(name, str) for name in wanted):
        raise ConfigError(f"{path.name}: [audit] checks must be a list of names, got {wanted!r}")
    _known(dict.fromkeys(wanted), tuple(CHECKS), path, "check in [audit] checks")
    return {name: given.get(name, {}) for name in wanted}
