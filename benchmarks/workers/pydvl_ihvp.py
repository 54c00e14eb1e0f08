"""pyDVL's column of the IHVP benchmark."""

import sys
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from pydvl.influence.torch import CgInfluence, DirectInfluence
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from _measure import main, network


def scores(task: dict, method: type, queries: int, **options: object) -> tuple:
    model = network(task["state"]).eval()
    train = task["X"], task["y"]
    # One full batch: with a short last batch its mean of batch means is biased.
    loader = DataLoader(TensorDataset(*train), batch_size=len(train[0]))
    influence = method(model, cross_entropy, regularization=task["damping"], **options).fit(loader)
    values = influence.influences(task["Xq"][:queries], task["yq"][:queries], *train)
    return values.detach(), {"queries": queries, "curvature": "hessian"}


def direct(task: dict) -> tuple:
    return scores(task, DirectInfluence, len(task["Xq"]))


def block_cg(task: dict) -> tuple:
    return scores(task, CgInfluence, 20, solve_simultaneously=True, rtol=1e-6, maxiter=500)


def cg(task: dict) -> tuple:
    return scores(task, CgInfluence, 2, maxiter=200)


if __name__ == "__main__":
    torch.manual_seed(0)
    main({
        "pyDVL direct": direct,
        "pyDVL block CG (rtol 1e-6)": block_cg,
        "pyDVL CG (maxiter 200)": cg,
    })  # fmt: skip
