"""Energy of pruned activations."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from trustml.core.validation import check_choice
from trustml.model import Model, Observation
from trustml.ood._detector import Detector
from trustml.ood._head import Head
from trustml.ood._percentiles import check_share, n_kept
from trustml.ood._seen import as_double

_PERCENTILES = {"s": 0.9, "b": 0.65, "p": 0.6}


class Ash(Detector):
    r"""Free energy of the logits of each row's largest features, the others set to zero.

    The features are the input of the last linear layer, after pooling; each row keeps the
    share 1 - ``percentile`` of largest size, at least one, and what ties with the last. With
    :math:`s_1` the sum of all sizes and :math:`s_2` that of the k kept, the kept features

    - "s": are multiplied by :math:`\exp(s_1 / s_2)`;
    - "b": all get the size :math:`s_1 / k`, but zeros stay;
    - "p": stay as they are.

    For features of at least 0, as after a ReLU, sizes are the features themselves and that is
    the paper's method. In the unit of the logits; the one logit f of a binary model counts as
    :math:`(-f/2, f/2)`. Nothing is learnt.

    Parameters
    ----------
    model : Model or estimator
        A classifier whose last layer is linear.
    variant : {"s", "b", "p"}
        Scale, binarise, or prune only.
    percentile : float in (0, 1) or "auto"
        The share of features that is dropped; "auto" takes the paper's for ImageNet: 0.9 for
        "s", 0.65 for "b", 0.6 for "p".

    References
    ----------
    Djurisic, Bozanic, Ashok and Liu (2023), Extremely simple activation shaping for
    out-of-distribution detection, arXiv:2209.09858.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = Ash(LogisticRegression(max_iter=1000).fit(X, y), percentile=0.5).fit(X)
    >>> det.score(X[:2]).shape
    (2,)
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits", "features", "head"})

    def __init__(self, model: Any, variant: str = "s", percentile: float | str = "auto") -> None:
        self.model = model
        self.variant = variant
        self.percentile = percentile

    def _finish(self, model: Model) -> None:
        check_choice(self.variant, "variant", tuple(_PERCENTILES))
        share = _PERCENTILES[self.variant] if self.percentile == "auto" else self.percentile
        self.percentile_ = check_share(share, "percentile")
        self.head_ = Head.of(model)

    def _score(self, observation: Observation) -> Tensor:
        features = as_double(observation.features)
        sizes = features.abs()
        k = n_kept(features.shape[1], self.percentile_)
        kept = features * (sizes >= sizes.topk(k, dim=1).values[:, -1:])
        total = sizes.sum(dim=1, keepdim=True)
        if self.variant == "s":
            # At least 1 and at most h / k; of a row of zeros it does not matter.
            spread = (total / kept.abs().sum(dim=1, keepdim=True)).nan_to_num(1.0)
            kept = kept * spread.exp()
        elif self.variant == "b":
            kept = kept.sign() * total / kept.count_nonzero(dim=1)[:, None].clamp_min(k)
        return self.head_.energy(kept)
