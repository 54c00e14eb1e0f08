"""Measure one contender in a process of its own: CPU seconds, wall seconds, peak memory.

Needs only the standard library, numpy and torch, so that a peer's environment can run it.
"""

import json
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from _networks import build, mean_loss


def status_megabytes(field: str) -> float:
    """A figure of /proc/self/status; getrusage's peak would be that of the parent process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"{field} not found in /proc/self/status")


def load(task: dict) -> tuple[nn.Module, tuple, tuple]:
    """The network, the training rows and the query rows of a task."""
    return build(task["network"], task["state"]), (task["X"], task["y"]), (task["Xq"], task["yq"])


def row_gradients(model: nn.Module, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Gradients of the rows' losses (n, p), by torch.func; for peers that bring none."""
    names, parameters = zip(*model.named_parameters(), strict=True)

    def loss(values: tuple, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        outputs = functional_call(model, dict(zip(names, values, strict=True)), (x[None],))
        return mean_loss(outputs, target[None])

    detached = tuple(parameter.detach() for parameter in parameters)
    blocks = vmap(grad(loss), in_dims=(None, 0, 0), chunk_size=512)(detached, X, y)
    return torch.cat([block.flatten(1) for block in blocks], dim=1)


def one_pass(model: nn.Module, X: torch.Tensor, y: torch.Tensor, batch: int = 256) -> float:
    """CPU seconds of one batched forward and backward pass over the rows; the best of three."""
    took = []
    parameters = [p for p in model.parameters() if p.requires_grad]
    for _ in range(3):
        start = time.process_time()
        for rows, targets in zip(X.split(batch), y.split(batch), strict=True):
            torch.autograd.grad(mean_loss(model(rows), targets), parameters)
        took.append(time.process_time() - start)
    return min(took)


def main(contenders: dict[str, Callable[[dict], tuple]]) -> None:
    """Run `contenders[name](task)`; name, task file, repeats, scores file are the arguments."""
    name, task_file, repeats, scores_file = sys.argv[1:5]
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    task = torch.load(task_file)
    if task["X"].is_floating_point():
        task["X"], task["Xq"] = (task[k].to(task["dtype"]) for k in ("X", "Xq"))
    task["state"] = {k: v.to(task["dtype"]) for k, v in task["state"].items()}
    pass_s = one_pass(*(lambda m, train, _: (m, *train))(*load(task)))
    before = status_megabytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    cpu, wall = [], []
    for repeat in range(int(repeats)):
        cpu_start, wall_start = time.process_time(), time.perf_counter()
        try:
            scores, notes = contenders[name](task)
        except Exception:  # a peer's crash is a result, and goes into the table
            print(json.dumps({"crash": traceback.format_exc(limit=-3)}))
            return
        cpu.append(time.process_time() - cpu_start)
        wall.append(time.perf_counter() - wall_start)
        scores = np.asarray(scores, dtype=np.float64)
        if repeat == 0:
            peak = status_megabytes("VmHWM")
            first = scores
        if sum(cpu) > task["patience"]:  # a contender this slow is not run again
            break
    np.save(scores_file, first)
    moved = float(np.linalg.norm(scores - first) / np.linalg.norm(first))
    print(json.dumps({
        "cpu_s": cpu, "wall_s": wall, "peak_mb": peak - before, "pass_s": pass_s,
        "queries": len(first), "moved": moved if len(cpu) > 1 else None, **notes,
    }))  # fmt: skip
