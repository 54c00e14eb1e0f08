"""A boundary around the features."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from trustml.core.validation import check_positive_int
from trustml.model import Model, Observation
from trustml.ood._canonical import like, scale_of, sorted_rows
from trustml.ood._detector import KeepsRows
from trustml.ood._seen import as_double, unit_rows


class OneClassSvm(KeepsRows):
    r"""One minus the mean similarity of the features to the support vectors of the data.

    .. math:: s(z) = 1 - \sum_i \alpha_i\, e^{-\gamma \lVert z - z_i \rVert^2}, \qquad
              \sum_i \alpha_i = 1

    with the support vectors and weights of scikit-learn's one-class support vector machine, and
    :math:`\gamma = 1 / (D \sigma^2)` for D features of mean variance :math:`\sigma^2`: no unit,
    in [0, 1]. Rows far from all data tie at 1.

    Parameters
    ----------
    model : Model or estimator
        A model with features.
    nu : float in (0, 1]
        Bound on the share of the rows of ``fit`` outside the boundary.
    normalize : bool
        Scale each row of features to length 1 first.
    max_rows : int
        Of more rows in ``fit`` so many are taken, evenly spaced when sorted: the cost is
        quadratic.

    References
    ----------
    Schölkopf, Platt, Shawe-Taylor, Smola and Williamson (2001), Estimating the support of a
    high-dimensional distribution.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = OneClassSvm(LogisticRegression(max_iter=1000).fit(X, y)).fit(X)
    >>> bool(det.score(X + 5.0).min() > det.score(X).max())
    True
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    def __init__(
        self, model: Any, nu: float = 0.1, normalize: bool = False, max_rows: int = 5000
    ) -> None:
        self.model = model
        self.nu = nu
        self.normalize = normalize
        self.max_rows = max_rows

    def _fit(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        from sklearn.svm import OneClassSVM

        if not 0 < self.nu <= 1:
            raise ValueError(f"nu must be in (0, 1], got {self.nu!r}")
        features = self._features(observation)
        self.centre_, self.scale_ = scale_of(features, type(self).__name__)
        rows = sorted_rows(
            (features - self.centre_) / self.scale_, check_positive_int(self.max_rows, "max_rows")
        )
        self.gamma_ = 1.0 / rows.shape[1]
        found = OneClassSVM(gamma=self.gamma_, nu=self.nu, tol=1e-8).fit(rows)
        self.vectors_ = like(found.support_vectors_, features)
        weights = like(found.dual_coef_, features)[0]
        self.weights_ = weights / weights.sum()

    def _score(self, observation: Observation) -> Tensor:
        z = (self._features(observation) - self.centre_) / self.scale_
        own = self.vectors_.square().sum(dim=1)
        similar = []
        for some in torch.split(z, 1024):
            # Of centred rows: what cancels is far below where the kernel changes.
            across = torch.addmm(own, some, self.vectors_.T, alpha=-2)
            squared = across.add_(some.square().sum(dim=1, keepdim=True)).clamp_min_(0)
            similar.append(squared.mul_(-self.gamma_).exp_() @ self.weights_)
        return 1 - torch.cat(similar)

    def _features(self, observation: Observation) -> Tensor:
        features = as_double(observation.features)
        return unit_rows(features) if self.normalize else features
