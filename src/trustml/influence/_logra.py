"""LoGra: influence in a space where each layer is projected on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trustml.core.parameters import ParameterSpace
from trustml.core.projections import LayerwiseProjection, Projection
from trustml.core.random import RandomState
from trustml.ihvp import Objective
from trustml.influence._projected import Projected


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
        parameters: str | Sequence[str] | None = None,
    ) -> None:
        self.model = model
        self.rank = rank
        self.checkpoints = checkpoints
        self.damping = damping
        self.random_state = random_state
        self.parameters = parameters

    def _project(self, space: ParameterSpace) -> Projection:
        return LayerwiseProjection(space, self.rank, random_state=self.random_state)

    def _output(
        self, objective: Objective, outputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        return objective.loss.gradient(outputs, targets), torch.ones(
            len(outputs), dtype=outputs.dtype, device=outputs.device
        )
