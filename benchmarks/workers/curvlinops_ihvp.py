"""curvlinops' column of the IHVP benchmark: solves from it, gradients from torch.func."""

import sys
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from curvlinops import CGInverseLinearOperator, GGNLinearOperator
from curvlinops.examples import IdentityLinearOperator
from torch import nn
from torch.func import functional_call, grad, vmap

from _measure import main, network


def scores(task: dict, **options: object) -> tuple:
    model = network(task["state"]).eval()
    names, parameters = zip(*model.named_parameters(), strict=True)
    data = [(task["X"], task["y"])]
    curvature = GGNLinearOperator(model, nn.CrossEntropyLoss(), list(parameters), data)
    shapes = [tuple(parameter.shape) for parameter in parameters]
    identity = IdentityLinearOperator(shapes, task["X"].device, task["X"].dtype)
    inverse = CGInverseLinearOperator(curvature + task["damping"] * identity, **options)

    def loss(values: tuple, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        outputs = functional_call(model, dict(zip(names, values, strict=True)), (x[None],))
        return nn.functional.cross_entropy(outputs, y[None])

    detached = tuple(parameter.detach() for parameter in parameters)
    rows = vmap(grad(loss), in_dims=(None, 0, 0))
    flat = [
        torch.cat([block.flatten(1) for block in rows(detached, X, y)], dim=1)
        for X, y in ((task["Xq"], task["yq"]), (task["X"], task["y"]))
    ]
    solved = inverse @ flat[0].T.contiguous()
    values = solved.T @ flat[1].T
    return values.detach(), {"queries": len(values), "curvature": "gauss_newton"}


def default(task: dict) -> tuple:
    return scores(task)


def tight(task: dict) -> tuple:
    return scores(task, tolerance=1e-6, eps=1e-12, max_iter=500, max_tridiag_iter=0)


if __name__ == "__main__":
    torch.manual_seed(0)
    main({"curvlinops CG (default)": default, "curvlinops CG (tolerance 1e-6)": tight})
