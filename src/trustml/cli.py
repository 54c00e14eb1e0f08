"""The command ``trustml``: audits, and what is installed. Imports wait until they are needed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trustml.auditing import AuditReport

_EXAMPLES = ("digits", "diabetes")
_EXTRAS = {
    "conformal": ("mapie",),
    "robustness": ("foolbox",),
    "explain": ("shap", "captum"),
    "fairness": ("fairlearn", "aif360"),
    "report": ("jinja2", "matplotlib"),
    "skops": ("skops",),
    "frames": ("pandas", "pyarrow"),
    "hf": ("transformers", "peft"),
    "mlflow": ("mlflow", "alembic"),
    "skorch": ("skorch",),
    "ood-anchors": ("pytorch_ood",),
    "cp-anchors": ("torchcp",),
}
_DISTRIBUTIONS = {"mlflow": "mlflow-skinny", "pytorch_ood": "pytorch-ood"}
_CORE = ("torch", "numpy", "scipy", "scikit-learn", "rich", "safetensors", "narwhals")

USAGE_ERROR = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str or None
        Arguments; None takes those of the process.

    Returns
    -------
    int
        0: all that was judged passed; 1: a check failed; 2: it could not run.
    """
    try:
        options = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse has printed its line
        return stop.code if isinstance(stop.code, int) else USAGE_ERROR
    if "torch" not in sys.modules:
        # Threads that spin while they wait make a busy machine several times slower.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code: int = options.run(options)
        return code
    except KeyboardInterrupt:
        return _refuse("interrupted")
    except Exception as error:
        if options.traceback:
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        known = isinstance(error, (ValueError, TypeError, OSError, ImportError))
        hint = "" if known else f" ({type(error).__name__}; --traceback shows where)"
        return _refuse(text + hint)


def _refuse(text: str) -> int:
    print(f"trustml: error: {text}", file=sys.stderr)
    return USAGE_ERROR


def _parser() -> argparse.ArgumentParser:
    from trustml import __version__

    parser = argparse.ArgumentParser(
        prog="trustml", description="Reliability and trust for trained machine-learning models."
    )
    parser.add_argument("--version", action="version", version=f"trustml {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    audit = commands.add_parser(
        "audit",
        help="audit a model; writes report.html, report.json, junit.xml",
        description="Audit a trained model: calibration, coverage, out-of-distribution detection, "
        "robustness, explanations, fairness, label errors. Exit code 0: passed; 1: a check "
        "failed; 2: could not run.",
    )
    what = audit.add_mutually_exclusive_group(required=True)
    what.add_argument("config", nargs="?", metavar="audit.toml", help="your model and data")
    what.add_argument("--example", choices=_EXAMPLES, help="train and audit a model on real data")
    audit.add_argument("--out", metavar="DIR", default="audit-report", help="default: audit-report")
    audit.add_argument(
        "--fail-on",
        choices=("fail", "warn"),
        help="warn: exit 1 also for 'not enough data' (default: as the file says, else fail)",
    )
    audit.add_argument("--checks", metavar="A,B", help="run these checks only")
    audit.add_argument("--random-state", type=int, metavar="SEED", help="seed of everything random")
    audit.add_argument(
        "--allow-pickle", action="store_true", help="read pickled models: this runs their code"
    )
    audit.add_argument("--quiet", action="store_true", help="no table, no progress bar")
    audit.add_argument("--traceback", action="store_true", help="show where an error came from")
    audit.set_defaults(run=_audit)
    info = commands.add_parser("info", help="versions, devices, installed extras")
    info.add_argument("--traceback", action="store_true", help=argparse.SUPPRESS)
    info.set_defaults(run=_info)
    return parser


def _audit(options: argparse.Namespace) -> int:
    if not options.quiet:
        # Importing torch takes a second or two: say at once that the command was heard.
        print("trustml audit: loading", file=sys.stderr)
    _check_out(options.out)
    names = None if options.checks is None else [n.strip() for n in options.checks.split(",")]
    _check_names(names)
    with _progress(options.quiet, names) as on_check:
        report, fail_on = _run(options, names, on_check)
    if options.fail_on is not None:
        fail_on = options.fail_on
    code = report.exit_code(fail_on)
    if not options.quiet:
        report.print()
    directory = _save(report, options.out, fail_on)
    if not options.quiet:
        print(f"wrote {os.path.join(directory, 'report.html')}, report.json, junit.xml")
    return code


def _check_names(names: list[str] | None) -> None:
    if names is not None:
        from trustml.auditing import CHECKS
        from trustml.auditing._settings import make_checks

        make_checks(names, CHECKS)


def _run(
    options: argparse.Namespace, names: list[str] | None, on_check: Callable[[Any], None]
) -> tuple[AuditReport, str]:
    if options.config is not None:
        from trustml.auditing._from_config import audit_file

        return audit_file(
            options.config,
            allow_pickle=options.allow_pickle,
            checks=names,
            random_state=options.random_state,
            on_check=on_check,
        )
    from trustml.auditing.examples import audit_example

    seed = 0 if options.random_state is None else options.random_state
    return audit_example(
        options.example, checks=names, random_state=seed, on_check=on_check
    ), "fail"


def _check_out(directory: str) -> None:
    """Refuse a folder that cannot be written before the audit, not after it."""
    there = os.path.abspath(directory)
    while not os.path.exists(there):
        there = os.path.dirname(there)
    if not os.path.isdir(there) or not os.access(there, os.W_OK):
        raise ValueError(f"--out {directory}: {there} is no folder to write to; name another one")


def _save(report: AuditReport, directory: str, fail_on: str) -> str:
    """Write what needs no extra first, so that a missing one does not lose the numbers."""
    report.save(directory, formats=("json", "junit"), fail_on=fail_on)
    return str(report.save(directory, formats=("html",)))


@contextmanager
def _progress(quiet: bool, names: list[str] | None) -> Iterator[Callable[[Any], None]]:
    """Show a bar over the checks on an interactive terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from trustml.auditing import CHECKS

    total = len(CHECKS) if names is None else len(names)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=quiet or not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task("preparing model and data", total=total)
        started = False

        def on_check(check: Any) -> None:
            nonlocal started
            bar.update(task, description=check.title, advance=1 if started else 0)
            started = True

        yield on_check


def _info(options: argparse.Namespace) -> int:
    import platform

    from rich.console import Console
    from rich.table import Table

    from trustml import __version__

    console = Console()
    table = Table(title="trustml", title_justify="left", show_header=False)
    table.add_row("trustml", __version__)
    table.add_row("python", f"{platform.python_version()}, {platform.platform()}")
    for package in _CORE:
        table.add_row(package, _version(package) or "not installed")
    for device in _devices():
        table.add_row("device", device)
    console.print(table)
    extras = Table(title="extras", title_justify="left")
    extras.add_column("extra")
    extras.add_column("packages")
    for extra, packages in _EXTRAS.items():
        found = [f"{p} {_version(_DISTRIBUTIONS.get(p, p)) or '(missing)'}" for p in packages]
        extras.add_row(extra, ", ".join(found))
    console.print(extras)
    return 0


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _devices() -> list[str]:
    import torch

    found = [f"cpu, {torch.get_num_threads()} threads"]
    found += [
        f"cuda:{i}, {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())
    ]
    if torch.backends.mps.is_available():
        found.append("mps")
    return found
