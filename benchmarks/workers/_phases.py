"""Measure a contender's phases, such as calibration and prediction, in a process of its own."""

import json
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch

from _conformal_tasks import Arrays, build
from _measure import status_megabytes


class Phases:
    """CPU seconds of named phases, and how far each made the process's memory grow."""

    def __init__(self) -> None:
        self.cpu: dict[str, list[float]] = {}
        self.peak: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure the block; memory is that of the first time."""
        before = status_megabytes("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        start = time.process_time()
        yield
        self.cpu.setdefault(name, []).append(time.process_time() - start)
        self.peak.setdefault(name, status_megabytes("VmHWM") - before)


def main(contenders: dict[str, Callable[[Arrays, Phases], tuple]]) -> None:
    """Run `contenders[name](arrays, phases)` on each case of the task, names joined by "|".

    Names, task, repeats and the file for the answers are the arguments.
    """
    names, task_file, repeats, answer_file = sys.argv[1:5]
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    task = torch.load(task_file)
    found, answers = {}, {}
    for case, recipe in enumerate(task["cases"]):
        data = build(recipe)
        for name in names.split("|"):
            key = f"{name}#{case}"
            try:
                if case == 0 and "warm" in task:  # imports and first calls are not the method's
                    contenders[name](build(task["warm"]), Phases())
                answers[key], found[key] = measured(
                    contenders[name], data, int(repeats), task["patience"]
                )
            except Exception:  # a peer's crash is a result, and goes into the table
                found[key] = {"crash": traceback.format_exc(limit=-3)}
    with open(answer_file, "wb") as file:
        np.savez(file, **answers)
    print(json.dumps({"found": found}))


def measured(
    contender: Callable[[Arrays, Phases], tuple], data: Arrays, repeats: int, patience: float
) -> tuple[np.ndarray, dict]:
    """The first answer, and the figures of all repeats."""
    phases, total = Phases(), []
    for repeat in range(repeats):
        np.random.seed(repeat)  # noqa: NPY002 - some peers know the global generators alone
        torch.manual_seed(repeat)
        start = time.process_time()
        answer, notes = contender(data, phases)
        total.append(time.process_time() - start)
        if repeat == 0:
            first = np.asarray(answer, dtype=np.float64)
        if sum(total) > patience:  # a contender this slow is not run again
            break
    return first, {"cpu_s": total, "phases": phases.cpu, "peak_mb": phases.peak, **notes}
