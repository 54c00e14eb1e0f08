"""curvlinops 3.0.1: solves from it, gradients from torch.func."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from curvlinops import (
    CGInverseLinearOperator,
    EKFACLinearOperator,
    GGNLinearOperator,
    HessianLinearOperator,
    KFACInverseLinearOperator,
)
from curvlinops.examples import IdentityLinearOperator
from torch import nn

from _measure import load, main, row_gradients


class TokensLast(nn.Module):
    """Outputs (n, classes, tokens), as torch's cross-entropy wants them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = self.model(x)
        return outputs.transpose(1, 2) if outputs.ndim == 3 else outputs


class Counted:
    """An operator that counts the columns it is multiplied with."""

    products = 0

    def __init__(self, operator: object) -> None:
        original = type(operator)._matmat

        def counting(this: object, X: list) -> list:
            Counted.products += 1
            return original(this, X)

        type(operator)._matmat = counting


def batches(task: dict) -> list:
    _, (X, y), _ = load(task)
    size = task.get("batch") or len(X)
    return list(zip(X.split(size), y.split(size), strict=True))


def pairwise(task: dict, inverse: object, model: nn.Module, queries: int | None) -> torch.Tensor:
    """Scores, the training gradients made in parts."""
    asked = row_gradients(model, task["Xq"][:queries], task["yq"][:queries])
    solved = inverse @ asked.T.contiguous()
    parts = zip(task["X"].split(1000), task["y"].split(1000), strict=True)
    return torch.cat([row_gradients(model, X, y) @ solved for X, y in parts]).T.detach()


def cg(
    task: dict, matrix: type = GGNLinearOperator, queries: int | None = None, **options
) -> tuple:
    model, _, _ = load(task)
    wrapped, parameters = TokensLast(model), list(model.parameters())
    loss = nn.CrossEntropyLoss()
    curvature = matrix(wrapped, loss, parameters, batches(task))
    shapes = [tuple(parameter.shape) for parameter in parameters]
    damping = IdentityLinearOperator(shapes, torch.device("cpu"), task["dtype"])
    tokens = task["y"][0].numel()  # its loss is the mean over tokens, ours their sum
    operator = tokens * curvature if tokens > 1 else curvature
    Counted.products = 0
    Counted(curvature)
    inverse = CGInverseLinearOperator(operator + task["damping"] * damping, **options)
    values = pairwise(task, inverse, model, queries)
    name = "gauss_newton" if matrix is GGNLinearOperator else "hessian"
    return values, {"curvature": name, "products": Counted.products}


def ekfac(task: dict, fisher: str) -> tuple:
    model, _, _ = load(task)
    supported = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    parameters = [parameter for module in supported for parameter in module.parameters()]
    if len(parameters) < len(list(model.parameters())):
        raise TypeError("K-FAC of curvlinops covers Linear and Conv2d alone")
    factors = EKFACLinearOperator(
        model, nn.CrossEntropyLoss(), parameters, batches(task), fisher_type=fisher,
        separate_weight_and_bias=False, check_deterministic=False,
    )  # fmt: skip
    inverse = KFACInverseLinearOperator(factors, damping=task["damping"], use_exact_damping=True)
    return pairwise(task, inverse, model, None), {"curvature": "fisher"}


TIGHT = {"eps": 1e-12, "max_iter": 1000, "max_tridiag_iter": 0}
CONTENDERS = {
    "CG (default)": cg,
    "CG (tolerance 1e-6)": lambda task: cg(task, tolerance=1e-6, **TIGHT),
    "CG (tolerance 1e-6), Hessian": lambda task: cg(
        task, HessianLinearOperator, 20, tolerance=1e-6, **TIGHT
    ),
    "EK-FAC (Monte Carlo)": lambda task: ekfac(task, "mc"),
    "EK-FAC (type-2)": lambda task: ekfac(task, "type-2"),
}

if __name__ == "__main__":
    main(CONTENDERS)
