"""Kullback-Leibler divergence from the nearest class template."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from trustml.model import Model, Observation
from trustml.ood._detector import Detector
from trustml.ood._log_probabilities import log_probabilities
from trustml.ood._means import GroupMeans


class KlMatching(Detector):
    r"""Divergence of the probabilities from the nearest template, in nats.

    .. math:: s(x) = \min_k \sum_c p_c(x) \log \frac{p_c(x)}{d_{kc}}

    The template :math:`d_k` is the mean of p over the rows of ``fit`` that are predicted as
    class k; classes that no row is predicted as have none. Labels are not used. At least 0.

    Parameters
    ----------
    model : Model or estimator
        A classifier; needs predictions only.

    Attributes
    ----------
    log_templates_ : Tensor of shape (k, c)
        Logarithms of the templates, one for each class that was predicted.

    References
    ----------
    Hendrycks et al. (2022), Scaling out-of-distribution detection for real-world settings,
    arXiv:1911.11132.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = KlMatching(LogisticRegression(max_iter=1000).fit(X, y)).fit(X)
    >>> bool((det.score(X) >= 0).all())
    True
    """

    needs: ClassVar[frozenset[str]] = frozenset({"probabilities"})

    def __init__(self, model: Any) -> None:
        self.model = model

    def _update(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        log_p = log_probabilities(observation)
        if not hasattr(self, "templates_"):
            self.templates_ = GroupMeans.of(log_p.shape[1], log_p)
        self.templates_ = self.templates_.plus(log_p.exp(), log_p.argmax(dim=1))

    def _finish(self, model: Model) -> None:
        templates = self.templates_.means()[self.templates_.present()]
        self.log_templates_ = templates.clamp_min(torch.finfo(templates.dtype).tiny).log()

    def _score(self, observation: Observation) -> Tensor:
        log_p = log_probabilities(observation)
        p = log_p.exp()
        cross = -(p @ self.log_templates_.T).max(dim=1).values
        return (cross + (p * log_p).sum(dim=1)).clamp_min(0)
