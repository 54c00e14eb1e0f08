"""Thresholds from Python or TOML to checks, with errors that name the fix."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from trustml.auditing._check import Check


def share(value: Any, name: str) -> None:
    """Refuse what is no number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number in [0, 1], got {value!r}")


def open_share(value: Any, name: str) -> None:
    """Refuse what is no number strictly between 0 and 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise ValueError(f"{name} must be a number in (0, 1), got {value!r}")


def positive(value: Any, name: str) -> None:
    """Refuse what is no positive finite number."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not good or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name} must be a positive number, got {value!r}")


def whole(value: Any, name: str, least: int = 1) -> None:
    """Refuse what is no whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def make_checks(checks: Any, known: Mapping[str, type[Check]]) -> tuple[Check, ...]:
    """Return the checks that a user asked for.

    Parameters
    ----------
    checks : None, names, Check objects, or mapping
        None: all with their defaults. A mapping goes from a name to a mapping of thresholds,
        to True (defaults) or to False (left out).
    known : mapping of str to class
        The checks there are.

    Returns
    -------
    tuple of Check

    Raises
    ------
    ValueError
        If a name or a threshold is unknown, a value is bad, or a check occurs twice.
    TypeError
        If an entry is neither a name nor a Check.
    """
    if checks is None:
        return tuple(make() for make in known.values())
    if isinstance(checks, (str, Check)):
        checks = [checks]
    made = []
    if isinstance(checks, Mapping):
        for name, wanted in checks.items():
            if wanted is not False:
                made.append(make_check(name, {} if wanted is True else wanted, known))
    elif isinstance(checks, Iterable):
        for entry in checks:
            if isinstance(entry, str):
                made.append(make_check(entry, {}, known))
            elif isinstance(entry, Check):
                made.append(entry)
            else:
                raise TypeError(f"checks are names or Check objects, got {entry!r}")
    else:
        raise TypeError(f"checks must be names, Check objects or a mapping, got {checks!r}")
    names = [check.name for check in made]
    if len(set(names)) < len(names) or not names:
        raise ValueError(f"each check may run once and at least one must, got {names}")
    return tuple(made)


def make_check(name: str, settings: Any, known: Mapping[str, type[Check]]) -> Check:
    """Return one check with its thresholds; unknown names are answered with the known ones."""
    if name not in known:
        raise ValueError(f"unknown check {name!r}{hint(name, known)}; there are {list(known)}")
    if not isinstance(settings, Mapping):
        raise ValueError(f"checks.{name} must be a table of thresholds, got {settings!r}")
    allowed = {field.name for field in dataclasses.fields(known[name])}  # type: ignore[arg-type]
    for key in settings:
        if key not in allowed:
            raise ValueError(
                f"unknown threshold {key!r} of check {name!r}{hint(key, allowed)}; there are "
                f"{sorted(allowed)}"
            )
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    try:
        return known[name](**values)
    except ValueError as error:
        raise ValueError(f"check {name!r}: {error}") from error


def hint(given: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" where a known name is close."""
    close = difflib.get_close_matches(str(given), list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""
