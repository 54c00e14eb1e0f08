"""Which detectors a suite or a fusion holds."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, cast

from trustml.ood._detector import Detector, catalogue

Choice = str | type[Detector] | Detector


def make(choices: str | Iterable[Choice], model: Any) -> dict[str, Detector]:
    """Return unfitted detectors by column name; "all" means the whole catalogue."""
    if isinstance(choices, str):
        if choices != "all":
            raise ValueError(f'detectors must be "all" or a list of them, got {choices!r}')
        choices = list(catalogue().values())
    made = [_make_one(choice, model) for choice in choices]
    if not made:
        raise ValueError(f"detectors is empty; choose from {', '.join(catalogue())}")
    kinds = Counter(type(detector).__name__ for detector in made)
    named: dict[str, Detector] = {}
    for detector in made:
        name = type(detector).__name__
        if kinds[name] > 1:
            name += _settings(detector)
        if name in named:
            raise ValueError(f"detectors holds {name} twice; give one of them other parameters")
        named[name] = detector
    return named


def _make_one(choice: Choice, model: Any) -> Detector:
    if isinstance(choice, Detector):
        if choice.model is not model:
            raise ValueError(
                f"the {type(choice).__name__} in detectors was made for another model; pass the "
                "same model object to both"
            )
        # scikit-learn's clone would also clone, and so unfit, a raw estimator.
        kind = cast("Callable[..., Detector]", choice.__class__)
        return kind(**choice.get_params(deep=False))
    if isinstance(choice, str):
        known = {name.casefold(): kind for name, kind in catalogue().items()}
        if choice.casefold() not in known:
            raise ValueError(f"no detector {choice!r}; choose from {', '.join(catalogue())}")
        return _bare(known[choice.casefold()], model)
    if inspect.isclass(choice) and issubclass(choice, Detector):
        return _bare(choice, model)
    raise TypeError(f"detectors must hold names, classes or detectors, got {choice!r}")


def _bare(kind: Callable[..., Detector], model: Any) -> Detector:
    """Return a detector with its default parameters."""
    return kind(model)


def _settings(detector: Detector) -> str:
    """Return the parameters that differ from their defaults, as text."""
    defaults = inspect.signature(type(detector)).parameters
    changed = [
        f"{name}={value!r}"
        for name, value in detector.get_params(deep=False).items()
        if name != "model" and value != defaults[name].default
    ]
    return f"({', '.join(changed)})" if changed else ""
