"""Imports only go down the floors of the house; a room knows no other room."""

import ast
from pathlib import Path

import pytest

import trustml

ROOT = Path(trustml.__file__).parent

FLOORS = {
    "errors": 0, "warnings": 0, "core": 0, "evidence": 0, "datasets": 0,
    "ihvp": 1, "model": 1,
    "influence": 2,
    "conformal": 3, "ood": 3, "robustness": 3, "explain": 3, "fairness": 3,
    "auditing": 4, "plotting": 4, "integrations": 4,
    "cli": 5, "__main__": 5, "pytest_plugin": 5,
}  # fmt: skip

# The one upward door: a function that lends a third party's method, imported when it is called.
LENT_LAZILY = {("explain", "integrations"), ("robustness", "integrations"), ("ood", "integrations")}


def area(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def trustml_imports(tree: ast.Module) -> list[tuple[str, bool]]:
    """Imported areas of trustml, each with whether the import is inside a function."""
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            # Absolute imports only, so that a reader sees which floor is meant.
            names = [node.module or ""] if node.module != "trustml" else [
                f"trustml.{alias.name}" for alias in node.names
            ]  # fmt: skip
            if node.level:
                raise AssertionError(f"relative import at line {node.lineno}")
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found += [
            (name.split(".")[1], id(node) in inside)
            for name in names
            if name.startswith("trustml.") and name != "trustml.__version__"
        ]
    return found


FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    here = area(path)
    assert here in FLOORS, f"{here} stands on no floor: add it to the house first"
    for there, lazy in trustml_imports(ast.parse(path.read_text())):
        if there == here:
            continue
        assert there in FLOORS, f"{path.name} imports unknown area {there}"
        up = FLOORS[there] > FLOORS[here]
        other_room = FLOORS[there] == FLOORS[here] == 3
        lent = lazy and (here, there) in LENT_LAZILY
        assert lent or not (up or other_room), f"{here} may not import {there}"


def test_every_floor_is_built() -> None:
    assert {area(path) for path in FILES} == set(FLOORS)
