"""Tasks, each with all of its own set-up: `nox -s audit`, `nox -s tests`, ..."""

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
PEERS = ["attribution", "conformal", "curvlinops", "pydvl"]
TORCH = next(line for line in PINS.read_text().splitlines() if line.startswith("torch=="))


def install(session: nox.Session, *args: str) -> None:
    """Pip install under our pins, so that nothing replaces the torch that is there."""
    session.install(*args, env={"PIP_CONSTRAINT": str(PINS)}, silent=True)


def run(session: nox.Session, tool: str, *args: str, threads: str = "2") -> None:
    """Run a tool of the shared environment."""
    env = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}
    session.run(str(BIN / tool), *args, external=True, env=env)


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
    # Packages without their dependencies are never complete: not those of an older environment.
    session.run("python", "-m", "pip", "uninstall", "-y", "-q", "-r", str(NO_DEPS))
    session.run("python", "-m", "pip", "check")
    install(session, "--no-deps", "-r", str(NO_DEPS))
    stamp.write_text(digest)


@nox.session(venv_backend="none", requires=["env"])
def audit(session: nox.Session) -> None:
    """Train a small model on embedded data, audit it, write audit-report/report.html."""
    default = ["--example", "digits", "--out", "audit-report"]
    run(session, "trustml", "audit", *(session.posargs or default), threads="1")


@nox.session(venv_backend="none", requires=["env"])
def tests(session: nox.Session) -> None:
    """The whole test suite, one process a core."""
    default = ["-n", "auto", "--dist", "loadfile"]
    run(session, "python", "-m", "pytest", *(session.posargs or default), threads="1")


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
    run(session, "sphinx-build", "-W", "-n", "-q", "-b", "html", "docs", "docs/_build/html")


@nox.session(venv_backend="none", requires=["env"])
def notebooks(session: nox.Session) -> None:
    """Execute the notebooks; a failing cell fails the session."""
    options = ["--nbmake", "--nbmake-timeout=600", "-p", "no:cacheprovider"]
    run(session, "python", "-m", "pytest", *options, "notebooks")


@nox.session(venv_backend="none", requires=["env"])
def bench(session: nox.Session) -> None:
    """Benchmarks, ours beside the peers whose environments `bench-peers` has made."""
    for script in sorted((ROOT / "benchmarks").glob("[!_]*.py")):
        run(session, "python", str(script), *session.posargs, threads="1")


@nox.session
def minimal(session: nox.Session) -> None:
    """The core alone, without any extra: its tests pass, and what is missing is named."""
    install(session, "torch")
    install(session, "-e", ".", *nox.project.dependency_groups(PYPROJECT, "test"))
    tested = [f"tests/{name}" for name in ("evidence", "ihvp", "laws", "minimal")]
    session.run("python", "-m", "pytest", "-n", "auto", "--dist", "loadfile", *tested)


@nox.session(name="bench-peers", reuse_venv=True)
@nox.parametrize("peer", PEERS, ids=PEERS)
def bench_peers(session: nox.Session, peer: str) -> None:
    """Environments of the benchmark's peers: their pins fight ours, and pyDVL's the others'."""
    session.install(TORCH, silent=True)
    session.install(TORCH, "-r", f"requirements/peers/{peer}.txt", silent=True)
    no_deps = ROOT / "requirements" / "peers" / f"{peer}-no-deps.txt"
    if no_deps.exists():
        # Some are built against the torch that is installed, which is one without CUDA: where they
        # find nvcc they want the other.
        folders = os.environ["PATH"].split(os.pathsep)
        path = os.pathsep.join(each for each in folders if not Path(each, "nvcc").exists())
        options = ("--no-deps", "--no-build-isolation", "-r", str(no_deps))
        session.install(*options, env={"PATH": path}, silent=True)
