"""Nearest neighbours of one's own class against those of the others."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from trustml.conformal._score import Score
from trustml.core.batches import Data
from trustml.core.validation import check_finite, check_positive_int
from trustml.model import Model

_BLOCK = 2**21  # distances in memory at once


class Knn(Score):
    """Mean distance to the k nearest rows of the class, over that to the k nearest others.

    Distances are Euclidean, between inputs of the model's last linear layer: the score reads no
    probability, and finds rows that lie away from their class where the model is sure of them.

    Parameters
    ----------
    k : int
        Neighbours on either side; all of a class that has fewer. A class without rows scores
        +inf.
    share : float in [0, 1)
        0: neighbours are the training rows, which needs ``train=`` of the model. Otherwise this
        part of the calibration rows, which are then not calibrated on.

    Raises
    ------
    ValueError
        If ``k`` or ``share`` is out of range.

    References
    ----------
    Papadopoulos, Vovk and Gammerman (2007), Conformal prediction with neural networks, section 4.
    Gammerman and Vovk (2007), Hedging predictions in machine learning, arXiv:cs/0611011.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> import trustml
    >>> from trustml.conformal import SplitClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> fitted = LogisticRegression(max_iter=1000).fit(X[::2], y[::2])
    >>> model = trustml.wrap(fitted, train=(X[::2], y[::2]))
    >>> cp = SplitClassifier(model, Knn(k=3)).fit(X[1::2], y[1::2])
    >>> cp.predict_set(X[:1], alpha=0.1).tolist()
    [[True, False, False]]
    """

    name = "knn"
    randomized = False
    reads: ClassVar[Literal["probabilities", "features"]] = "features"

    def __init__(self, k: int = 10, share: float = 0.0) -> None:
        if not 0 <= share < 1:
            raise ValueError(f"share must be in [0, 1), got {share!r}")
        self.k, self.share = check_positive_int(k, "k"), share
        self._neighbours: list[Tensor] | None = None

    def learnt(self, model: Model, probabilities: Tensor, labels: Tensor) -> Score:
        """Return the score with its neighbours.

        Parameters
        ----------
        model : Model
            Whose training rows are taken unless ``share`` is positive.
        probabilities : Tensor of shape (r, h)
            Features of the calibration rows set aside.
        labels : Tensor of shape (r,)
            Their columns.

        Returns
        -------
        Knn

        Raises
        ------
        ValueError
            If there are no training rows or no features.
        """
        features: Tensor | None = probabilities
        if not self.share:
            model.require_train("score='knn' without share=")
            train: Data = model.train  # type: ignore[assignment]
            features, labels = model.observe(train).features, train.targets  # type: ignore[assignment]
        if features is None or features.ndim != 2:
            raise ValueError("score='knn' needs a model with features (n, h): a last linear layer")
        check_finite(features, "the model's features")
        rows, labels = features.detach().cpu().double(), labels.cpu()
        found = Knn(self.k)
        found._neighbours = [rows[labels == c] for c in range(model.n_classes or 0)]
        return found

    def __call__(self, probabilities: Tensor, uniforms: Tensor) -> Tensor:
        """Return the ratio of distances, shape (n, c), of features (n, h).

        Parameters
        ----------
        probabilities : Tensor of shape (n, h)
            The features.
        uniforms : Tensor of shape (n,)
            Not read.

        Returns
        -------
        Tensor of shape (n, c)

        Raises
        ------
        ValueError
            If the score has not learnt its neighbours.
        """
        if self._neighbours is None:
            raise ValueError(
                "Knn has no neighbours yet; the fit of SplitClassifier(model, Knn()) finds them"
            )
        held = max(len(rows) for rows in self._neighbours) + 4 * self.k * len(self._neighbours)
        parts = torch.split(probabilities, max(1, _BLOCK // held))
        return torch.cat([_ratio(part, self._neighbours, self.k) for part in parts])


def _ratio(features: Tensor, neighbours: list[Tensor], k: int) -> Tensor:
    near = torch.stack([_nearest(features, rows, k) for rows in neighbours], dim=1)
    n, n_classes, _ = near.shape
    own = _mean(near, near.isfinite())
    # The k nearest rows of the other classes are among the 2k nearest of all.
    closest, place = near.reshape(n, -1).sort(dim=1, stable=True)
    closest, owner = closest[:, None, : 2 * k], place[:, None, : 2 * k] // k
    other = (owner != torch.arange(n_classes)[:, None]) & closest.isfinite()
    others = _mean(closest.expand_as(other), other & (other.cumsum(dim=2) <= k))
    return torch.where((own == 0) & (others == 0), 1.0, own / others)


def _nearest(features: Tensor, rows: Tensor, k: int) -> Tensor:
    """Distances (n, k) in rising order, +inf where there are fewer rows."""
    # Not by a matrix product, in which equal rows are not at distance 0 and a row's distances
    # depend on its batch.
    exact = "donot_use_mm_for_euclid_dist"
    distances = torch.cdist(features, rows, compute_mode=exact)
    found = distances.topk(min(k, len(rows)), dim=1, largest=False).values
    return torch.nn.functional.pad(found, (0, k - found.shape[1]), value=torch.inf)


def _mean(values: Tensor, taken: Tensor) -> Tensor:
    """Mean over the last axis of what is taken; +inf of nothing."""
    count = taken.sum(dim=-1)
    return torch.where(count > 0, values.where(taken, 0.0).sum(dim=-1) / count, torch.inf)
