"""Expected norm of the last layer's gradient."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from trustml.model import Observation
from trustml.ood._detector import Detector
from trustml.ood._log_probabilities import log_complements, log_probabilities
from trustml.ood._seen import as_double


class ExGrad(Detector):
    r"""Expected L1 norm of the last layer's gradient, the label drawn from the model.

    .. math:: s(x) = \mathbb{E}_{y \sim p(x)} \lVert \nabla_W \log p_y(x) \rVert_1
                   = 2\, \lVert \phi(x) \rVert_1 \sum_c p_c (1 - p_c)

    with the features :math:`\phi`, the input of the last linear layer: each gradient has rank
    one, so the norms need no backward pass. Computed from logarithms: sure rows do not tie at
    zero. The one logit of a binary model counts as two. In the unit of the features; at least 0.

    Parameters
    ----------
    model : Model or estimator
        A classifier whose last layer is linear.

    References
    ----------
    Igoe, Chung, Char and Schneider (2022), How useful are gradients for OOD detection really?,
    arXiv:2205.10439.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = ExGrad(LogisticRegression(max_iter=1000).fit(X, y)).fit(X)
    >>> bool((det.score(X) >= 0).all())
    True
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits", "features"})

    def __init__(self, model: Any) -> None:
        self.model = model

    def _score(self, observation: Observation) -> Tensor:
        log_p = log_probabilities(observation)
        doubt = (log_p + log_complements(log_p)).exp().sum(dim=1)
        return 2 * doubt * as_double(observation.features).abs().sum(dim=1)
