"""LoGra: influence in a space where each layer is projected on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from trustml.core._backends import Terms
from trustml.core._terms import Outer
from trustml.core.batches import Batch
from trustml.core.parameters import ParameterSpace
from trustml.core.projections import LayerwiseProjection, Projection
from trustml.core.random import RandomState
from trustml.core.validation import check_choice, check_positive_int
from trustml.ihvp import Objective
from trustml.influence._gradient_products import loss_gradient
from trustml.influence._projected import Projected

_WIDEST = 4096  # a side of more entries keeps its random projection


class LoGra(Projected):
    r"""Influence functions of low-rank projected gradients, layer by layer.

    A weight's gradient G becomes P'G Q with at most rank × rank numbers, without G being formed;
    with φ the projected loss gradients of all layers,

    .. math:: \mathrm{raw}[q, i] = ψ_q' \bigl(\tfrac1n Σ_j φ_j φ_j' + λI\bigr)^{-1} φ_i ,

    the empirical Fisher as curvature, with all layers together. The effect is raw / n. Weight
    decay is not in the projected curvature. With several checkpoints the scores are averaged.

    Parameters
    ----------
    model : Model or anything that ``trustml.wrap`` takes
        With its training data, and gradients.
    rank : int
        Entries of a projected side of a weight.
    checkpoints : list of state dict or path of a safetensors file, or None
        Of the model's module. None: the model as it is.
    damping : float or "auto"
        λ in units of the projected curvature's eigenvalues. "auto": half the mean of those that
        can differ from 0. 0 is replaced, with a warning, where the projected gradients fit every
        training row.
    random_state : int, generator or None
        Of the projection.
    initialisation : {"random", "pca"}
        "pca": the leading directions of each layer's inputs and output gradients, the factors of
        K-FAC, over the training rows; parameters that are no such weight stay random.
    parameters : selection or None
        Which parameters, as in ``ihvp.Objective``.

    Attributes
    ----------
    objective_ : Objective
        The training objective.
    damping_ : Damping
        λ, its reason, and the effective number of dimensions; of the last checkpoint.

    References
    ----------
    Choe et al. (2024), What is your data worth to GPT? LLM-scale data valuation with influence
    functions, arXiv:2405.13954, section 3.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from trustml.model import wrap
    >>> X, y = load_iris(return_X_y=True)
    >>> model = wrap(LogisticRegression(max_iter=1000).fit(X, y), train=(X, y))
    >>> LoGra(model, rank=3).fit().scores(X[:5], y[:5]).values.shape
    (5, 150)
    """

    name = "logra"
    note = "From random projections of each layer's gradients: another seed gives other numbers."
    curvature_name = "projected empirical Fisher"

    def __init__(
        self,
        model: Any,
        rank: int = 8,
        checkpoints: Sequence[Any] | None = None,
        damping: float | str = "auto",
        random_state: RandomState = 0,
        initialisation: Literal["random", "pca"] = "random",
        parameters: str | Sequence[str] | None = None,
    ) -> None:
        self.model = model
        self.rank = rank
        self.checkpoints = checkpoints
        self.damping = damping
        self.random_state = random_state
        self.initialisation = initialisation
        self.parameters = parameters

    def _project(self, space: ParameterSpace) -> Projection:
        check_choice(self.initialisation, "initialisation", ("random", "pca"))
        rank = check_positive_int(self.rank, "rank")
        sides = _principal(self.objective_, rank) if self.initialisation == "pca" else None
        return LayerwiseProjection(space, rank, random_state=self.random_state, sides=sides)

    def _output(
        self, objective: Objective, outputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        return objective.loss.gradient(outputs, targets), torch.ones(
            len(outputs), dtype=outputs.dtype, device=outputs.device
        )


def _principal(objective: Objective, rank: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the leading directions of both sides of each weight, over the training rows."""
    names = {where.start: name for name, where in objective.space.slices.items()}
    shapes: dict[str, tuple[int, int]] = {}

    def read(terms: Terms) -> Tensor:
        moments = [torch.zeros(1, 0, dtype=torch.float64, device=objective.space.device)]
        for where, term in terms:
            if isinstance(term, Outer) and term.g == 1 and max(term.o, term.i) <= _WIDEST:
                shapes[names[where.start]] = (term.o, term.i)
                for side in (term.left, term.right):
                    flat = side.flatten(0, -2)
                    moments.append((flat.T @ flat).double().reshape(1, -1))
        return torch.cat(moments, dim=1)

    def part(batch: Batch) -> Tensor:
        gradients = objective.gradients
        return gradients.measure(batch.inputs, loss_gradient(objective, batch), read)[1].sum(0)

    total = objective.total(part)
    sizes = [size**2 for shape in shapes.values() for size in shape]
    moments = [m.reshape(round(len(m) ** 0.5), -1) for m in torch.split(total, sizes)]
    leading = [torch.linalg.eigh(moment).eigenvectors[:, -rank:] for moment in moments]
    return dict(zip(shapes, zip(leading[::2], leading[1::2], strict=True), strict=True))
