"""Every example in a docstring runs."""

import doctest
import pkgutil
from importlib import import_module

import pytest

import trustml

MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(trustml.__path__, "trustml.")
    if not info.name.endswith("__main__")
)


@pytest.mark.parametrize("name", ["trustml", *MODULES])
def test_examples_run(name: str) -> None:
    module = import_module(name)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testmod(module, optionflags=flags)
    assert result.failed == 0, f"{result.failed} of {result.attempted} examples in {name}"
