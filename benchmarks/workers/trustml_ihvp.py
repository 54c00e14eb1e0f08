"""Our column of the IHVP benchmark."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from torch import nn

from _measure import main, network
from trustml import ihvp


def scores(task: dict, curvature: str, method: str, tol: float = 1e-6) -> tuple:
    model = network(task["state"])
    objective = ihvp.Objective(model, nn.CrossEntropyLoss(), (task["X"], task["y"]))
    operator = ihvp.curvature(curvature, objective) + task["damping"]
    queries = objective.per_example_gradients(task["Xq"], task["yq"])
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
    "trustml CG (tol 1e-6)": lambda task: scores(task, "gauss_newton", "cg"),
    "trustml cholesky, Hessian": lambda task: scores(task, "hessian", "cholesky"),
    "trustml CG (tol 1e-6), Hessian": lambda task: scores(task, "hessian", "cg"),
}

if __name__ == "__main__":
    main(CONTENDERS)
