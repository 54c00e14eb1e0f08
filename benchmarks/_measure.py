"""Measure one contender in a process of its own: CPU seconds, wall seconds, peak memory.

Needs only the standard library, numpy and torch, so that a peer's environment can run it.
"""

import json
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import torch
from torch import nn


def network(state: dict | None = None) -> nn.Sequential:
    """The digits multi-layer perceptron 64-64-32-10 (6,570 parameters)."""
    net = nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)
    )  # fmt: skip
    if state is not None:
        net.load_state_dict(state)
    return net


def status_megabytes(field: str) -> float:
    """A figure of /proc/self/status; getrusage's peak would be that of the parent process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"{field} not found in /proc/self/status")


def main(contenders: dict) -> None:
    """Run `contenders[name](task)`; name, task file, repeats, scores file are the arguments."""
    name, task_file, repeats, scores_file = sys.argv[1:5]
    torch.set_num_threads(1)
    task = torch.load(task_file)
    before = status_megabytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    cpu, wall = [], []
    for _ in range(int(repeats)):
        cpu_start, wall_start = time.process_time(), time.perf_counter()
        try:
            scores, notes = contenders[name](task)
        except Exception:  # a peer's crash is a result, and goes into the table
            print(json.dumps({"name": name, "crash": traceback.format_exc(limit=-3)}))
            return
        cpu.append(time.process_time() - cpu_start)
        wall.append(time.perf_counter() - wall_start)
        if cpu[-1] > 20:  # a contender this slow is run once
            break
    peak = status_megabytes("VmHWM")
    np.save(scores_file, np.asarray(scores, dtype=np.float64))
    print(json.dumps({
        "name": name, "cpu_s": cpu, "wall_s": wall, "peak_mb": peak - before, **notes,
    }))  # fmt: skip
