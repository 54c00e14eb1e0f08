"""Maximum softmax probability."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from trustml.model import Observation
from trustml.ood._detector import Detector
from trustml.ood._seen import as_double


class Msp(Detector):
    r"""One minus the largest class probability, :math:`1 - \max_c p_c`, in [0, 1).

    Computed as the probability of the other classes, so confident rows do not tie at zero.

    Parameters
    ----------
    model : Model or estimator
        A classifier; needs predictions only.

    References
    ----------
    Hendrycks and Gimpel (2017), A baseline for detecting misclassified and out-of-distribution
    examples in neural networks, arXiv:1610.02136.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = Msp(LogisticRegression(max_iter=1000).fit(X, y)).fit(X)
    >>> det.score(X[:2]).shape
    (2,)
    """

    needs: ClassVar[frozenset[str]] = frozenset({"probabilities"})

    def __init__(self, model: Any) -> None:
        self.model = model

    def _score(self, observation: Observation) -> Tensor:
        ordered = as_double(observation.logits).sort(dim=1, descending=True).values
        return (ordered[:, 1:].logsumexp(dim=1) - ordered.logsumexp(dim=1)).exp()
