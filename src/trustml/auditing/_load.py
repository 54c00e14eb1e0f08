"""A user's model from a function or a file; nothing is unpickled unless the user says so."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from trustml.auditing._config import Config, ConfigError
from trustml.core.optional import require

_PICKLES = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin")


def load_estimator(config: Config, allow_pickle: bool = False) -> Any:
    """Return the estimator that [model] names.

    Parameters
    ----------
    config : Config
        With ``load`` or ``path``.
    allow_pickle : bool
        Whether files that run code when they are read may be read.

    Returns
    -------
    object
        What ``trustml.wrap`` takes, or a Model.

    Raises
    ------
    ConfigError
        If it cannot be loaded, or must not be.
    """
    if "load" in config.model:
        return _call(config, config.model["load"])
    path = config.file(config.model["path"], "[model] path")
    suffix = path.suffix.lower()
    if suffix == ".skops":
        return _skops(path, config.model.get("trusted_types", []))
    if suffix == ".pt2":
        from trustml.auditing._exported import load_exported

        return load_exported(path)
    if suffix not in _PICKLES:
        raise ConfigError(
            f"{config.path.name}: [model] path: {path.name} has an unknown ending {suffix!r}; use "
            '.skops (scikit-learn), .pt2 (torch.export), or load = "package.module:function"'
        )
    if not allow_pickle:
        raise ConfigError(
            f"{path.name} is a pickle: reading it runs whatever code it holds. Save the model with "
            "skops or torch.export, or pass --allow-pickle if you trust its author"
        )
    return _pickle(path)


def _call(config: Config, target: Any) -> Any:
    if not isinstance(target, str) or target.count(":") != 1:
        raise ConfigError(
            f'{config.path.name}: [model] load must be "package.module:function", got {target!r}'
        )
    module_name, function_name = target.split(":")
    with _importable(config.path.parent):
        try:
            module = import_module(module_name)
        except ImportError as error:
            raise ConfigError(
                f"[model] load = {target!r}: cannot import {module_name!r} ({error}); it must be "
                f"installed or lie in {config.path.parent.resolve()}"
            ) from error
        function = getattr(module, function_name, None)
        if not callable(function):
            raise ConfigError(
                f"[model] load = {target!r}: {module_name} has no function {function_name!r}"
            )
        try:
            return function()
        except Exception as error:
            raise ConfigError(
                f"[model] load = {target!r} raised {type(error).__name__}: {error}"
            ) from error


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let modules beside the audit file be imported."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)


def _skops(path: Path, trusted: list[str]) -> Any:
    skops = require("skops.io", "skops")
    try:
        unknown = [t for t in skops.get_untrusted_types(file=path) if t not in trusted]
        if unknown:
            raise ConfigError(
                f"{path.name} holds types that skops does not know: {unknown}; if you trust them, "
                f"add trusted_types = {unknown} to [model]"
            )
        return skops.load(path, trusted=list(trusted))
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"cannot read {path.name} as skops: {error}") from error


def _pickle(path: Path) -> Any:
    try:
        if path.suffix.lower() in {".pkl", ".pickle", ".joblib"}:
            loaded = require("joblib", "all").load(path)
        else:
            import torch

            loaded = torch.load(path, weights_only=False)
    except Exception as error:
        raise ConfigError(f"cannot unpickle {path.name}: {error}") from error
    if isinstance(loaded, dict):
        raise ConfigError(
            f"{path.name} holds a dict (a state_dict?), not a model; build the model in a function "
            'and name it: load = "package.module:function"'
        )
    return loaded
