"""Tasks: `nox -s audit`, `nox -s tests`, ...; each does all of its own set-up and may be repeated."""

import hashlib
import os
import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "virtualenv"
nox.options.sessions = ["tests", "lint", "types"]

ROOT = Path(__file__).parent
ENV = ROOT / ".nox" / "env"
BIN = ENV / ("Scripts" if sys.platform == "win32" else "bin")
PINS = ROOT / "constraints.txt"
NO_DEPS = ROOT / "requirements" / "no-deps.txt"
PYPROJECT = nox.project.load_toml("pyproject.toml")


def install(session: nox.Session, *args: str) -> None:
    """Pip install under our pins, so that nothing replaces the torch that is there."""
    session.install(*args, env={"PIP_CONSTRAINT": str(PINS)}, silent=True)


def run(session: nox.Session, tool: str, *args: str) -> None:
    """Run a tool of the shared environment; one thread a process keeps two cores fair."""
    threads = os.environ.get("OMP_NUM_THREADS", "2")
    session.run(str(BIN / tool), *args, external=True, env={"OMP_NUM_THREADS": threads})


@nox.session(name="env", reuse_venv=True)
def environment(session: nox.Session) -> None:
    """The environment that every other session uses; a no-op while the pins stand."""
    inputs = (ROOT / "pyproject.toml", PINS, NO_DEPS)
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in inputs)).hexdigest()
    stamp = ENV / "installed.sha256"
    if stamp.exists() and stamp.read_text() == digest:
        session.log("environment is up to date")
        return
    install(session, "torch")
    groups = nox.project.dependency_groups(PYPROJECT, "dev")
    install(session, "-e", ".[all]", *groups)
    session.run("python", "-m", "pip", "check")
    install(session, "--no-deps", "-r", str(NO_DEPS))
    stamp.write_text(digest)


@nox.session(venv_backend="none", requires=["env"])
def audit(session: nox.Session) -> None:
    """Train a small model on embedded data, audit it, write audit-report/report.html."""
    run(session, "trustml", "audit", *(session.posargs or ["--example", "digits", "--out", "audit-report"]))


@nox.session(venv_backend="none", requires=["env"])
def tests(session: nox.Session) -> None:
    """The whole test suite, on both cores."""
    session.run(
        str(BIN / "python"), "-m", "pytest", *(session.posargs or ["-n", "2", "--dist", "loadfile"]),
        external=True, env={"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@nox.session(venv_backend="none", requires=["env"])
def lint(session: nox.Session) -> None:
    """Ruff: rules and format."""
    run(session, "ruff", "check", ".")
    run(session, "ruff", "format", "--check", ".")


@nox.session(venv_backend="none", requires=["env"])
def types(session: nox.Session) -> None:
    """Strict mypy on the package."""
    run(session, "mypy")


@nox.session(venv_backend="none", requires=["env"])
def docs(session: nox.Session) -> None:
    """The documentation; warnings are errors."""
    run(session, "sphinx-build", "-W", "-n", "-b", "html", "docs", "docs/_build/html")


@nox.session(venv_backend="none", requires=["env"])
def notebooks(session: nox.Session) -> None:
    """Execute the notebooks; a failing cell fails the session."""
    run(session, "python", "-m", "pytest", "--nbmake", "--nbmake-timeout=600", "-p", "no:cacheprovider", "notebooks")


@nox.session(venv_backend="none", requires=["env"])
def bench(session: nox.Session) -> None:
    """Our column of the benchmarks; the peers' columns need `bench-peers` once."""
    names = session.posargs or sorted(p.stem for p in (ROOT / "benchmarks").glob("*.py"))
    for name in names:
        run(session, "python", f"benchmarks/{name}.py")


@nox.session
def minimal(session: nox.Session) -> None:
    """The core alone, without any extra: every door opens or names the extra it needs."""
    install(session, "torch")
    install(session, "-e", ".", *nox.project.dependency_groups(PYPROJECT, "test"))
    session.run("python", "-m", "pytest", "-q", "tests/core", "tests/ihvp", "tests/evidence", "tests/guards")


@nox.session(name="bench-peers", reuse_venv=True)
@nox.parametrize("peer", ["pydvl", "curvlinops"])
def bench_peers(session: nox.Session, peer: str) -> None:
    """An environment of its own for each peer that will not install beside the others."""
    install(session, "torch")
    install(session, "-r", f"requirements/peers/{peer}.txt")
    install(session, "--no-deps", "-e", ".")
