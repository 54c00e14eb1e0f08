"""A module holds one idea and reads in one sitting; every public name is documented and shown."""

import inspect
import statistics
from importlib import import_module
from pathlib import Path

import pytest

import trustml

ROOT = Path(trustml.__file__).parent
LENGTHS = {path: len(path.read_text().splitlines()) for path in ROOT.rglob("*.py")}
AREAS = [
    "conformal",
    "evidence",
    "explain",
    "fairness",
    "ihvp",
    "influence",
    "model",
    "ood",
    "robustness",
]
PUBLIC = [
    (area, name)
    for area in AREAS
    for name in import_module(f"trustml.{area}").__all__
    if callable(getattr(import_module(f"trustml.{area}"), name))
]


def test_no_module_is_over_400_lines() -> None:
    assert not {str(path): n for path, n in LENGTHS.items() if n > 400}


def test_the_median_module_is_at_most_200_lines() -> None:
    assert statistics.median(LENGTHS.values()) <= 200


@pytest.mark.parametrize(("area", "name"), PUBLIC)
def test_public_names_are_documented(area: str, name: str) -> None:
    thing = getattr(import_module(f"trustml.{area}"), name)
    text = inspect.getdoc(thing) or ""
    assert text.split("\n")[0].endswith("."), f"{area}.{name}: the first line is a sentence"
