"""Packages that an extra brings: imported when asked for, named when missing."""

from __future__ import annotations

import importlib.util
import sys
from importlib import import_module
from types import ModuleType

from trustml.errors import MissingExtraError


def require(module: str, extra: str) -> ModuleType:
    """Import an optional module, or say which extra brings it.

    Parameters
    ----------
    module : str
        Dotted name.
    extra : str
        The extra of trustml that installs it.

    Returns
    -------
    ModuleType

    Raises
    ------
    MissingExtraError
        An ``ImportError``: the module is not installed, or cannot be imported.

    Examples
    --------
    >>> require("math", "none").sqrt(4.0)
    2.0
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(_remedy(module, extra, error), name=module) from error


def require_submodule(name: str, extra: str) -> ModuleType:
    """Import a submodule even where its parent packages cannot be imported.

    Some packages import giants in their ``__init__`` that the submodule does not need. If the
    plain import fails, bare parents stand in while the submodule is imported, and leave again.

    Parameters
    ----------
    name : str
        Dotted name with at least one parent.
    extra : str
        The extra of trustml that installs it.

    Returns
    -------
    ModuleType

    Raises
    ------
    MissingExtraError
        If neither way works.
    """
    before = set(sys.modules)
    try:
        return import_module(name)
    except (ImportError, RuntimeError) as error:
        _forget(name, before)
        parents = [name.rsplit(".", k)[0] for k in range(name.count("."), 0, -1)]
        try:
            return _import_below_bare_parents(name, parents)
        except (ImportError, RuntimeError) as second:
            _forget(name, before)
            raise MissingExtraError(_remedy(name, extra, error), name=name) from second


def _import_below_bare_parents(name: str, parents: list[str]) -> ModuleType:
    added = []
    try:
        for parent in parents:
            if parent in sys.modules:
                continue
            spec = importlib.util.find_spec(parent)
            if spec is None or spec.submodule_search_locations is None:
                raise ModuleNotFoundError(f"no package {parent!r}", name=parent)
            bare = ModuleType(parent)
            bare.__path__ = list(spec.submodule_search_locations)
            bare.__spec__ = spec
            sys.modules[parent] = bare
            added.append(parent)
        return import_module(name)
    finally:
        for parent in added:
            sys.modules.pop(parent, None)


def _forget(name: str, before: set[str]) -> None:
    """Drop what a failed import of ``name`` left half made."""
    root = name.partition(".")[0]
    for module in [m for m in sys.modules if m == root or m.startswith(root + ".")]:
        if module not in before:
            del sys.modules[module]


def _remedy(module: str, extra: str, error: Exception) -> str:
    root = module.partition(".")[0]
    absent = isinstance(error, ModuleNotFoundError) and (error.name or "").startswith(root)
    state = "is not installed" if absent else f"cannot be imported ({error})"
    return f"this needs {root}, which {state}; install it with pip install 'trustml[{extra}]'"
