"""Mahalanobis distance."""

from __future__ import annotations

from typing import Any

from trustml.ood._gaussian import RunningGaussians
from trustml.ood._layered import Layered
from trustml.ood._layers import LayerChoice


class Mahalanobis(Layered):
    r"""Squared Mahalanobis distance of the features to the nearest class mean.

    .. math:: s(z) = \min_k (z - \mu_k)^\top \Sigma^{-1} (z - \mu_k)

    with class means :math:`\mu_k` and the shared within-class covariance :math:`\Sigma` of the
    input of the model's last linear layer. No unit; at least 0. Regression models, and
    features without labels, get one Gaussian. Of several layers, the sum of their distances.

    Parameters
    ----------
    model : Model or estimator
        A model with features.
    shrinkage : float in [0, 1] or "ledoit-wolf"
        :math:`\Sigma = (1 - s) S + s\, \bar\lambda I` with the mean eigenvalue
        :math:`\bar\lambda` of the empirical :math:`S`: relative, so scores do not depend on
        the unit of the features. The choice of Ledoit and Wolf keeps the rows until ``fit``
        ends; a number needs memory for one D by D matrix.
    normalize : bool
        Scale each row of features to length 1 first ("Mahalanobis++"): better where the norm
        of the features varies much from row to row.
    layers : None, "auto" or sequence of str
        None reads the features, the input of the last linear layer; "auto" reads the end of
        each stage of the network instead, a list the layers of these names; each as its mean
        over positions or tokens.

    Attributes
    ----------
    layers_ : list of str
        The inner layers that are read; empty where it is the features.

    References
    ----------
    Lee, Lee, Lee and Shin (2018), A simple unified framework for detecting out-of-distribution
    samples and adversarial attacks, arXiv:1807.03888.
    Mueller and Hein (2025), Mahalanobis++: improving OOD detection via feature normalization,
    arXiv:2505.18032.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = Mahalanobis(LogisticRegression(max_iter=1000).fit(X, y)).fit(X, y)
    >>> bool(det.score(X + 5.0).min() > det.score(X).max())
    True
    """

    def __init__(
        self,
        model: Any,
        shrinkage: float | str = 1e-3,
        normalize: bool = False,
        layers: LayerChoice = None,
    ) -> None:
        self.model = model
        self.shrinkage = shrinkage
        self.normalize = normalize
        self.layers = layers

    def _running(self) -> RunningGaussians:
        return RunningGaussians(self.shrinkage)
