"""What the benchmark files share: start contenders in processes of their own, compare, print."""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from _tasks import NoData

HERE = Path(__file__).parent
# Which environment of `nox -s bench-peers` a library lives in; the others are in ours.
ENVIRONMENTS = {
    "pydvl": "pydvl", "curvlinops": "curvlinops", "kronfluence": "attribution",
    "dattri": "attribution", "trak": "attribution",
}  # fmt: skip
Contender = tuple[str, str]  # library, name
Section = tuple[dict, list[dict]]  # what is recorded, rows of the table of targets


def contend(
    task: dict, contenders: Iterable[Contender], repeats: int = 3, patience: float = 8
) -> list[dict]:
    """Each contender's figures and `scores`; after a crash, or without its library, the reason.

    Parameters
    ----------
    task : dict
        The network's name and state, rows, queries, damping; dtype float32 if not given.
    contenders : iterable of (library, name)
        Where and what to run.
    repeats, patience
        How often, and after how many CPU seconds in all no more.
    """
    results = []
    with tempfile.TemporaryDirectory() as folder:
        torch.save({"dtype": torch.float32, "patience": patience, **task}, f"{folder}/task.pt")
        for library, name in contenders:
            result = {"library": library, "name": name, **run(library, name, repeats, folder)}
            if "cpu_s" in result:
                result["median_cpu_s"] = statistics.median(result["cpu_s"])
                result["passes"] = result["median_cpu_s"] / result["pass_s"]
            results.append(result)
            took = result.get("median_cpu_s", "crashed")
            print(f"  {library} {name}: {took}", file=sys.stderr, flush=True)
    return results


def run(library: str, name: str, repeats: int, folder: str) -> dict:
    """One contender in its own process and environment, on one thread."""
    python = Path(sys.executable)
    if library in ENVIRONMENTS:
        environment = ENVIRONMENTS[library]
        python = HERE.parent / f".nox/bench-peers-{environment}/bin/python"
        if not python.exists():
            return {"crash": f"no environment: run nox -s 'bench-peers({environment})'"}
    files = [f"{folder}/task.pt", str(repeats), f"{folder}/scores.npy"]
    command = [str(python), str(HERE / f"workers/with_{library}.py"), name, *files]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=900,
            env=os.environ | threads,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"crash": "more than 900 seconds"}
    if done.returncode:
        return {"crash": done.stderr[-800:] or f"exit code {done.returncode}"}
    result = json.loads(done.stdout.splitlines()[-1])
    if "crash" not in result:
        result["scores"] = np.load(files[-1])
    return result


def relative_error(values: np.ndarray, truth: np.ndarray) -> float:
    """Frobenius norm of the difference, over that of the truth; for the queries answered."""
    truth = truth[: len(values)]
    return float(np.linalg.norm(values - truth) / np.linalg.norm(truth))


def rank_correlation(values: np.ndarray, truth: np.ndarray, axis: int = 1) -> np.ndarray:
    """Spearman's correlation along an axis; 0 where one side is constant."""
    from scipy.stats import rankdata

    a, b = (np.moveaxis(rankdata(each, axis=axis), axis, 0) for each in (values, truth))
    a, b = a - a.mean(0), b - b.mean(0)
    norms = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    return np.divide((a * b).sum(0), norms, out=np.zeros(norms.shape), where=norms > 0)


def machine() -> dict:
    """Where the figures come from."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":")[1].strip()
            break
    return {
        "processor": model, "cores": os.cpu_count(), "threads": 1, "device": "cpu",
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        "python": platform.python_version(), "torch": torch.__version__,
        "trustml": version("trustml"),
    }  # fmt: skip


def target(what: str, aim: str, measured: float, met: bool, note: str = "") -> dict:
    """One row of the table of targets."""
    return {"what": what, "target": aim, "measured": measured, "met": bool(met), "note": note}


def show(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print one table; figures to the right."""
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)


def show_contenders(title: str, results: list[dict], *extra: str) -> None:
    """Print contenders: CPU seconds, passes, memory, and other fields of their results."""
    columns = ["contender", "queries", "CPU s", "ms / query", "passes", "peak MB", *extra]
    rows = []
    for r in results:
        label = f"{r['library']} {r['name']}"
        if "crash" in r:
            rows.append([label, "failed"])
            continue
        cpu = r["median_cpu_s"]
        figures = [
            str(r["queries"]), f"{cpu:.2f}", f"{1e3 * cpu / r['queries']:.1f}",
            f"{r['passes']:.0f}", f"{r['peak_mb']:.0f}",
        ]  # fmt: skip
        rows.append([label, *figures, *(text(r.get(field)) for field in extra)])
    show(title, columns, rows)
    for r in results:
        if "crash" in r:
            print(f"{r['library']} {r['name']}: {r['crash'].strip().splitlines()[-1][:200]}")


def show_targets(targets: list[dict]) -> None:
    """Print the table of targets."""
    rows = [
        [t["what"], t["target"], text(t["measured"]), "yes" if t["met"] else "NO", t["note"]]
        for t in targets
    ]
    show("Targets", ["what", "target", "measured", "met", "note"], rows)


def table(record: dict) -> str:
    """The targets of all sections on record, in Markdown."""
    lines = ["| section | what | target | measured | met | note |", "|---|---|---|---|---|---|"]
    for name, section in record["sections"].items():
        for t in section["targets"]:
            met = "yes" if t["met"] else "**no**"
            cells = [name, t["what"], t["target"], text(t["measured"]), met, t["note"]]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def text(value: object) -> str:
    """A figure with three digits."""
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)


def plain(results: list[dict]) -> list[dict]:
    """Results without their score matrices, for JSON."""
    return [{k: v for k, v in r.items() if k != "scores"} for r in results]


def without_folders(text: str) -> str:
    """The text with paths, as of a peer's traceback, cut to what is the same on every machine."""
    return re.sub(r"/(?:[^/\s\"'\\]+/)+(?=(?:site-packages|benchmarks)/)", "", text)


def run_sections(
    sections: dict[str, Callable[[bool], Section]], description: str, out: Path
) -> None:
    """Run the sections asked for on the command line; a quick run records nothing."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small tasks, not recorded")
    parser.add_argument("--only", nargs="+", choices=sections, help="these sections alone")
    parser.add_argument("--out", type=Path, default=out)
    options = parser.parse_args()
    torch.set_num_threads(1)
    every = []
    for name in options.only or sections:
        print(f"{name}: {sections[name].__doc__.splitlines()[0]}", file=sys.stderr, flush=True)
        start = time.time()
        try:
            recorded, targets = sections[name](options.quick)
        except NoData as reason:
            print(f"{name} left out: {reason}")
            continue
        except Exception as reason:  # one section that fails does not cost the others' figures
            recorded, targets = {"failed": repr(reason)}, []
            print(f"{name} FAILED: {traceback.format_exc()}")
        every += targets
        if not options.quick:
            # Sections run on their own are merged into the record.
            record = json.loads(options.out.read_text()) if options.out.exists() else {}
            found = {"machine": machine(), "targets": targets, **recorded}
            record.setdefault("sections", {})[name] = found
            options.out.write_text(without_folders(json.dumps(record, indent=1)) + "\n")
            options.out.with_suffix(".md").write_text(table(record))
        print(f"  {time.time() - start:.0f} s", file=sys.stderr, flush=True)
    show_targets(every)
