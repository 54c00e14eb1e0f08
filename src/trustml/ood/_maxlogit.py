"""Maximum logit."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from trustml.model import Observation
from trustml.ood._detector import Detector
from trustml.ood._seen import balanced_logits


class MaxLogit(Detector):
    r"""Minus the largest logit, :math:`-\max_c f_c`; in the unit of the logits.

    The one logit f of a binary model counts as :math:`(-f/2, f/2)`: with the equally valid
    :math:`(0, f)` every row of the first class would look out of distribution.

    Parameters
    ----------
    model : Model or estimator
        A classifier with logits.

    References
    ----------
    Hendrycks et al. (2022), Scaling out-of-distribution detection for real-world settings,
    arXiv:1911.11132.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = MaxLogit(LogisticRegression(max_iter=1000).fit(X, y)).fit(X)
    >>> det.score(X[:2]).shape
    (2,)
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def __init__(self, model: Any) -> None:
        self.model = model

    def _score(self, observation: Observation) -> Tensor:
        return -balanced_logits(observation).max(dim=1).values
