"""Two processes that share the passes find what one finds, on uneven shards."""

import subprocess
import sys

import numpy as np

TOLERANCE = 1e-9  # of float64 sums in another order, through solves; the promise is 1e-6

SCRIPT = """
import sys

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from trustml import ihvp
from trustml.core.distributed import data_parallel
from trustml.influence import InfluenceFunctions
from trustml.model import wrap

torch.set_num_threads(1)
shared = sys.argv[1] == "shared"
if shared:
    dist.init_process_group("gloo")
generator = torch.Generator().manual_seed(0)
net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
with torch.no_grad():
    for p in net.parameters():
        p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) / 2)
X = torch.randn(43, 5, generator=generator, dtype=torch.float64)
y = torch.randint(0, 3, (43,), generator=generator)
found = {}
with data_parallel():
    J = ihvp.Objective(net, None, (X, y), weight_decay={"weight": 0.05}, batch_size=10)
    V = torch.randn(J.space.size, 3, generator=generator, dtype=torch.float64)
    found["value"], found["gradient"] = J.value(), J.gradient()
    found["rows"], found["dot"] = J.per_example_gradients(), J.dot(V)
    for name in ("hessian", "gauss_newton", "empirical_fisher", "diagonal"):
        A = ihvp.curvature(name, J)
        found[f"{name} product"], found[f"{name} again"] = A @ V, A @ V
        found[f"{name} dense"], found[f"{name} diagonal"] = A.dense(), A.diagonal()
    damping = ihvp.choose_damping(A, J)
    found["damping"], found["dof"] = damping.value, damping.effective_dof
    G = ihvp.GaussNewton(J) + 0.1
    for method in ("cholesky", "dual", "compressed", "cg"):
        solution = ihvp.solve(G, V, method, tol=1e-10)
        found[f"{method} x"] = solution.x
    for name in ("kfac", "ekfac", "fisher", "block_diagonal"):
        A = ihvp.curvature(name, J)
        found[f"{name} product"] = A @ V
        found[f"{name} solve"] = ihvp.solve(A + 0.1, V).x
    model = wrap(net, train=(X, y), task="classification", weight_decay=0.05)
    for method in ("auto", "cg"):
        influence = InfluenceFunctions(model, method=method).fit()
        found[f"influence {method}"] = influence.scores(X[:5], y[:5]).values
        found[f"self-influence {method}"] = influence.self_influence()
    few = ihvp.Objective(net, None, (X[:1], y[:1]))  # fewer rows than processes
    found["few gradient"], found["few product"] = few.gradient(), ihvp.GaussNewton(few) @ V
    found["few rows"] = few.per_example_gradients()
rank = dist.get_rank() if shared else 0
if shared:
    ddp = nn.parallel.DistributedDataParallel(net)
    for bad, data, told in (
        (ddp, (X, y), "ddp.module"),
        (nn.Sequential(*net, nn.Linear(3, 3 + rank).double()), (X, y), "differ"),
        (net, (X[rank:], y[rank:]), "training rows differ"),
    ):
        try:
            with data_parallel():
                ihvp.Objective(bad, nn.CrossEntropyLoss(), data)
        except (TypeError, RuntimeError) as error:
            assert told in str(error), error
        else:
            raise AssertionError(told)
np.savez(f"{sys.argv[2]}/{sys.argv[1]}{rank}.npz", **{k: np.asarray(v) for k, v in found.items()})
if shared:
    dist.destroy_process_group()
"""


def test_two_processes_equal_one(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for launcher, kind in (([], "alone"), (torchrun, "shared")):
        command = [sys.executable, *launcher, str(script), kind, str(tmp_path)]
        found = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert found.returncode == 0, found.stderr
    alone, first, second = (
        dict(np.load(tmp_path / f"{name}.npz")) for name in ("alone0", "shared0", "shared1")
    )
    assert set(alone) == set(first) == set(second)
    for name, wanted in alone.items():
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        error = np.linalg.norm(first[name] - wanted) / max(np.linalg.norm(wanted), 1e-300)
        assert error < TOLERANCE, (name, error)
    assert len(alone) > 20
