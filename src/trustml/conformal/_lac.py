"""Least ambiguous sets."""

from __future__ import annotations

from torch import Tensor

from trustml.conformal._score import Score


class Lac(Score):
    """Least ambiguous sets: one minus the probability of the class.

    The smallest sets on average when the probabilities are right; a set may be empty.

    References
    ----------
    Sadinle, Lei and Wasserman (2019), Least ambiguous set-valued classifiers with bounded error
    levels, arXiv:1609.00451.

    Examples
    --------
    >>> import torch
    >>> Lac()(torch.tensor([[0.75, 0.25]]), torch.rand(1))
    tensor([[0.2500, 0.7500]])
    """

    name = "lac"
    randomized = False

    def __call__(self, probabilities: Tensor, uniforms: Tensor) -> Tensor:
        """Return 1 - p, shape (n, c)."""
        return 1 - probabilities

    def of_labels(self, probabilities: Tensor, uniforms: Tensor, labels: Tensor) -> Tensor:
        """Return 1 - p of one class a row, shape (n,)."""
        return 1 - probabilities.gather(1, labels[:, None])[:, 0]
