"""A last layer alone: what it sees computed once, its curvature from plain matrix products."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from trustml.core import distributed
from trustml.core.batches import Batch, map_batches
from trustml.core.features import Capture, find_head
from trustml.core.memory import check_fits
from trustml.ihvp._intake import check_dense
from trustml.ihvp.objective import Objective, check_objective

# Numbers of one batch, weighted for one output.
_BUDGET = 2**23
_TOLERANCE = 1e-4  # of outputs by two ways, in float32; a layer that is used twice is off by more


def on_features(objective: Objective) -> Objective:
    """Return an objective of a last layer with that layer as its module, and its inputs as data.

    Gradients, losses and curvatures are the same, in the same order of parameters, and cost
    matrix products with the features instead of passes through the network: those are computed
    here, in one pass in float64, and held.

    Parameters
    ----------
    objective : Objective
        As a rule ``objective.restrict("last_layer")``.

    Returns
    -------
    Objective
        Parameters are named as in the layer ("weight", "bias"), rows are features. The objective
        itself where its parameters are not those of one ``nn.Linear`` that maps vectors to the
        outputs and does nothing else, or with ``autocast``.

    Examples
    --------
    >>> import torch
    >>> from trustml.ihvp import GaussNewton
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> whole = Objective(net, None, (torch.randn(5, 4), torch.tensor([0, 1, 0, 1, 1])))
    >>> last = on_features(whole.restrict("last_layer"))
    >>> last.data.inputs.shape, GaussNewton(last).shape
    (torch.Size([5, 3]), (8, 8))
    """
    name = _head_of(check_objective(objective))
    if name is None:
        return objective
    exact = objective.double()
    layer = copy.deepcopy(cast("nn.Linear", objective.module.get_submodule(name)))
    probe = exact.data.rows(0, min(3, len(exact.data)))
    if not _is_all(exact, name, probe):
        return objective
    check_fits(
        8 * len(objective.data) * layer.in_features,
        f"the {len(objective.data):,} x {layer.in_features:,} features of the last layer",
        "use fewer rows",
        objective.space.device,
    )

    def features(batch: Batch) -> Tensor:
        with Capture(exact.module, inputs_of=[name]) as seen:
            exact.outputs(batch.inputs)
        return cast("Tensor", seen.inputs[name])

    module: nn.Module = layer
    prefix = ""
    if exact.outputs(probe.inputs).ndim == 1:
        module, prefix = nn.Sequential(OrderedDict(head=layer, row=nn.Flatten(0))), "head."
    space = objective.space
    own = {each: prefix + each.rpartition(".")[2] for each in space.names}
    # One number a parameter, whatever patterns it came from.
    decay = {own[each]: float(exact.weight_decay[s][0]) for each, s in space.slices.items()}
    return Objective(
        module.eval(),
        objective.loss,
        (exact.collect(features), objective.collect(objective.targets)),
        list(own.values()),
        decay,
        batch_size=objective.batch_size,
        n=objective.n,
    )


def _head_of(objective: Objective) -> str | None:
    """Return the name of the linear layer that has all parameters and ends the module, if any."""
    module, space = objective.module, objective.space
    layers = {name.rpartition(".")[0] for name in space.names}
    name = layers.pop()
    if layers or objective.autocast is not None:
        return None
    layer = module.get_submodule(name)
    hooks = (layer._forward_hooks, layer._forward_pre_hooks) if type(layer) is nn.Linear else None
    if hooks is None or any(hooks) or layer is module:
        return None
    return name if find_head(module, objective.data.rows(0, 1).inputs) == name else None


def _is_all(objective: Objective, name: str, probe: Batch) -> bool:
    """Return whether the outputs depend on the parameters through this layer's one call alone."""
    generator = torch.Generator().manual_seed(0)
    state = {
        key: part + (1 + part.abs()) * torch.randn(part.shape, generator=generator).to(part)
        for key, part in objective.space.parameters().items()
    }
    with Capture(objective.module, inputs_of=[name]) as seen:
        outputs = objective.outputs(probe.inputs)
        features = seen.inputs[name]
        moved = objective.call(state, probe.inputs).detach()
    layer = objective.module.get_submodule(name)
    own = {key.rpartition(".")[2]: part for key, part in state.items()}
    with torch.no_grad():
        alone = functional_call(layer, own, (features,))
    fits = features.ndim == 2 and outputs.shape in (alone.shape, alone.shape[:1])
    close = _TOLERANCE if objective.space.dtype != torch.float64 else 1e-10
    return fits and torch.allclose(moved.reshape(alone.shape), alone, rtol=close, atol=close)


def is_linear(objective: Objective) -> bool:
    """Return whether the module is one linear layer with several outputs, all of it asked about."""
    layer, names = objective.module, objective.space.names
    if type(layer) is not nn.Linear or layer.out_features == 1:
        return False
    whole = ("weight",) if layer.bias is None else ("weight", "bias")
    return names == whole and objective.outputs(objective.data.rows(0, 1).inputs).ndim == 2


def linear_dense(objective: Objective) -> Tensor:
    """Return Σ_i Λ_i ⊗ a_i a_i' of a linear layer, (p, p) in float64; a_i ends in 1 for a bias."""
    # One matrix product for each output: c times fewer operations than from the c rows of each
    # example, which are never formed.
    layer, p = cast("nn.Linear", objective.module), objective.space.size
    check_dense(p, objective.space.device)
    c, h, m = layer.out_features, layer.in_features, p // layer.out_features
    examples = distributed.shard(len(objective.data))

    def own() -> Tensor:
        total = torch.zeros(c, m, c, m, dtype=torch.float64, device=objective.space.device)
        for features, blocks in _curved(objective, examples):
            for j in range(c):
                weighted = blocks[:, j, : j + 1, None] * features[:, None]
                total[j, :, : j + 1] += (features.T @ weighted.flatten(1)).view(m, j + 1, m)
        return total

    lower = distributed.all_sum(own).view(p, p)
    lower = lower.tril_().add_(lower.tril(-1).T)
    places = torch.arange(p, device=lower.device).view(c, m)
    order = torch.cat([places[:, :h].flatten(), places[:, h:].flatten()])
    return lower[order[:, None], order]


def linear_diagonal(objective: Objective) -> Tensor:
    """Return the diagonal (p,) of ``linear_dense``, in float64."""
    h = cast("nn.Linear", objective.module).in_features
    examples = distributed.shard(len(objective.data))

    def own() -> Tensor:
        return torch.stack(
            [
                blocks.diagonal(dim1=1, dim2=2).T @ features.square()
                for features, blocks in _curved(objective, examples)
            ]
        ).sum(0)

    total = distributed.all_sum(own)
    return torch.cat([total[:, :h].flatten(), total[:, h:].flatten()])


def _curved(objective: Objective, examples: range) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a_i (b, m) and the positive part of Λ_i (b, c, c) in float64, batch by batch."""
    layer, loss = cast("nn.Linear", objective.module), objective.loss

    def part(batch: Batch) -> tuple[Tensor, Tensor]:
        features = cast("Tensor", batch.inputs)
        outputs = objective.outputs(features)
        factor = loss.hessian_factor(outputs, objective.targets(batch)).double()
        if layer.bias is not None:
            features = nn.functional.pad(features, (0, 1), value=1.0)
        return features.double(), factor @ factor.mT

    width = layer.out_features * (layer.in_features + layer.out_features)
    size = objective.capped(max(1, _BUDGET // width))
    return map_batches(part, objective.data, size, rows=examples)
