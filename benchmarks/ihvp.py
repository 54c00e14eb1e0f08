"""Inverse-Hessian-vector products beside the peers, on one network, in one run.

The task: influence scores of 360 queries on training digits under a perceptron 64-64-32-10, once
on all 1,437 training rows and once on 200, where a solve in output space pays. Each contender runs
in a process of its own (one thread), several times; the tables give medians of CPU seconds, the
growth of peak memory, and the relative error to a dense float64 solve of the matrix that this
contender inverts. Contenders that take too long answer fewer queries: `ms / query` compares them.
Run `nox -s bench-peers` once, then `nox -s bench`.
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
from torch.func import functional_call, grad, jacrev, jvp, vmap

from _measure import network

HERE = Path(__file__).parent
DAMPING = 1e-2
TRAINING_ROWS = (1437, 200)
PEERS = {
    name: HERE.parent / f".nox/bench-peers-{name}/bin/python" for name in ("pydvl", "curvlinops")
}
CONTENDERS = {
    "trustml": [
        "trustml auto (tol 1e-3)", "trustml cholesky", "trustml dual", "trustml CG (tol 1e-3)",
        "trustml CG (tol 1e-8, float64)", "trustml cholesky, Hessian",
        "trustml CG (tol 1e-8, float64), Hessian",
    ],
    "curvlinops": ["curvlinops CG (default)", "curvlinops CG (tolerance 1e-6)"],
    "pydvl": ["pyDVL direct", "pyDVL block CG (rtol 1e-6)", "pyDVL CG (maxiter 200)"],
}  # fmt: skip
# With more output rows than parameters the dual solve is the wrong tool; `auto` knows, too.
LEFT_OUT = {(1437, "trustml dual")}
COLUMNS = ("contender", "curvature", "queries", "CPU s", "ms / query", "peak MB", "rel. error")


def make_task(n_train: int) -> dict:
    """Digits split 1,437 / 360, and the perceptron trained on the first `n_train` of the former."""
    X, y = load_digits(return_X_y=True)
    X, Xq, y, yq = train_test_split(
        torch.tensor(X / 16, dtype=torch.float32), torch.tensor(y), test_size=360, random_state=0
    )
    X, y = X[:n_train], y[:n_train]
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

    def one_loss(flat: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(outputs(flat, x[None]), y[None])

    def mean_loss(flat: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(outputs(flat, X), task["y"])

    rows = vmap(grad(one_loss), in_dims=(None, 0, 0), chunk_size=256)
    train, queries = rows(theta, X, task["y"]), rows(theta, Xq, task["yq"])
    jacobians = vmap(jacrev(lambda t, x: outputs(t, x[None])[0]), in_dims=(None, 0))
    eye = torch.eye(len(theta), dtype=torch.float64)
    gauss_newton = torch.zeros_like(eye)
    for chunk in X.split(128):
        p = outputs(theta, chunk).softmax(1)
        # diag(p) - pp' = S S' with S = (I - p 1') diag(sqrt(p)).
        factor = (torch.eye(10, dtype=p.dtype) - p[:, :, None]) * p.sqrt()[:, None, :]
        k = torch.einsum("ncp,ncr->nrp", jacobians(theta, chunk), factor).flatten(0, 1)
        gauss_newton += k.T @ k / len(X)
    columns = vmap(lambda v: jvp(grad(mean_loss), (theta,), (v,))[1], chunk_size=64)
    matrices = {"gauss_newton": gauss_newton, "hessian": columns(eye)}
    return {
        name: (torch.linalg.solve(matrix + DAMPING * eye, queries.T).T @ train.T).detach().numpy()
        for name, matrix in matrices.items()
    }


def measure(peer: str, name: str, repeats: int, folder: str) -> dict:
    """One contender's result; without its environment, or after a crash, the reason."""
    python = Path(sys.executable) if peer == "trustml" else PEERS[peer]
    if not python.exists():
        return {"name": name, "crash": f"no environment: run nox -s 'bench-peers({peer})'"}
    files = [f"{folder}/task.pt", str(repeats), f"{folder}/scores.npy"]
    command = [str(python), str(HERE / f"workers/{peer}_ihvp.py"), name, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"name": name, "crash": done.stderr[-800:]}
    result = json.loads(done.stdout.splitlines()[-1])
    if "crash" not in result:
        result["scores"] = np.load(files[-1])
    return result


def compare(n_train: int, repeats: int) -> list[dict]:
    """All contenders on one task."""
    task = make_task(n_train)
    exact = reference(task)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        torch.save(task, f"{folder}/task.pt")
        for peer, names in CONTENDERS.items():
            for name in names:
                if (n_train, name) in LEFT_OUT:
                    continue
                result = measure(peer, name, repeats, folder)
                scores = result.pop("scores", None)
                if scores is not None:
                    truth = exact[result["curvature"]][: len(scores)]
                    error = np.linalg.norm(scores - truth) / np.linalg.norm(truth)
                    result["relative_error"] = float(error)
                    result["median_cpu_s"] = statistics.median(result["cpu_s"])
                results.append(result)
                print(f"{name}: {result.get('median_cpu_s', 'crashed')}", file=sys.stderr)
    return results


def show(n_train: int, results: list[dict]) -> None:
    table = Table(title=f"360 x {n_train} influence scores, 6,570 parameters, damping {DAMPING}")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in COLUMNS[:2] else "right")
    for r in results:
        if "crash" in r:
            table.add_row(r["name"], r["crash"].strip().splitlines()[-1][:60])
            continue
        table.add_row(
            r["name"], r["curvature"], str(r["queries"]), f"{r['median_cpu_s']:.2f}",
            f"{1e3 * r['median_cpu_s'] / r['queries']:.1f}", f"{r['peak_mb']:.0f}",
            f"{r['relative_error']:.1e}",
        )  # fmt: skip
    Console(width=110).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="the small task once, not recorded")
    parser.add_argument("--out", type=Path, default=HERE / "results/ihvp.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tasks = TRAINING_ROWS[-1:] if options.quick else TRAINING_ROWS
    record = {
        "task": "digits perceptron 64-64-32-10, 360 queries",
        "p": 6570,
        "damping": DAMPING,
        "machine": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "threads": 1,
            "processor": platform.machine(),
            "device": "cpu",
        },
        "results": {},
    }
    for n_train in tasks:
        results = compare(n_train, 1 if options.quick else options.repeats)
        show(n_train, results)
        record["results"][str(n_train)] = results
    if not options.quick:
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
