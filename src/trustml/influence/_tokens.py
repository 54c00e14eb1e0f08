"""Scores of single tokens: of the training sequences, or of the queries."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from trustml.core.batches import Batch
from trustml.core.validation import check_choice, restore
from trustml.influence._influence_functions import InfluenceFunctions
from trustml.influence._perturbation import check_influence
from trustml.influence._queries import Measure, Queries
from trustml.influence._train_rows import rows_at_once


def token_scores(
    influence: InfluenceFunctions,
    X: Any,
    y: Any = None,
    *,
    of: Literal["train", "query"] = "train",
    measure: Measure | None = None,
) -> Any:
    """Return effects of training sequences on queries, token by token.

    A sequence's loss is a sum over its positions, and so is its gradient: "train" is the effect
    of leaving out the loss of one token of a training sequence, "query" the effect of a whole
    training sequence on one token's part of the query's measurement. Summed over the tokens they
    are ``influence.scores(X, y).values``.

    Parameters
    ----------
    influence : InfluenceFunctions
        Fitted, of a model with outputs (n, t, c), c numbers for each token.
    X, y, measure
        Queries, as for ``InfluenceFunctions.scores``.
    of : {"train", "query"}
        Whose tokens.
    measure : callable, optional
        Likewise.

    Returns
    -------
    array or Tensor of shape (q, n_train, t)
        Predicted changes of each query's measurement, in its unit; positive: the token helps.

    Examples
    --------
    >>> import torch
    >>> from trustml.influence import InfluenceFunctions
    >>> from trustml.model import wrap
    >>> X = torch.arange(24).reshape(6, 4) % 5
    >>> net = torch.nn.Sequential(torch.nn.Embedding(5, 3), torch.nn.Linear(3, 5))
    >>> model = wrap(net, task="language-modeling", train=(X, X.roll(-1, 1)))
    >>> influence = InfluenceFunctions(model, damping=0.1).fit()
    >>> token_scores(influence, X[:2], X[:2].roll(-1, 1)).shape
    torch.Size([2, 6, 4])
    """
    check_influence(influence, "token_scores")
    check_choice(of, "of", ("train", "query"))
    queries = Queries.of(influence.model_, X, y, measure)
    part = _train_tokens if of == "train" else _query_tokens
    return restore(part(influence, queries), X)


def _query_tokens(influence: InfluenceFunctions, queries: Queries) -> Tensor:
    objective = influence.objective_

    def part(batch: Batch) -> Tensor:
        def cotangents(outputs: Tensor) -> Tensor:
            return _apart(queries.cotangents(batch)(outputs))

        rows = objective.gradients.rows(batch.inputs, cotangents)[1]
        b, t, p = rows.shape
        effects = influence.rows_effect(rows.reshape(b * t, p).T)
        return effects.reshape(b, t, -1).transpose(1, 2)

    t = _tokens(objective.outputs(queries.data.rows(0, 1).inputs))
    return objective.collect(part, queries.data, rows_at_once(t * objective.space.size))


def _train_tokens(influence: InfluenceFunctions, queries: Queries) -> Tensor:
    objective, effects = influence.objective_, influence._effects
    t = _tokens(effects.cotangents)
    blocks = []
    for gradients in queries.gradient_blocks(objective):
        directions = influence.solve(gradients.T).x

        def part(batch: Batch, directions: Tensor = directions) -> Tensor:
            u = _apart(effects.cotangents[batch.indices.to(effects.cotangents.device)])
            return objective.gradients.dot(batch.inputs, lambda _: u, directions)[1]

        size = rows_at_once(t * max(effects.cotangents[0].numel(), len(gradients)))
        blocks.append(objective.collect(part, rows_at_once=size).permute(2, 0, 1) / objective.n)
    return torch.cat(blocks)


def _apart(cotangents: Tensor) -> Tensor:
    """Return one direction a token, (n, t, t, c), that add up to those given (n, t, c)."""
    t = cotangents.shape[1]
    eye = torch.eye(t, dtype=cotangents.dtype, device=cotangents.device)
    shape = (1, t, t, *[1] * (cotangents.ndim - 2))
    return eye.reshape(shape) * cotangents[:, None]


def _tokens(outputs: Tensor) -> int:
    if outputs.ndim < 3:
        raise ValueError(
            f"token_scores needs outputs (n, t, c), c numbers for each of t tokens, got "
            f"{tuple(outputs.shape)}: this model has one output a row"
        )
    return outputs.shape[1]
