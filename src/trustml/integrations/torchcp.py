"""Scores of the package TorchCP, for our calibration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trustml.conformal import Score
from trustml.core.optional import require_submodule
from trustml.core.random import seeded

_SCORES = "torchcp.classification.score"


class TorchcpScore(Score):
    """One of TorchCP's scores, as a ``score`` of every classifier of `trustml.conformal`.

    TorchCP scores, our side ranks and conditions. Of TorchCP's randomised scores each row is
    scored alone, with torch's global generator seeded by the row and put back afterwards, so that
    here too a row's set does not depend on its batch; that costs one call a row. The scores get a
    copy of the logits, for some write into it.

    Only TorchCP's scores are imported, which need none of torchsort, torch_geometric and
    transformers.

    Parameters
    ----------
    score : str, or callable logits (n, c) -> scores (n, c)
        Name of a class of ``torchcp.classification.score``, such as "APS" or "SAPS", or an object
        that follows its protocol. The logits are log-probabilities; scores of features, such as
        TorchCP's KNN, are not for this class: `trustml.conformal.Knn` is.
    **options
        Arguments of that class.

    Raises
    ------
    ValueError
        If TorchCP has no such score.
    TypeError
        If the score is neither a name nor callable, or options come with an object.

    References
    ----------
    Wei and Huang (2024), TorchCP: a library for conformal prediction based on PyTorch,
    arXiv:2402.12683.

    Examples
    --------
    >>> score = TorchcpScore(lambda logits: 1 - logits.softmax(dim=1))
    >>> probabilities = torch.tensor([[0.2, 0.8]], dtype=torch.float64)
    >>> score(probabilities, torch.tensor([0.5]))
    tensor([[0.8000, 0.2000]], dtype=torch.float64)
    """

    name = "torchcp"

    def __init__(self, score: str | Callable[[Tensor], Tensor], **options: Any) -> None:
        if isinstance(score, str):
            kinds = require_submodule(_SCORES, "cp-anchors")
            if not hasattr(kinds, score):
                known = sorted(n for n in vars(kinds) if isinstance(getattr(kinds, n), type))
                raise ValueError(f"{_SCORES} has no {score!r}; it has {', '.join(known)}")
            self.score = getattr(kinds, score)(**options)
        elif not callable(score) or isinstance(score, type) or options:
            raise TypeError(
                f"score must be a name with its options, or a callable logits -> (n, c) without, "
                f"got {score!r}, options {sorted(options)}"
            )
        else:
            self.score = score
        self.randomized = bool(getattr(self.score, "randomized", False))

    def __call__(self, probabilities: Tensor, uniforms: Tensor) -> Tensor:
        """Return TorchCP's scores of all classes.

        Returns
        -------
        Tensor of shape (n, c)
        """
        # A probability of zero must not become an infinite logit: its differences are NaN.
        logits = probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()
        if not self.randomized:
            return self._scores(logits)
        rows = []
        with seeded(0):
            for row, uniform in zip(logits, uniforms.tolist(), strict=True):
                torch.manual_seed(int(uniform * 2**53))
                rows.append(self._scores(row[None]))
        return torch.cat(rows) if rows else torch.empty_like(logits)

    def _scores(self, logits: Tensor) -> Tensor:
        shape = logits.shape
        scores: Tensor = self.score(logits)
        if not isinstance(scores, Tensor) or scores.shape != shape:
            given = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(f"score must return a tensor of shape {tuple(shape)}, got {given}")
        return scores.to(logits.dtype)
