"""dattri 0.3.0."""

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import dattri.algorithm.base
import dattri.algorithm.influence_function as methods
import dattri.algorithm.trak as trak
import torch
from dattri.task import AttributionTask
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

from _measure import load, main
from _networks import mean_loss

for module in (dattri.algorithm.base, methods, trak):  # its bars cannot be turned off
    if hasattr(module, "tqdm"):
        module.tqdm = functools.partial(module.tqdm, disable=True)


def scores(task: dict, method: type, few: int | None = None, **options: object) -> tuple:
    model, train, (X, y) = load(task)

    def loss(parameters: dict, batch: tuple) -> torch.Tensor:
        return mean_loss(functional_call(model, parameters, batch[0]), batch[1])

    question = AttributionTask(loss, model, model.state_dict())
    attributor = method(task=question, device="cpu", **options)
    # The inverse is that of one batch, summed over batches: so there must be one.
    attributor.cache(DataLoader(TensorDataset(*train), batch_size=len(train[0])))
    values = attributor.attribute(
        DataLoader(TensorDataset(*train), batch_size=task.get("batch") or 256),
        DataLoader(TensorDataset(X[:few], y[:few]), batch_size=task.get("batch") or 256),
    )
    return values.T.detach(), {"curvature": "hessian"}


def ekfac(task: dict) -> tuple:
    return scores(task, methods.IFAttributorEKFAC, damping=task["damping"])[0], {
        "curvature": "fisher"
    }


def trak_512(task: dict) -> tuple:
    model, train, queries = load(task)

    def one(parameters: dict, row: tuple) -> torch.Tensor:
        return mean_loss(functional_call(model, parameters, row[0][None]), row[1][None])

    def margin(parameters: dict, row: tuple) -> torch.Tensor:
        p = torch.exp(-one(parameters, row))
        return torch.log(p) - torch.log1p(-p.clamp(max=1 - 1e-6))

    def probability(parameters: dict, row: tuple) -> torch.Tensor:
        return torch.exp(-one(parameters, row))

    attributor = trak.TRAKAttributor(
        task=AttributionTask(one, model, model.state_dict(), target_func=margin),
        correct_probability_func=probability,
        projector_kwargs={"proj_dim": 512},
    )
    train_loader = DataLoader(TensorDataset(*train), batch_size=256)
    attributor.cache(train_loader)
    values = attributor.attribute(DataLoader(TensorDataset(*queries), batch_size=256))
    return values.T.detach(), {"curvature": "projected"}


CONTENDERS = {
    "explicit": lambda task: scores(
        task, methods.IFAttributorExplicit, regularization=task["damping"]
    ),
    "CG (200 iterations)": lambda task: scores(
        task, methods.IFAttributorCG, 20, max_iter=200, regularization=task["damping"]
    ),
    "CG (default, 10 iterations)": lambda task: scores(
        task, methods.IFAttributorCG, 20, regularization=task["damping"]
    ),
    "DataInf": lambda task: scores(
        task, methods.IFAttributorDataInf, regularization=task["damping"]
    ),
    "EK-FAC": ekfac,
    "TRAK 512": trak_512,
}

if __name__ == "__main__":
    main(CONTENDERS)
