"""Adult, COMPAS and German credit in splits, what is measured on them, and the contenders' frame.

Both sides of a contest read this file, so it needs numpy, scikit-learn and trustml's loaders only.
"""

import json
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from _bench import run
from _measure import status_megabytes
from _tasks import DATA, NoData
from trustml.datasets import Table, load_adult, load_compas, load_german_credit

FILES = {
    "adult": (load_adult, "adult_complete_cases.csv.gz", "sex", "Male"),
    "compas": (load_compas, "compas_two_years_filtered.csv", "race", "Caucasian"),
    "german": (load_german_credit, "german_credit.csv", "sex", "male"),
}
Contender = Callable[["Data"], np.ndarray]


@dataclass(frozen=True)
class Data:
    """Standardised columns, labels (1 favourable), groups (1 privileged); Xq, yq, aq to test on."""

    X: np.ndarray
    y: np.ndarray
    a: np.ndarray
    Xq: np.ndarray
    yq: np.ndarray
    aq: np.ndarray


def table(name: str) -> Table:
    """A table from ../shared/data, the sensitive columns among its inputs."""
    load, file, _, _ = FILES[name]
    if not (DATA / file).exists():
        raise NoData(f"{file} is not in ../shared/data")
    return load(DATA / file, keep_extras=True)[0]


def split(name: str, seed: int = 0) -> Data:
    """A split: Adult's own for seed 0, else at random, stratified by label and group."""
    found = table(name)
    _, _, attribute, privileged = FILES[name]
    a = (found.extras[attribute] == privileged).astype(np.int64)
    rows = np.arange(len(a))
    if name == "adult" and seed == 0:
        train, test = (rows[found.extras["split"] == part] for part in ("train", "test"))
    else:
        size = 15_060 if name == "adult" else 0.3
        cells = 2 * found.y + a
        train, test = train_test_split(rows, test_size=size, random_state=seed, stratify=cells)
    columns = make_column_transformer(
        (StandardScaler(), make_column_selector(dtype_include="number")),
        (OneHotEncoder(drop="if_binary", handle_unknown="ignore", sparse_output=False),
         make_column_selector(dtype_exclude="number")),
    )  # fmt: skip
    X, Xq = columns.fit_transform(found.X.iloc[train]), columns.transform(found.X.iloc[test])
    return Data(X, found.y[train], a[train], Xq, found.y[test], a[test])


def base() -> LogisticRegression:
    """What is mitigated."""
    return LogisticRegression(max_iter=3000)


def figures(p: np.ndarray, y: np.ndarray, a: np.ndarray) -> dict[str, float]:
    """Accuracy and signed gaps (unprivileged - privileged) of decisions made with chances p."""

    def gap(rows: np.ndarray) -> float:
        return float(p[rows & (a == 0)].mean() - p[rows & (a == 1)].mean())

    tpr, fpr = gap(y == 1), gap(y == 0)
    return {
        "accuracy": float(np.where(y == 1, p, 1 - p).mean()), "selection": float(p.mean()),
        "dp": gap(y >= 0), "eop": tpr, "eo": max(abs(tpr), abs(fpr)),
    }  # fmt: skip


def contest(
    name: str, seeds: Iterable[int], contenders: Iterable[tuple[str, str]], patience: float = 60,
    apart: bool = True,
) -> dict[str, list[dict]]:  # fmt: skip
    """Figures of each contender ("library method") on each split.

    Each has a process of its own; together (``apart=False``) those of a library share one, and
    the memory of later ones is not told.
    """
    processes: dict[tuple[str, str], list[str]] = {}
    for library, method in contenders:
        processes.setdefault((library, method if apart else ""), []).append(method)
    found: dict[str, list[dict]] = {}
    for (library, _), methods in processes.items():
        with tempfile.TemporaryDirectory() as folder:
            task = {"name": name, "seeds": list(seeds), "patience": patience}
            torch.save(task, f"{folder}/task.pt")
            answer = run(library, "|".join(methods), 1, folder)
        for method in methods:
            crash = [{"crash": answer.get("crash", "no answer")}]
            found[f"{library} {method}"] = runs = answer.get("found", {}).get(method, crash)
            print(f"  {name}: {library} {method}: {summary(runs)}", file=sys.stderr, flush=True)
    return found


def summary(runs: list[dict]) -> dict:
    """Medians over the splits, of gaps of their absolute values; the largest memory."""
    fine = [r for r in runs if "crash" not in r]
    if not fine:
        return {"crash": runs[0]["crash"].strip().splitlines()[-1][:200]}
    medians = {key: statistics.median(abs(r[key]) for r in fine) for key in fine[0]}
    # Later splits of a process find the memory of the first.
    return medians | {"splits": len(fine), "peak_mb": max(r["peak_mb"] for r in fine)}


def main(contenders: dict[str, Contender]) -> None:
    """Run `contenders[name](data)`, the chances of a favourable decision, on each split."""
    methods, task_file, _, answer_file = sys.argv[1:5]
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    task = torch.load(task_file)
    found: dict[str, list[dict]] = {method: [] for method in methods.split("|")}
    for seed in task["seeds"]:
        data = split(task["name"], seed)
        for method, runs in found.items():
            # A contender that crashed is done, and one this slow has fewer splits.
            tired = sum(r.get("cpu_s", np.inf) for r in runs) > task["patience"]
            if not tired:
                runs.append(measured(contenders[method], data, seed))
    np.save(answer_file, np.zeros(0))
    print(json.dumps({"found": found}))


def measured(contender: Contender, data: Data, seed: int) -> dict:
    """Figures, CPU seconds and growth of the peak memory; or the crash."""
    np.random.seed(seed)  # noqa: NPY002 - some peers know the global generators alone
    torch.manual_seed(seed)
    before = status_megabytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    start = time.process_time()
    try:
        p = np.asarray(contender(data), dtype=np.float64)
    except Exception:  # a peer's crash is a result, and goes into the table
        return {"crash": traceback.format_exc(limit=-3)}
    took, memory = time.process_time() - start, status_megabytes("VmHWM") - before
    return figures(p, data.yq, data.aq) | {"cpu_s": took, "peak_mb": memory}
