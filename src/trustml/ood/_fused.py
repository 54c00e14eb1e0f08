"""Several detectors fused into one score: the default detector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from trustml.core.random import RandomState, torch_generator
from trustml.model import Model, Observation
from trustml.ood._detector import Detector
from trustml.ood._entropy import Entropy
from trustml.ood._laplace import LastLayerLaplace
from trustml.ood._mahalanobis import Mahalanobis
from trustml.ood._msp import Msp
from trustml.ood._rmd import RelativeMahalanobis
from trustml.ood._roster import Choice, fit_all, make
from trustml.ood._seen import UnsuitableError, take

_TAIL = 0.1
_FEWEST_IN_TAIL = 5
_FEWEST_ROWS = 20


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
        Seed of the split.

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

    def _fit(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        learn, held = self._split(len(observation.outputs))
        learn, held = learn.to(observation.outputs.device), held.to(observation.outputs.device)
        self.members_, self.left_out_ = fit_all(
            self._members(observation),
            model,
            take(observation, learn),
            None if labels is None else labels[learn],
            strict=self.detectors is not None and not isinstance(self.detectors, str),
        )
        seen = take(observation, held)
        self.surprises_ = {
            name: Surprise.of(member.score_observation(seen))
            for name, member in self.members_.items()
        }

    def _members(self, observation: Observation) -> dict[str, Detector]:
        if self.detectors is None and observation.features is None:
            return make([Msp, Entropy], self.model)
        if self.detectors is None:
            sharp = Mahalanobis(self.model, normalize=True)
            return make([Mahalanobis, sharp, RelativeMahalanobis, LastLayerLaplace], self.model)
        if isinstance(self.detectors, str):
            members = make(self.detectors, self.model)
            return {name: d for name, d in members.items() if not isinstance(d, Fused)}
        return make(self.detectors, self.model)

    def _split(self, n: int) -> tuple[Tensor, Tensor]:
        """Return the rows to learn from and the rows held out."""
        holdout = float(self.holdout)
        if not 0 < holdout < 1:
            raise ValueError(f"holdout must be a share in (0, 1), got {self.holdout!r}")
        if n < _FEWEST_ROWS:
            raise UnsuitableError(
                f"Fused holds out part of the rows and needs at least {_FEWEST_ROWS}, got {n}; "
                "give fit more rows, or use a single detector"
            )
        order = torch.randperm(n, generator=torch_generator(self.random_state))
        n_held = min(max(math.ceil(holdout * n), _FEWEST_IN_TAIL), n - _FEWEST_IN_TAIL)
        return order[n_held:], order[:n_held]

    def _score(self, observation: Observation) -> Tensor:
        parts = [
            self.surprises_[name](member.score_observation(observation))
            for name, member in self.members_.items()
        ]
        return torch.stack(parts).sum(dim=0)


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
