"""Dense float64 references from torch.func alone, none of our code; kept in .bench-cache."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad, jacrev, jvp, vmap

from _measure import load, row_gradients
from _networks import mean_loss
from _tasks import CACHE


def doubled(task: dict) -> dict:
    """The same task in float64: weights and inputs are those of float32, exactly."""
    state = {name: value.double() for name, value in task["state"].items()}
    rows = {key: task[key] for key in ("X", "Xq")}
    if task["X"].is_floating_point():
        rows = {key: value.double() for key, value in rows.items()}
    return {**task, **rows, "state": state, "dtype": torch.float64}


def kept(what: str, task: dict, compute: Callable[[dict], torch.Tensor]) -> torch.Tensor:
    """The result of `compute`, from .bench-cache where this task has been asked before."""
    digest = hashlib.sha256()
    for value in [*task["state"].values(), task["X"], task["y"], task["Xq"], task["yq"]]:
        digest.update(value.detach().numpy().tobytes())
    CACHE.mkdir(exist_ok=True)
    file = Path(CACHE / f"{what}-{digest.hexdigest()[:12]}.pt")
    if not file.exists():
        torch.save(compute(doubled(task)), file)
    return torch.load(file)


def parts(model: nn.Module) -> tuple[torch.Tensor, Callable]:
    """The parameters in one vector, and the outputs as a function of it."""
    shapes = {name: value.shape for name, value in model.named_parameters()}
    theta = torch.cat([value.detach().flatten() for value in model.parameters()])

    def outputs(flat: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        pieces = flat.split([shape.numel() for shape in shapes.values()])
        values = {n: v.view(s) for (n, s), v in zip(shapes.items(), pieces, strict=True)}
        return functional_call(model, values, (x,))

    return theta, outputs


def gauss_newton(task: dict) -> torch.Tensor:
    """Σ J'ΛJ / n of cross-entropy, J by reverse mode, Λ = diag(p) - pp' in closed form."""
    model, (X, _), _ = load(task)
    theta, outputs = parts(model)
    jacobians = vmap(jacrev(lambda t, x: outputs(t, x[None])[0]), in_dims=(None, 0))
    total = torch.zeros(len(theta), len(theta), dtype=torch.float64)
    rows = max(1, int(1e8 / (len(theta) * outputs(theta, X[:1]).numel())))
    for chunk in X.split(rows):
        p = outputs(theta, chunk).softmax(-1).flatten(0, -2)
        c = p.shape[-1]
        # diag(p) - pp' = S S' with S = (I - p 1') diag(sqrt(p)).
        factor = (torch.eye(c, dtype=p.dtype) - p[:, :, None]) * p.sqrt()[:, None, :]
        J = jacobians(theta, chunk).reshape(-1, c, len(theta))
        k = torch.einsum("ncp,ncr->nrp", J, factor).flatten(0, 1)
        total.addmm_(k.T, k, alpha=1 / len(X))
    return total


def hessian(task: dict) -> torch.Tensor:
    """The Hessian of the mean loss, column by column."""
    model, (X, y), _ = load(task)
    theta, outputs = parts(model)

    def loss(flat: torch.Tensor) -> torch.Tensor:
        return mean_loss(outputs(flat, X), y)

    eye = torch.eye(len(theta), dtype=torch.float64)
    columns = vmap(lambda v: jvp(grad(loss), (theta,), (v,))[1], chunk_size=64)
    return columns(eye).detach()


def scores(task: dict, matrix: torch.Tensor, damping: float | None = None) -> np.ndarray:
    """g_q'(matrix + damping I)⁻¹g_i, (q, n), in float64."""
    exact = doubled(task)
    model, train, queries = load(exact)
    damped = matrix.clone()
    damped.diagonal().add_(task["damping"] if damping is None else damping)
    solved = torch.linalg.solve(damped, row_gradients(model, *queries).T)
    return (row_gradients(model, *train) @ solved).T.detach().numpy()


def blocks_of(model: nn.Module) -> list[slice]:
    """Where the parameters of each layer lie."""
    found, start = [], 0
    for module in model.modules():
        size = sum(p.numel() for p in module.parameters(recurse=False))
        if size:
            found.append(slice(start, start + size))
            start += size
    return found


def block_diagonal(matrix: torch.Tensor, blocks: list[slice]) -> torch.Tensor:
    """The matrix without what couples different layers."""
    result = torch.zeros_like(matrix)
    for block in blocks:
        result[block, block] = matrix[block, block]
    return result


def ekfac(task: dict) -> torch.Tensor:
    """EK-FAC of a perceptron as a dense matrix, Fisher exact over all labels (type-2).

    George et al. (2018), arXiv:1806.03884: eigenvectors of the two covariances of a layer, and
    second moments of the gradients in that basis; a bias is joined to its weight.
    """
    model, (X, _), _ = load(task)
    layers = [module for module in model if isinstance(module, nn.Linear)]
    inputs, values, x = [], [], X
    for module in model:
        if isinstance(module, nn.Linear):
            inputs.append(torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1).detach())
        x = module(x)
        if isinstance(module, nn.Linear):
            values.append(x)
    p = x.softmax(1).detach()
    deltas: list[list[torch.Tensor]] = [[] for _ in layers]
    for label in range(p.shape[1]):
        pull = p - nn.functional.one_hot(torch.full((len(p),), label), p.shape[1])
        found = torch.autograd.grad(x, values, pull * p[:, label, None].sqrt(), retain_graph=True)
        for each, delta in zip(deltas, found, strict=True):
            each.append(delta)
    blocks = []
    for a, layer_deltas in zip(inputs, deltas, strict=True):
        stacked = torch.stack(layer_deltas)
        _, QA = torch.linalg.eigh(a.T @ a / len(a))
        _, QS = torch.linalg.eigh(torch.einsum("lno,lnk->ok", stacked, stacked) / len(a))
        second = torch.einsum("lno,ni->oi", (stacked @ QS).square(), (a @ QA).square()) / len(a)
        basis = torch.kron(QS, QA)
        block = (basis * second.flatten()) @ basis.T
        # (out, in + 1) rows to weight first, bias last, as the parameters lie.
        out, width = second.shape
        place = torch.arange(out * width).view(out, width)
        order = torch.cat([place[:, :-1].flatten(), place[:, -1]])
        blocks.append(block[order][:, order])
    return torch.block_diag(*blocks)
