"""Neural collapse based detector: the share of the principal directions."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from trustml.core.validation import check_positive_int
from trustml.ihvp.covariance import Moments
from trustml.model import Model, Observation
from trustml.ood._detector import Detector
from trustml.ood._means import off_centre
from trustml.ood._seen import UnsuitableError, as_double, balanced_logits

_EXPLAINED = 0.9


class Neco(Detector):
    r"""Minus the share of the features' length that lies in the principal directions.

    .. math:: s(x) = -\frac{\lVert P (\phi(x) - \mu) \rVert_2}{\lVert \phi(x) - \mu \rVert_2}

    with the features :math:`\phi`, the input of the last linear layer, their mean :math:`\mu`
    on the rows of ``fit`` and the projection P onto the directions in which those vary most: a
    collapsed network holds its classes there. In [-1, 0]; neither the unit of the features nor
    a rotation matters. Numerator and denominator have the same centre, so no row exceeds 1.

    Parameters
    ----------
    model : Model or estimator
        A model with features.
    dim : int or "auto"
        How many directions, fewer than there are features; "auto" takes the fewest that hold
        nine tenths of the variance.
    max_logit : bool
        Multiply by the largest logit, as the paper does for transformers; in its unit then.

    Attributes
    ----------
    basis_ : Tensor of shape (h, d)
        The directions, orthonormal columns.

    References
    ----------
    Ammar, Belkhir, Popescu, Manzanera and Franchi (2024), NECO: neural collapse based
    out-of-distribution detection, arXiv:2310.06823.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = Neco(LogisticRegression(max_iter=1000).fit(X, y)).fit(X)
    >>> det.basis_.shape
    torch.Size([4, 1])
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    def __init__(self, model: Any, dim: int | str = "auto", max_logit: bool = False) -> None:
        self.model = model
        self.dim = dim
        self.max_logit = max_logit

    def _update(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        if self.max_logit and observation.logits is None:
            raise UnsuitableError(
                f"Neco(max_logit=True) needs logits, and {model!r} gives none; leave it False"
            )
        if not hasattr(self, "moments_"):
            self.moments_ = Moments()
        self.moments_.update(as_double(observation.features))

    def _finish(self, model: Model) -> None:
        self.centre_ = self.moments_.means[0]
        width = len(self.centre_)
        _, lengths, directions = torch.linalg.svd(self.moments_.root(), full_matrices=False)
        explained = lengths.square().cumsum(dim=0)
        if width < 2 or not explained[-1] > 0:
            raise UnsuitableError(
                "Neco needs at least two features, and rows of fit that differ in them; check the "
                "model's last hidden layer, or fit on other rows"
            )
        if self.dim == "auto":
            wanted = min(int((explained < _EXPLAINED * explained[-1]).sum()) + 1, width - 1)
        else:
            wanted = check_positive_int(self.dim, "dim")
        rank = int((lengths > lengths[0] * width * torch.finfo(lengths.dtype).eps).sum())
        if wanted >= width or wanted > rank:
            raise ValueError(
                f"dim must be less than the {width} features and at most the {rank} directions in "
                f"which the rows of fit vary, got {wanted}"
            )
        self.basis_ = directions[:wanted].T

    def _score(self, observation: Observation) -> Tensor:
        offsets, lengths = off_centre(as_double(observation.features), self.centre_)
        share: Tensor = (offsets @ self.basis_).norm(dim=1) / lengths
        return -share * balanced_logits(observation).amax(dim=1) if self.max_logit else -share
