"""pyDVL 0.10.0."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from pydvl.influence.torch import (
    ArnoldiInfluence,
    CgInfluence,
    DirectInfluence,
    EkfacInfluence,
    NystroemSketchInfluence,
)
from torch.utils.data import DataLoader, TensorDataset

from _measure import load, main
from _networks import mean_loss


def scores(task: dict, method: type, queries: int | None = None, **options: object) -> tuple:
    model, train, (X, y) = load(task)
    # One full batch: with a short last batch its mean of batch means is biased.
    loader = DataLoader(TensorDataset(*train), batch_size=task.get("batch") or len(train[0]))
    if method is not EkfacInfluence:
        options |= {"loss": mean_loss, "regularization": task["damping"]}
    else:
        options |= {"hessian_regularization": task["damping"]}
    influence = method(model, **options).fit(loader)
    values = influence.influences(X[:queries], y[:queries], *train)
    curvature = "fisher" if method is EkfacInfluence else "hessian"
    return values.detach(), {"curvature": curvature}


CONTENDERS = {
    "direct": lambda task: scores(task, DirectInfluence),
    "block CG (rtol 1e-6)": lambda task: scores(
        task, CgInfluence, 20, solve_simultaneously=True, rtol=1e-6, maxiter=500
    ),
    "CG (default)": lambda task: scores(task, CgInfluence, task.get("few", 2)),
    "Nystroem rank 300": lambda task: scores(task, NystroemSketchInfluence, rank=300),
    "Arnoldi rank 100": lambda task: scores(
        task, ArnoldiInfluence, rank=100, use_woodbury=True
    ),
    "EK-FAC": lambda task: scores(task, EkfacInfluence, update_diagonal=True),
}  # fmt: skip

if __name__ == "__main__":
    torch.manual_seed(0)
    main(CONTENDERS)
