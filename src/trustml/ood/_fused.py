"""Several detectors fused into one score: the default detector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from trustml.core.random import RandomState, numpy_generator
from trustml.model import Model, Observation
from trustml.model.passes import Layers
from trustml.ood._detector import Detector
from trustml.ood._entropy import Entropy
from trustml.ood._laplace import LastLayerLaplace
from trustml.ood._mahalanobis import Mahalanobis
from trustml.ood._msp import Msp
from trustml.ood._rmd import RelativeMahalanobis
from trustml.ood._roster import Choice, make
from trustml.ood._seen import UnsuitableError, take
from trustml.ood._stream import Learners, layers_of, score_observed

_TAIL = 0.1
_FEWEST_IN_TAIL = 5
_FEWEST_ROWS = 20
_GOLDEN = (math.sqrt(5) - 1) / 2


class Fused(Detector):
    r"""Sum of the surprises of several detectors: the default detector.

    The rows of ``fit`` are split. The members learn from one part; on the other, held out,
    each member's scores give its surprise :math:`-\log \hat P(S \ge s)`: the rank among the
    held-out scores, continued beyond their upper tenth by an exponential tail so that far
    rows do not tie. The sum over members (Fisher's combination) is in nats; at least 0.

    The members by default are a density score (two Mahalanobis distances), a near-distribution
    score (relative Mahalanobis) and a curvature score (last-layer Laplace): where one is
    blind another sees. Models that give only predictions get MSP and entropy.

    Parameters
    ----------
    model : Model or estimator
        What the rows are judged with.
    detectors : None, "all" or sequence of str, type or Detector
        The members. None takes the default; of None and "all", members that do not fit the
        model or the data are left out.
    holdout : float in (0, 1)
        Share of the rows of ``fit`` that is held out.
    random_state : int, Generator or None
        Seed of the choice of the held-out rows.

    Attributes
    ----------
    members_ : dict of str to Detector
        The fitted members.
    left_out_ : dict of str to str
        Name and reason of each member that was left out.

    References
    ----------
    Fisher (1932), Statistical Methods for Research Workers, section 21.1.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> det = Fused(LogisticRegression(max_iter=1000).fit(X, y)).fit(X, y)
    >>> bool(det.score(X + 5.0).min() > det.score(X).mean())
    True
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    streams: ClassVar[bool] = False

    def __init__(
        self,
        model: Any,
        detectors: str | Sequence[Choice] | None = None,
        holdout: float = 0.3,
        random_state: RandomState = 0,
    ) -> None:
        self.model = model
        self.detectors = detectors
        self.holdout = holdout
        self.random_state = random_state

    def _layers(self, model: Model) -> Layers:
        if not hasattr(self, "members_"):
            self.members_ = self._members(model)
        return layers_of(self.members_.values(), model)

    def _update(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        if not hasattr(self, "held_"):
            self._check_holdout()
            self.members_ = self._members(model)
            self.learners_ = Learners(
                self.members_,
                strict=self.detectors is not None and not isinstance(self.detectors, str),
            )
            self.held_, self.n_rows_ = [], 0
            self.offset_ = float(numpy_generator(self.random_state).random())
        held = self._held_out(len(observation)).to(observation.outputs.device)
        self.held_.append(take(observation, held.nonzero().flatten()))
        learn = (~held).nonzero().flatten()
        if len(learn):
            some = None if labels is None else labels[learn]
            self.learners_.update(model, take(observation, learn), some)
        self.n_rows_ += len(observation)

    def _finish(self, model: Model) -> None:
        if self.n_rows_ < _FEWEST_ROWS:
            raise UnsuitableError(
                f"Fused holds out part of the rows and needs at least {_FEWEST_ROWS}, got "
                f"{self.n_rows_}; give fit more rows, or use a single detector"
            )
        self.members_ = self.learners_.finish(model)
        self.left_out_ = self.learners_.left_out
        parts: dict[str, list[Tensor]] = {name: [] for name in self.members_}
        for seen in self.held_:
            for name, found in score_observed(self.members_, seen).items():
                parts[name].append(found)
        self.surprises_ = {name: Surprise.of(torch.cat(found)) for name, found in parts.items()}
        del self.held_, self.learners_

    def _held_out(self, n: int) -> Tensor:
        """Return which of the next n rows are held out: evenly spread, from a random offset."""
        # Multiples of the golden ratio: any stretch of rows gives its share, in no period.
        steps = torch.arange(self.n_rows_, self.n_rows_ + n, dtype=torch.float64)
        return (steps * _GOLDEN + self.offset_).frac() < self.holdout

    def _members(self, model: Model) -> dict[str, Detector]:
        if self.detectors is None and not model.has_features:
            return make([Msp, Entropy], self.model)
        if self.detectors is None:
            sharp = Mahalanobis(self.model, normalize=True)
            return make([Mahalanobis, sharp, RelativeMahalanobis, LastLayerLaplace], self.model)
        if isinstance(self.detectors, str):
            members = make(self.detectors, self.model)
            return {name: d for name, d in members.items() if not isinstance(d, Fused)}
        return make(self.detectors, self.model)

    def _check_holdout(self) -> None:
        if not 0 < float(self.holdout) < 1:
            raise ValueError(f"holdout must be a share in (0, 1), got {self.holdout!r}")

    def _score(self, observation: Observation) -> Tensor:
        found = score_observed(self.members_, observation)
        return torch.stack([self.surprises_[name](s) for name, s in found.items()]).sum(dim=0)


@dataclass(frozen=True, eq=False)
class Surprise:
    """How unusual a score is, in nats: minus the log of its estimated exceedance probability.

    Attributes
    ----------
    held_out : Tensor of shape (m,)
        In-distribution scores, ascending.
    start : float
        Where the exponential tail begins.
    level : float
        The surprise there.
    scale : float
        Mean excess of the held-out scores over ``start``.
    """

    held_out: Tensor
    start: float
    level: float
    scale: float

    @classmethod
    def of(cls, scores: Tensor) -> Surprise:
        """Estimate the distribution of float64 in-distribution scores."""
        ordered = scores.sort().values
        m = len(ordered)
        in_tail = min(max(math.ceil(_TAIL * m), _FEWEST_IN_TAIL), m - 1)
        start = float(ordered[m - 1 - in_tail])
        excess = ordered[ordered > start] - start
        # A detector that is constant on the held-out rows has no scale of its own.
        scale = float(excess.mean()) if len(excess) else max(abs(start), 1.0)
        return cls(ordered, start, -math.log((1 + in_tail) / (m + 1)), scale)

    def __call__(self, scores: Tensor) -> Tensor:
        """Return the surprise of new scores, shape (n,); non-decreasing in the score."""
        m = len(self.held_out)
        at_least = m - torch.searchsorted(self.held_out, scores)
        rank = -torch.log((1 + at_least).double() / (m + 1))
        tail = self.level + (scores - self.start) / self.scale
        return torch.where(scores > self.start, tail, rank.clamp_max(self.level))
