"""TRAK: the model linearised, its margins regressed in a random projection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trustml.core._backends import Terms
from trustml.core.losses import CrossEntropy
from trustml.core.parameters import ParameterSpace
from trustml.core.projections import Projection, RandomProjection
from trustml.core.random import RandomState
from trustml.core.validation import check_positive_int
from trustml.ihvp import Objective
from trustml.influence._projected import Projected


class Trak(Projected):
    r"""Data models by random projection of the gradients of margins.

    A classifier's margin :math:`f = \log p_y / (1 - p_y)` is linearised in the parameters; its
    loss gradient is :math:`g_i = -(1 - p_i) ∇f_i`. With φ the projected :math:`∇f` and ψ the
    projected gradient of the query's measurement,

    .. math:: \mathrm{raw}[q, i] = -ψ_q' \bigl(\tfrac1n Φ'Φ + λI\bigr)^{-1} φ_i \, (1 - p_i),

    and the effect, raw / n, is what the measurement changes by if the row is left out. The paper's
    score of a margin is what it changes by if the row comes in: minus the effect with ``measure``
    the margin. For losses of a single output f is that output; for others (several outputs,
    sequences) the loss itself. With several checkpoints, the kernels and the 1 − p are averaged
    apart. Weight decay is not in the projected curvature.

    Parameters
    ----------
    model : Model or anything that ``trustml.wrap`` takes
        With its training data, and gradients.
    projection_size : int
        k. From the number of parameters on, nothing is projected.
    checkpoints : list of state dict or path of a safetensors file, or None
        Of the model's module; best of models trained independently. None: the model as it is.
    damping : float or "auto"
        λ in units of the eigenvalues of Φ'Φ/n. "auto": half the mean of those that can differ
        from 0. 0, as in the paper, is noise where k reaches the number of training rows: it is
        then replaced, with a warning.
    random_state : int, generator or None
        Of the projection.
    parameters : selection or None
        Which parameters, as in ``ihvp.Objective``.

    Attributes
    ----------
    objective_ : Objective
        The training objective.
    output_ : str
        What was linearised: "margin", "output" or "loss".
    damping_ : Damping
        λ, its reason, and the effective number of dimensions; of the last checkpoint.

    References
    ----------
    Park, Georgiev, Ilyas, Leclerc and Madry (2023), TRAK: attributing model behavior at scale,
    arXiv:2303.14186, section 3.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from trustml.model import wrap
    >>> X, y = load_iris(return_X_y=True)
    >>> model = wrap(LogisticRegression(max_iter=1000).fit(X, y), train=(X, y))
    >>> trak = Trak(model, projection_size=8).fit()
    >>> trak.scores(X[:5], y[:5]).values.shape
    (5, 150)
    >>> trak.output_
    'margin'
    """

    name = "trak"
    note = "From a random projection of the gradients: another seed gives other numbers."
    curvature_name = "projected output gradients"

    def __init__(
        self,
        model: Any,
        projection_size: int = 512,
        checkpoints: Sequence[Any] | None = None,
        damping: float | str = "auto",
        random_state: RandomState = 0,
        parameters: str | Sequence[str] | None = None,
    ) -> None:
        self.model = model
        self.projection_size = projection_size
        self.checkpoints = checkpoints
        self.damping = damping
        self.random_state = random_state
        self.parameters = parameters

    def _project(self, space: ParameterSpace) -> Projection:
        size = check_positive_int(self.projection_size, "projection_size")
        if size >= space.size:
            return _Whole(space)
        return RandomProjection(space, size, random_state=self.random_state)

    def _output(
        self, objective: Objective, outputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        loss = objective.loss
        gradient = loss.gradient(outputs, targets)
        if outputs[0].numel() == 1:
            self.output_ = "output"
            return torch.ones_like(outputs), gradient.reshape(-1)
        hard = not targets.is_floating_point() and targets[0].numel() == 1
        smooth = isinstance(loss, CrossEntropy) and loss.label_smoothing > 0
        if not isinstance(loss, CrossEntropy) or smooth or not hard or outputs.ndim > 2:
            self.output_ = "loss"
            return gradient, torch.ones_like(outputs.reshape(len(outputs), -1)[:, 0])
        self.output_ = "margin"
        own = torch.zeros_like(outputs).scatter_(1, targets.reshape(-1, 1).clamp_min(0), 1.0)
        others = outputs.masked_fill(own.bool(), -torch.inf).softmax(1)
        direction = own - others
        # Read off the loss, so that class weights and rows that do not count are in it.
        return direction, (gradient * direction).sum(1) / direction.square().sum(1)


class _Whole(Projection):
    """The gradients themselves."""

    def __init__(self, space: ParameterSpace) -> None:
        self.width = self.size = space.size

    def of(self, terms: Terms) -> Tensor:
        """Return the rows, (n, p)."""
        return torch.cat([term.rows() for _, term in terms], dim=1)
