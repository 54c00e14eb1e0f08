"""The extras install beside a CPU torch; versions and entry points agree."""

import tomllib
from importlib.metadata import entry_points, version
from pathlib import Path

import trustml

PYPROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())

# Each of these pulls torchvision, CUDA packages or another framework over a CPU torch.
BREAK_A_CPU_TORCH = {
    "functorch", "pytorch-ood", "tensorflow", "torch-geometric", "torchcp", "torchsort",
    "torchvision",
}  # fmt: skip


def name_of(requirement: str) -> str:
    return requirement.split(">")[0].split("[")[0].strip()


def test_all_contains_nothing_that_breaks_a_cpu_torch() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    assert extras["all"][0].startswith("trustml[")
    chosen = extras["all"][0].removeprefix("trustml[").removesuffix("]").split(",")
    assert set(chosen) == set(extras) - {"all", "ood-anchors", "cp-anchors"}
    packages = {name_of(requirement) for extra in chosen for requirement in extras[extra]}
    assert packages
    assert not packages & BREAK_A_CPU_TORCH


def test_no_dependency_is_capped() -> None:
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"].values()
    stated = project["dependencies"] + [requirement for extra in extras for requirement in extra]
    assert not [requirement for requirement in stated if "<" in requirement or "==" in requirement]


def test_version_and_doors_are_installed() -> None:
    assert version("trustml") == trustml.__version__ == PYPROJECT["project"]["version"]
    assert "trustml" in {entry.name for entry in entry_points(group="console_scripts")}
    assert "trustml" in {entry.name for entry in entry_points(group="pytest11")}
