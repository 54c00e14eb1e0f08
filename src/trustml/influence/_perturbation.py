"""What a change of a training row's input does to a query."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trustml.core.batches import Batch
from trustml.core.validation import restore
from trustml.ihvp.graphs import backward_columns, split
from trustml.influence._influence_functions import InfluenceFunctions
from trustml.influence._queries import Measure, Queries
from trustml.influence._scores import as_rows


def perturbation_influence(
    influence: InfluenceFunctions,
    X: Any,
    y: Any = None,
    rows: Any = None,
    *,
    measure: Measure | None = None,
) -> Any:
    r"""Return the derivative of each query's loss with respect to training inputs.

    Were the model trained anew after a small change of a training row's input, a query's loss
    would change by the product of the change with

    .. math:: \frac{∂ℓ_q}{∂x_i} = -\frac1n ∇_x \bigl(g_q' (H + λI)^{-1} ∇_θ ℓ(x_i, y_i)\bigr).

    It is exact for small changes where H is the Hessian at a minimum: for networks take
    ``InfluenceFunctions(model, curvature="hessian")``.

    Parameters
    ----------
    influence : InfluenceFunctions
        Fitted.
    X, y, measure
        Queries, as for ``InfluenceFunctions.scores``.
    rows : array of int of shape (m,), or mask, or None
        The training rows; None takes all.
    measure : callable, optional
        Likewise.

    Returns
    -------
    array or Tensor of shape (q, m, *features)
        In the measurement's unit per unit of each input, as the model's module takes it.

    References
    ----------
    Koh and Liang (2017), Understanding black-box predictions via influence functions,
    arXiv:1703.04730, equation 5.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from trustml.influence import InfluenceFunctions
    >>> from trustml.model import wrap
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = wrap(Ridge().fit(X[:400], y[:400]), train=(X[:400], y[:400]))
    >>> influence = InfluenceFunctions(model).fit()
    >>> perturbation_influence(influence, X[400:], y[400:], rows=[0, 1, 2]).shape
    (42, 3, 10)
    """
    check_influence(influence, "perturbation_influence")
    objective = influence.objective_
    n = len(objective.data)
    data = objective.data if rows is None else objective.data.subset(as_rows(rows, n, "rows"))
    queries = Queries.of(influence.model_, X, y, measure)
    leaves = objective.leaves()

    def pulled(directions: Tensor, batch: Batch) -> Tensor:
        if not isinstance(batch.inputs, Tensor) or not batch.inputs.is_floating_point():
            raise TypeError(
                "perturbation_influence differentiates by the inputs: they must be one tensor of "
                "real numbers, not tokens or several tensors; embed them first"
            )
        x = batch.inputs.detach().clone().requires_grad_()
        total = objective.loss(objective.call(leaves, x), objective.targets(batch)).sum()
        parameters = list(leaves.values())
        gradient = torch.autograd.grad(
            total, parameters, create_graph=True, materialize_grads=True, allow_unused=True
        )
        # Rows do not mix, so the derivative of the sum is each row's own.
        return backward_columns(gradient, [x], split(directions, parameters))[0].transpose(0, 1)

    blocks = []
    for gradients in queries.gradient_blocks(objective):
        directions = influence.solve(gradients.T).x

        @torch.enable_grad()
        def part(batch: Batch, directions: Tensor = directions) -> Tensor:
            return pulled(directions, batch)

        found = torch.cat(list(objective.map(part, data)))
        blocks.append(-found.transpose(0, 1) / objective.n)
    return restore(torch.cat(blocks), X)


def check_influence(influence: Any, what: str) -> None:
    """Refuse what is not a fitted InfluenceFunctions.

    Parameters
    ----------
    influence : object
        What was given.
    what : str
        Who asks.

    Raises
    ------
    TypeError
        If it is something else.
    """
    if not isinstance(influence, InfluenceFunctions):
        raise TypeError(
            f"{what} takes fitted influence functions, got {type(influence).__name__}; pass "
            "InfluenceFunctions(model).fit()"
        )
    influence._check_fitted()
