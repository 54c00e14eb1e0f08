"""How few random cuts isolate the features of a row."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from trustml.core.validation import check_positive_int
from trustml.model import Model, Observation
from trustml.ood._canonical import like, scale_of, sorted_rows
from trustml.ood._detector import KeepsRows
from trustml.ood._seen import as_double


class IsolationForest(KeepsRows):
    r"""How few random cuts separate a row's features from those of the data.

    .. math:: s(z) = 2^{-E[h(z)] / c(m)}

    with the mean depth h at which random trees isolate z, and its mean c(m) for samples of the
    m rows that each tree is grown on. No unit; in (0, 1]. The trees are scikit-learn's.

    Parameters
    ----------
    model : Model or estimator
        A model with features.
    n_trees : int
        Number of trees.
    max_samples : int
        Rows of each tree, at most.
    random_state : int
        Seed of the cuts; the order of the rows does not matter.

    References
    ----------
    Liu, Ting and Zhou (2008), Isolation forest.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = IsolationForest(LogisticRegression(max_iter=1000).fit(X, y)).fit(X)
    >>> bool(det.score(X + 5.0).min() > det.score(X).mean())
    True
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    def __init__(
        self, model: Any, n_trees: int = 200, max_samples: int = 256, random_state: int = 0
    ) -> None:
        self.model = model
        self.n_trees = n_trees
        self.max_samples = max_samples
        self.random_state = random_state

    def _fit(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        from sklearn.ensemble import IsolationForest as Forest

        features = as_double(observation.features)
        self.centre_, self.scale_ = scale_of(features, type(self).__name__)
        rows = sorted_rows((features - self.centre_) / self.scale_)
        m = min(check_positive_int(self.max_samples, "max_samples"), len(rows))
        n_trees = check_positive_int(self.n_trees, "n_trees")
        forest = Forest(n_estimators=n_trees, max_samples=m, random_state=self.random_state).fit(
            rows
        )
        trees = [grown.tree_ for grown in forest.estimators_]
        starts = np.cumsum([0, *(tree.node_count for tree in trees)])
        feature, left, right, threshold, lengths = (
            np.concatenate(parts) for parts in zip(*map(_nodes, trees, starts[:-1]), strict=True)
        )
        # Level by level, each node's two children side by side: no need to look up who they are.
        at, self.features_, self.thresholds_ = starts[:-1], [], []
        for _ in range(max(tree.max_depth for tree in trees)):
            self.features_.append(like(feature[at], features))
            self.thresholds_.append(like(threshold[at], features))
            at = np.stack([left[at], right[at]], axis=1).ravel()
        self.lengths_ = like(lengths[at], features)
        self.typical_ = float(mean_depth(np.array([m]))[0])

    def _score(self, observation: Observation) -> Tensor:
        # Trees compare in single precision, as they were grown.
        z = ((as_double(observation.features) - self.centre_) / self.scale_).float()
        return torch.cat([self._of(some) for some in torch.split(z, 512)])

    def _of(self, z: Tensor) -> Tensor:
        shape = len(z), len(self.features_[0]) if self.features_ else len(self.lengths_)
        node = torch.arange(shape[1], device=z.device).expand(shape).flatten()
        for feature, threshold in zip(self.features_, self.thresholds_, strict=True):
            value = z.gather(1, feature.index_select(0, node).view(shape)).flatten()
            node = torch.add(value > threshold.index_select(0, node), node, alpha=2)
        depth = self.lengths_.index_select(0, node).view(shape).mean(dim=1)
        return torch.exp2(-depth / self.typical_) if self.typical_ else torch.ones_like(depth)


def mean_depth(m: np.ndarray) -> np.ndarray:
    """Return the mean depth of an unsuccessful search in random trees of m rows."""
    harmonic = np.log(np.maximum(m - 1.0, 1.0)) + np.euler_gamma
    return np.where(m > 2, 2 * harmonic - 2 * (m - 1.0) / m, np.where(m == 2, 1.0, 0.0))


def _nodes(tree: Any, start: int) -> tuple[np.ndarray, ...]:
    """Return each node's feature, children, threshold and length; a leaf leads to itself."""
    nodes = np.arange(tree.node_count)
    ends = tree.children_left < 0
    depths = np.zeros(tree.node_count)
    for node in nodes[~ends]:  # children come after their parent
        depths[[tree.children_left[node], tree.children_right[node]]] = depths[node] + 1
    # In single precision the largest number that is no larger: it splits such numbers alike.
    near = tree.threshold.astype(np.float32)
    below = np.where(near > tree.threshold, np.nextafter(near, np.float32(-np.inf)), near)
    return (
        np.where(ends, 0, tree.feature).astype(np.int64),
        start + np.where(ends, nodes, tree.children_left),
        start + np.where(ends, nodes, tree.children_right),
        below,
        depths + mean_depth(tree.n_node_samples),
    )
