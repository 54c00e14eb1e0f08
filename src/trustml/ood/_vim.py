"""Virtual-logit matching: what the features leave outside their principal space."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from trustml.core.validation import check_positive_int
from trustml.ihvp import Dense, top_eigenpairs
from trustml.model import Model, Observation
from trustml.ood._detector import KeepsRows
from trustml.ood._seen import UnsuitableError, as_double, balanced_logits

_SHIFT = 1e-4  # singular values of W below: the softmax's shift, trained to almost zero
_NO_RESIDUAL = 1e-6  # of the features' size: the rounding of single precision


class Vim(KeepsRows):
    r"""Length of the features' residual, in units of logits, less the logits' evidence.

    .. math:: s(z) = \alpha\, \lVert (I - Q Q^\top)(z - o) \rVert - \log \sum_k e^{f_k(z)}

    with the origin :math:`o = -W^+ b` at which the head's logits vanish, the principal space Q
    of the features about it, and :math:`\alpha` the mean of the largest logit over that of the
    residual's length on the rows of ``fit``. In nats; does not depend on the unit of the
    features. Logits of a one-output classifier are taken with mean zero.

    Parameters
    ----------
    model : Model or estimator
        A differentiable classifier whose last layer is linear.
    dim : int or "auto"
        Dimension of Q, less than that of the features. "auto" follows the paper: 1000 of 2048
        features and more, 512 of 768 and more, else half of them; at most half the rows.

    References
    ----------
    Wang, Li, Feng and Zhang (2022), ViM: out-of-distribution with virtual-logit matching,
    arXiv:2203.10807.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = Vim(LogisticRegression(max_iter=1000).fit(X, y), dim=2).fit(X)
    >>> det.score(X[:2]).shape
    (2,)
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "head", "logits"})

    def __init__(self, model: Any, dim: int | str = "auto") -> None:
        self.model = model
        self.dim = dim

    def _fit(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        weight, bias = cast("tuple[Tensor, Tensor]", model.head)
        self.origin_ = -torch.linalg.pinv(weight.double(), rtol=_SHIFT) @ bias.double()
        features = as_double(observation.features) - self.origin_
        n, d = features.shape
        self.dim_ = self._chosen_dim(n, d)
        moment = Dense(features.T @ features / n)
        self.basis_ = (
            top_eigenpairs(moment, self.dim_)[1] if self.dim_ else features.new_zeros(d, 0)
        )
        residual = self._residual(features).mean()
        if residual <= _NO_RESIDUAL * features.norm(dim=1).mean():
            raise UnsuitableError(
                f"Vim needs features outside their first {self.dim_} principal directions, and the "
                f"{n} rows of fit have none; give fit more rows, or lower dim"
            )
        logits = balanced_logits(observation)
        largest = logits.max(dim=1).values.mean()
        if largest <= 0:  # the level of logits is arbitrary, a negative weight would be wrong
            largest = (logits.max(dim=1).values - logits.mean(dim=1)).mean()
        self.alpha_ = float(largest / residual)

    def _score(self, observation: Observation) -> Tensor:
        residual = self._residual(as_double(observation.features) - self.origin_)
        return self.alpha_ * residual - torch.logsumexp(balanced_logits(observation), dim=1)

    def _residual(self, centred: Tensor) -> Tensor:
        residual = centred - centred @ self.basis_ @ self.basis_.T
        return residual.square().sum(dim=1).sqrt()

    def _chosen_dim(self, n: int, d: int) -> int:
        if self.dim == "auto":
            return min(1000 if d >= 2048 else 512 if d >= 768 else d // 2, n // 2)
        dim = check_positive_int(self.dim, "dim")
        if dim >= d:
            raise ValueError(f"dim must be less than the {d} features, got {dim}")
        return dim
