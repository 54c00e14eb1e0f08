"""Energy of activations rectified on both sides."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from trustml.model import Model, Observation
from trustml.ood._detector import KeepsRows
from trustml.ood._head import Head
from trustml.ood._percentiles import check_share, percentile
from trustml.ood._seen import as_double


class Vra(KeepsRows):
    r"""Free energy of the logits with small features suppressed and large ones cut off.

    .. math:: s(x) = -\log \sum_c \exp f_c(\rho(\phi(x))), \qquad
              \rho(z) = \begin{cases} 0 & |z| < \alpha \\ z & \alpha \le |z| \le \beta \\
              \operatorname{sign}(z)\, \beta & |z| > \beta \end{cases}

    The features :math:`\phi` are the input of the last linear layer - after pooling - and
    :math:`\alpha, \beta` are percentiles of the sizes of all their entries, over rows and
    columns of ``fit``. For features of at least 0, as after a ReLU, that is the paper's
    function. In the unit of the logits; the one logit f of a binary model counts as
    :math:`(-f/2, f/2)`.

    Parameters
    ----------
    model : Model or estimator
        A classifier whose last layer is linear.
    low, high : float in (0, 1)
        The percentiles, ``low < high``; the paper's choice by default.

    Attributes
    ----------
    thresholds_ : tuple of float
        :math:`\alpha` and :math:`\beta`, in the unit of the features.

    References
    ----------
    Xu, Lian, Liu and Tao (2023), VRA: variational rectified activation for out-of-distribution
    detection, arXiv:2302.11716.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = Vra(LogisticRegression(max_iter=1000).fit(X, y)).fit(X)
    >>> det.score(X[:2]).shape
    (2,)
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits", "features", "head"})

    def __init__(self, model: Any, low: float = 0.6, high: float = 0.95) -> None:
        self.model = model
        self.low = low
        self.high = high

    def _fit(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        low, high = check_share(self.low, "low"), check_share(self.high, "high")
        if low >= high:
            raise ValueError(f"low must be less than high, got {low} and {high}")
        sizes = as_double(observation.features).abs()
        self.thresholds_ = percentile(sizes, low), percentile(sizes, high)
        self.head_ = Head.of(model)

    def _score(self, observation: Observation) -> Tensor:
        features = as_double(observation.features)
        low, high = self.thresholds_
        return self.head_.energy((features * (features.abs() >= low)).clamp(-high, high))
