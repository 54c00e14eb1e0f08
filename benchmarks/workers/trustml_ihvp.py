"""Our column of the IHVP benchmark."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import nn

from _measure import main, network
from trustml import ihvp


def scores(
    task: dict, curvature: str, method: str, tol: float = 1e-6, dtype: torch.dtype = torch.float32
) -> tuple:
    model = network(task["state"]).to(dtype)
    train = task["X"].to(dtype), task["y"]
    objective = ihvp.Objective(model, nn.CrossEntropyLoss(), train)
    operator = ihvp.curvature(curvature, objective) + task["damping"]
    queries = objective.per_example_gradients(task["Xq"].to(dtype), task["yq"])
    solution = ihvp.solve(operator, queries.T, method=method, tol=tol)
    values = objective.dot(solution.x.to(queries.dtype)).T
    return values.detach(), {
        "queries": len(values),
        "curvature": curvature,
        "method": solution.method,
        "certified_residual": float(solution.relative_residual.max()),
        "iterations": int(solution.iterations),
    }


CONTENDERS = {
    "trustml auto (tol 1e-3)": lambda task: scores(task, "gauss_newton", "auto", 1e-3),
    "trustml cholesky": lambda task: scores(task, "gauss_newton", "cholesky"),
    "trustml dual": lambda task: scores(task, "gauss_newton", "dual"),
    "trustml CG (tol 1e-3)": lambda task: scores(task, "gauss_newton", "cg", 1e-3),
    "trustml CG (tol 1e-8, float64)": lambda task: scores(
        task, "gauss_newton", "cg", 1e-8, torch.float64
    ),
    "trustml cholesky, Hessian": lambda task: scores(task, "hessian", "cholesky"),
    "trustml CG (tol 1e-8, float64), Hessian": lambda task: scores(
        task, "hessian", "cg", 1e-8, torch.float64
    ),
}

if __name__ == "__main__":
    main(CONTENDERS)
