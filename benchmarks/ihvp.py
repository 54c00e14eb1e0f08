"""Inverse-Hessian-vector products beside the peers, on one network, in one run.

The task: influence scores of 360 queries on 1,437 training digits under a perceptron 64-64-32-10.
Each contender runs in a process of its own (one thread), several times; the table gives medians of
CPU seconds, the growth of peak memory, and the relative error to a dense float64 solve of the
matrix that this contender inverts. Contenders that take too long answer fewer queries: `per query`
compares them. Run `nox -s bench-peers` once, then `nox -s bench`.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.func import functional_call, grad, hessian, jacrev, vmap

from _measure import network

HERE = Path(__file__).parent
DAMPING = 1e-2
PEERS = {
    "pydvl": HERE.parent / ".nox/bench-peers-pydvl",
    "curvlinops": HERE.parent / ".nox/bench-peers-curvlinops",
}
CONTENDERS = {
    "trustml": [
        "trustml auto (tol 1e-3)", "trustml cholesky", "trustml dual", "trustml CG (tol 1e-3)",
        "trustml CG (tol 1e-6)", "trustml cholesky, Hessian", "trustml CG (tol 1e-6), Hessian",
    ],
    "curvlinops": ["curvlinops CG (default)", "curvlinops CG (tolerance 1e-6)"],
    "pydvl": ["pyDVL direct", "pyDVL block CG (rtol 1e-6)", "pyDVL CG (maxiter 200)"],
}  # fmt: skip


def make_task() -> dict:
    """Digits split 1,437 / 360, and the perceptron trained on it to full accuracy."""
    X, y = load_digits(return_X_y=True)
    split = train_test_split(
        torch.tensor(X / 16, dtype=torch.float32), torch.tensor(y), test_size=360, random_state=0
    )
    X, Xq, y, yq = split
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = network()
        optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
        for _ in range(200):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(net(X), y).backward()
            optimiser.step()
    return {"state": net.state_dict(), "X": X, "y": y, "Xq": Xq, "yq": yq, "damping": DAMPING}


def reference(task: dict) -> dict[str, np.ndarray]:
    """Scores by dense float64 matrices from torch.func alone, none of our code."""
    net = network(task["state"]).double()
    shapes = {name: value.shape for name, value in net.named_parameters()}
    theta = torch.cat([value.detach().flatten() for value in net.parameters()])
    X, Xq = task["X"].double(), task["Xq"].double()

    def outputs(flat: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        pieces = flat.split([shape.numel() for shape in shapes.values()])
        values = {n: v.view(s) for (n, s), v in zip(shapes.items(), pieces, strict=True)}
        return functional_call(net, values, (x,))

    def loss(flat: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(outputs(flat, x[None]), y[None])

    rows = vmap(grad(loss), in_dims=(None, 0, 0), chunk_size=256)
    train, queries = rows(theta, X, task["y"]), rows(theta, Xq, task["yq"])
    gauss_newton = torch.zeros(len(theta), len(theta), dtype=torch.float64)
    for chunk in X.split(128):
        jacobian = vmap(jacrev(lambda t, x: outputs(t, x[None])[0]), in_dims=(None, 0))(
            theta, chunk
        )
        p = outputs(theta, chunk).softmax(1)
        # diag(p) - pp' = S S' with S = (I - p 1') diag(sqrt(p)).
        factor = (torch.eye(10, dtype=p.dtype) - p[:, :, None]) * p.sqrt()[:, None, :]
        k = torch.einsum("ncp,ncr->nrp", jacobian, factor).flatten(0, 1)
        gauss_newton += k.T @ k / len(X)

    def mean_loss(flat: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(outputs(flat, X), task["y"])

    matrices = {"gauss_newton": gauss_newton, "hessian": hessian(mean_loss)(theta).detach()}
    eye = DAMPING * torch.eye(len(theta), dtype=torch.float64)
    return {
        name: (torch.linalg.solve(matrix + eye, queries.T).T @ train.T).detach().numpy()
        for name, matrix in matrices.items()
    }


def measure(peer: str, name: str, task_file: str, repeats: int, folder: str) -> dict:
    """One contender's result; without its environment, or after a crash, the reason."""
    python = Path(sys.executable) if peer == "trustml" else PEERS[peer] / "bin/python"
    if not python.exists():
        return {"name": name, "crash": f"no environment: nox -s bench-peers({peer})"}
    scores_file = f"{folder}/scores.npy"
    command = [
        str(python),
        str(HERE / f"workers/{peer}_ihvp.py"),
        name,
        task_file,
        str(repeats),
        scores_file,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"name": name, "crash": done.stderr[-800:]}
    result = json.loads(done.stdout.splitlines()[-1])
    if "crash" not in result:
        result["scores"] = np.load(scores_file)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE / "results/ihvp.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    task = make_task()
    dense = reference(task)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        task_file = f"{folder}/task.pt"
        torch.save(task, task_file)
        for peer, names in CONTENDERS.items():
            for name in names:
                result = measure(peer, name, task_file, options.repeats, folder)
                scores = result.pop("scores", None)
                if scores is not None:
                    exact = dense[result["curvature"]][: len(scores)]
                    result["relative_error"] = float(
                        np.linalg.norm(scores - exact) / np.linalg.norm(exact)
                    )
                    result["median_cpu_s"] = statistics.median(result["cpu_s"])
                results.append(result)
                print(f"{name}: {result.get('median_cpu_s', 'crashed')}", file=sys.stderr)
    table = Table(title="360 x 1,437 influence scores, 6,570 parameters, damping 0.01")
    for column in (
        "contender",
        "curvature",
        "queries",
        "CPU s",
        "ms / query",
        "peak MB",
        "rel. error",
    ):
        table.add_column(
            column, justify="left" if column in ("contender", "curvature") else "right"
        )
    for r in results:
        if "crash" in r:
            table.add_row(r["name"], r["crash"].strip().splitlines()[-1][:60])
            continue
        per_query = 1e3 * r["median_cpu_s"] / r["queries"]
        table.add_row(
            r["name"], r["curvature"], str(r["queries"]), f"{r['median_cpu_s']:.2f}",
            f"{per_query:.1f}", f"{r['peak_mb']:.0f}", f"{r['relative_error']:.1e}",
        )  # fmt: skip
    Console(width=110).print(table)
    machine = {"python": platform.python_version(), "torch": torch.__version__, "threads": 1,
               "processor": platform.machine(), "device": "cpu"}  # fmt: skip
    record = {"task": "digits MLP 64-64-32-10", "n": 1437, "p": 6570, "damping": DAMPING,
              "machine": machine, "results": results}  # fmt: skip
    options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
