"""captum 0.9.0; it reads the weights from a file, also those of the model in memory."""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from captum.influence import TracInCP
from captum.influence._core.arnoldi_influence_function import ArnoldiInfluenceFunction
from captum.influence._core.influence_function import NaiveInfluenceFunction
from torch.utils.data import TensorDataset

from _measure import load, main
from _networks import mean_loss


def scores(task: dict, method: type, queries: int | None = None, **options: object) -> tuple:
    model, train, (X, y) = load(task)

    def restore(net: torch.nn.Module, path: str) -> float:
        net.load_state_dict(torch.load(path))
        return 1.0

    def total_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return mean_loss(outputs, targets) * len(targets)

    total_loss.reduction = "sum"  # what captum reads to know how the loss reduces
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        torch.save(model.state_dict(), file.name)
        where = [file.name] if method is TracInCP else file.name
        influence = method(
            model, TensorDataset(*train), where, checkpoints_load_func=restore,
            loss_fn=total_loss, batch_size=256,
            sample_wise_grads_per_batch=True, **options,
        )  # fmt: skip
        values = influence.influence((X[:queries], y[:queries]))
    return values.detach(), {"curvature": "none" if method is TracInCP else "hessian"}


def naive(task: dict) -> tuple:
    model, (X, _), _ = load(task)
    p = sum(parameter.numel() for parameter in model.parameters())
    # Its Hessian is the sum over rows, so that scores and damping are those of n times ours.
    values, notes = scores(
        task, NaiveInfluenceFunction, projection_dim=p, hessian_reg=len(X) * task["damping"],
        hessian_inverse_tol=0.0,
    )  # fmt: skip
    return values * len(X), notes


CONTENDERS = {
    "naive, full rank, n x damping": naive,
    "Arnoldi (default)": lambda task: scores(
        task, ArnoldiInfluenceFunction, hessian_reg=len(task["X"]) * task["damping"]
    ),
    "Arnoldi (200 of 200)": lambda task: scores(
        task, ArnoldiInfluenceFunction, projection_dim=200, arnoldi_dim=200, arnoldi_tol=1e-6,
        hessian_reg=len(task["X"]) * task["damping"],
    ),
    "TracInCP, one checkpoint": lambda task: scores(task, TracInCP),
}  # fmt: skip

if __name__ == "__main__":
    main(CONTENDERS)
