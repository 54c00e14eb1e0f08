"""Training for small prediction sets: calibration and sets made smooth inside the loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from trustml.core.validation import check_finite
from trustml.evidence import conformal_rank, exact_alpha

_HALVINGS = 60


def smooth_quantile(scores: Tensor, alpha: Any, temperature: float) -> Tensor:
    """Return a differentiable conformal threshold of the scores.

    The point at which the soft count of scores below it, a sum of sigmoids, is the conformal rank
    less one half. As the temperature falls it becomes the score of that rank,
    `trustml.conformal.quantile`; its gradient spreads over the scores nearby, with weights that
    sum to one.

    Parameters
    ----------
    scores : Tensor of shape (n,)
        Finite.
    alpha : float in (0, 1)
        Allowed error rate.
    temperature : float
        Width of the sigmoids, in the unit of the scores.

    Returns
    -------
    Tensor of shape ()

    Raises
    ------
    ValueError
        If n is too small for ``alpha``, the temperature not positive, or a score not finite.

    Examples
    --------
    >>> scores = torch.arange(19, dtype=torch.float64)
    >>> smooth_quantile(scores, 0.1, 0.01)
    tensor(17., dtype=torch.float64)
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be finite and > 0, got {temperature!r}")
    if scores.ndim != 1:
        raise ValueError(f"scores must have shape (n,), got {tuple(scores.shape)}")
    check_finite(scores, "scores")
    n, rank = len(scores), conformal_rank(len(scores), alpha)
    if rank > n:
        raise ValueError(
            f"{n} scores are too few for alpha {float(alpha):g}: at least "
            f"{math.ceil(1 / exact_alpha(alpha)) - 1} are needed; use larger batches"
        )
    units = scores / temperature
    with torch.no_grad():
        margin = math.log(2 * n)  # so far beyond the last score the soft count is above n - 1/2
        low, high = units.min().double() - margin, units.max().double() + margin
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            above = (middle - units).sigmoid().sum() > rank - 0.5
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    root = high.to(units.dtype)
    for _ in range(2):  # Newton's steps leave the root where it is and give its derivatives
        soft = (root - units).sigmoid()
        slope = (soft * (1 - soft)).sum()  # at least 1/4: a count of one half is open
        root = root - (soft.sum() - (rank - 0.5)) / slope
    return root * temperature


class ConformalTrainingLoss(nn.Module):
    """Mean size of the prediction sets that calibrating the model would give, differentiable.

    The first rows of a batch calibrate a threshold, smoothly; the others get soft sets, in which a
    class has degree sigmoid((threshold - score) / temperature). The loss is their mean size above
    ``target_size``, and on request a classification term that wants the true class inside. The
    batches must be shuffled. The loss promises nothing: calibrate the trained model on rows that
    it has not seen.

    Parameters
    ----------
    alpha : float in (0, 1)
        Error rate of the sets in training.
    temperature : float
        Softness of the sets and of the threshold, in the unit of the scores.
    target_size : float
        Soft sizes up to this cost nothing.
    size_weight, classification_weight : float
        Weights of the two terms, at least 0.
    loss_matrix : Tensor of shape (c, c) or None
        For the classification term: cost, in the row of the true class, of leaving it out
        (diagonal) and of having another class in the set. None: the identity.
    share : float in (0, 1)
        Part of the batch that calibrates.
    score : callable logits (n, c) -> scores (n, c), or None
        Differentiable; higher = stranger. None: minus the log-probability.

    Raises
    ------
    ValueError
        If a number is outside its range, or ``loss_matrix`` is given and its term off.

    References
    ----------
    Stutz, Dvijotham, Cemgil and Doucet (2022), Learning optimal conformal classifiers,
    arXiv:2110.09192 (they minimise the logarithm of this loss, and sort softly for the threshold,
    which here is the root of a soft count).

    Examples
    --------
    >>> logits = torch.randn(64, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    >>> loss = ConformalTrainingLoss(alpha=0.1)(logits, logits.argmax(1))
    >>> loss.backward()
    >>> logits.grad.isfinite().all()
    tensor(True)
    """

    loss_matrix: Tensor | None

    def __init__(
        self,
        alpha: float = 0.1,
        temperature: float = 1.0,
        target_size: float = 1.0,
        size_weight: float = 1.0,
        classification_weight: float = 0.0,
        loss_matrix: Tensor | None = None,
        share: float = 0.5,
        score: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("alpha", alpha), ("share", share)):
            if not 0 < value < 1:
                raise ValueError(f"{name} must be in (0, 1), got {value!r}")
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be finite and > 0, got {temperature!r}")
        weights = {"target_size": target_size, "size_weight": size_weight}
        for name, value in (weights | {"classification_weight": classification_weight}).items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and >= 0, got {value!r}")
        if loss_matrix is not None and classification_weight == 0:
            raise ValueError("loss_matrix is read only with classification_weight above 0")
        self.alpha, self.temperature, self.target_size = alpha, temperature, target_size
        self.size_weight, self.classification_weight = size_weight, classification_weight
        self.share, self.score = share, score
        self.register_buffer("loss_matrix", loss_matrix, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch.

        Parameters
        ----------
        logits : Tensor of shape (n, c)
            Finite, in random order; 1 / alpha - 1 of the rows or more must calibrate.
        labels : int Tensor of shape (n,)
            True columns.

        Returns
        -------
        Tensor of shape ()
        """
        _check(logits, labels)
        scores = -logits.log_softmax(dim=1) if self.score is None else self.score(logits)
        n = round(self.share * len(logits))
        true = scores[:n].gather(1, labels[:n, None])[:, 0]
        threshold = smooth_quantile(true, self.alpha, self.temperature)
        degrees = ((threshold - scores[n:]) / self.temperature).sigmoid()
        loss: Tensor = self.size_weight * (degrees.sum(dim=1) - self.target_size).relu().mean()
        if self.classification_weight:
            loss = loss + self.classification_weight * self._misplaced(degrees, labels[n:])
        return loss

    def _misplaced(self, degrees: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cost of the true class's absence and the others' presence."""
        truth = nn.functional.one_hot(labels, degrees.shape[1]).to(degrees.dtype)
        wrong = (degrees - truth).abs()
        if self.loss_matrix is None:
            return (wrong * truth).sum(dim=1).mean()
        return (wrong * self.loss_matrix.to(degrees)[labels]).sum(dim=1).mean()


def _check(logits: Tensor, labels: Tensor) -> None:
    if logits.ndim != 2 or not logits.is_floating_point() or logits.shape[1] < 2:
        raise ValueError(f"logits must be floats (n, c), got {logits.dtype} {tuple(logits.shape)}")
    if len(logits) < 2 or labels.shape != logits.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"labels must be columns (n,) of {len(logits)} logits, n at least 2, got "
            f"{labels.dtype} {tuple(labels.shape)}"
        )
    check_finite(logits, "logits")
    if bool((labels < 0).any() | (labels >= logits.shape[1]).any()):
        got = f"{int(labels.min())}..{int(labels.max())}"
        raise ValueError(f"labels must be in 0..{logits.shape[1] - 1}, got {got}")
