"""Several detectors fused into one score: the default detector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from trustml.core.batches import as_data
from trustml.core.random import RandomState, numpy_generator
from trustml.core.validation import check_choice
from trustml.model import Model, Observation
from trustml.model.passes import Layers
from trustml.ood._detector import Detector
from trustml.ood._entropy import Entropy
from trustml.ood._even_rows import EvenRows
from trustml.ood._fdbd import Fdbd
from trustml.ood._fusion import METHODS, Surprise, fuse_surprises
from trustml.ood._gram import Gram
from trustml.ood._laplace import LastLayerLaplace
from trustml.ood._layers import chosen_layers
from trustml.ood._mahalanobis import Mahalanobis
from trustml.ood._msp import Msp
from trustml.ood._rmd import RelativeMahalanobis
from trustml.ood._roster import Choice, make
from trustml.ood._seen import UnsuitableError, take
from trustml.ood._stream import Learners, layers_of, score_observed
from trustml.ood._tuning import tuned_weights
from trustml.ood._tuning_shifts import shifts

_FEWEST_ROWS = 20
_GOLDEN = (math.sqrt(5) - 1) / 2
_MOST_SHIFTED = 512  # rows of each shift
_SHIFTS = 14  # at least as many as there are: all shifts together are no more than another pass


class Fused(Detector):
    r"""Weighted sum of the surprises of several detectors: the default detector.

    The rows of ``fit`` are split. The members learn from one part; on the other, held out,
    each member's scores give its surprise :math:`-\log \hat P(S \ge s)`: the rank among the
    held-out scores, continued beyond their upper tenth by an exponential tail so that far
    rows do not tie. The weighted sum over members (Fisher's combination) is in nats, at least 0.

    The weights are those that best tell the held-out rows from synthetic shifts of them - noise,
    mixtures, shuffled values; of images also blur, turns and patches in other places. Nothing
    else reaches them: no out-of-distribution row is needed or seen. All shifts together are at
    most one more forward pass over the rows of ``fit``. Inputs that are not real numbers
    (tokens), and models that give only predictions, keep equal weights.

    The members by default are densities of each stage of the network (Mahalanobis distances, Gram
    matrices), near-distribution scores (relative Mahalanobis, distance to the decision
    boundaries) and a curvature score (last-layer Laplace): where one is blind another sees.
    Models that give only predictions get MSP and entropy.

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
        Seed of the choice of the held-out rows, and of the synthetic shifts.
    weights : {"tuned", "equal"}
        Whether the members are weighed as above.
    combine : {"fisher", "cauchy", "harmonic"}
        What is fused: the sum of the surprises, or minus the log of the combination of p-values
        that Cauchy's distribution or the harmonic mean give, both led by the most surprised
        member. As a verdict all are made valid by ``calibrate``, however the members depend.

    Attributes
    ----------
    members_ : dict of str to Detector
        The fitted members.
    left_out_ : dict of str to str
        Name and reason of each member that was left out.
    weights_ : dict of str to float
        Of each member; their mean is 1.
    shifts_ : list of str
        The synthetic shifts that the weights were tuned on.
    n_shifted_ : int
        How many rows went through the model for that.

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
        weights: str = "tuned",
        combine: str = "fisher",
    ) -> None:
        self.model = model
        self.detectors = detectors
        self.holdout = holdout
        self.random_state = random_state
        self.weights = weights
        self.combine = combine

    def _layers(self, model: Model) -> Layers:
        if not hasattr(self, "members_"):
            self.members_ = self._members(model)
        return layers_of(self.members_.values(), model)

    def _update(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        if not hasattr(self, "held_"):
            self._begin(model)
        held = self._held_out(len(observation)).to(observation.outputs.device)
        self._hold(take(observation, held.nonzero().flatten()))
        learn = (~held).nonzero().flatten()
        if len(learn):
            some = None if labels is None else labels[learn]
            self.learners_.update(model, take(observation, learn), some)
        self.n_rows_ += len(observation)

    def _begin(self, model: Model) -> None:
        if not 0 < float(self.holdout) < 1:
            raise ValueError(f"holdout must be a share in (0, 1), got {self.holdout!r}")
        check_choice(self.weights, "weights", ("tuned", "equal"))
        check_choice(self.combine, "combine", METHODS)
        self.members_ = self._members(model)
        self.learners_ = Learners(
            self.members_,
            strict=self.detectors is not None and not isinstance(self.detectors, str),
        )
        self.held_: list[Observation] = []
        self.inputs_, self.n_rows_ = EvenRows(_MOST_SHIFTED), 0
        self.rng_ = numpy_generator(self.random_state)
        self.offset_ = float(self.rng_.random())

    def _hold(self, seen: Observation) -> None:
        inputs = seen.inputs
        if self.weights == "tuned" and isinstance(inputs, Tensor) and inputs.is_floating_point():
            self.inputs_.add(inputs, torch.zeros(len(seen), device=inputs.device))
        if not any("inputs" in member.needs for member in self.members_.values()):
            seen = replace(seen, inputs=None)
        self.held_.append(seen)

    def _finish(self, model: Model) -> None:
        if self.n_rows_ < _FEWEST_ROWS:
            raise UnsuitableError(
                f"Fused holds out part of the rows and needs at least {_FEWEST_ROWS}, got "
                f"{self.n_rows_}; give fit more rows, or use a single detector"
            )
        self.members_ = self.learners_.finish(model)
        self.left_out_ = self.learners_.left_out
        found = [score_observed(self.members_, seen) for seen in self.held_]
        scores = {name: torch.cat([part[name] for part in found]) for name in self.members_}
        self.surprises_ = {name: Surprise.of(held_out) for name, held_out in scores.items()}
        inside = self._surprise(scores)
        self.shifts_: list[str] = []
        self.n_shifted_ = 0
        weights = inside.new_ones(len(self.members_))
        if self.inputs_.n and len(self.members_) > 1:
            weights = tuned_weights(inside, self._shifted(model))
        self.weights_ = dict(zip(self.members_, weights.tolist(), strict=True))
        del self.held_, self.learners_, self.inputs_, self.rng_

    def _shifted(self, model: Model) -> list[Tensor]:
        """Return the members' surprises (b, k) at synthetic shifts of held-out rows."""
        rows = self.inputs_.batch().inputs
        if not isinstance(rows, Tensor):
            raise TypeError("only tensors were kept")
        # A few rows of each shift where there are few: no more than another pass in all.
        rows = rows[:: -(-len(rows) * _SHIFTS // self.n_rows_)]
        layers, found = layers_of(self.members_.values(), model), []
        for name, moved in shifts(rows, self.rng_):
            seen = [
                score_observed(self.members_, part)
                for part in model.observations(as_data(moved, device=moved.device), layers)
            ]
            scores = {member: torch.cat([part[member] for part in seen]) for member in seen[0]}
            found.append(self._surprise(scores))
            self.shifts_.append(name)
            self.n_shifted_ += len(moved)
        return found

    def _held_out(self, n: int) -> Tensor:
        """Return which of the next n rows are held out: evenly spread, from a random offset."""
        # Multiples of the golden ratio: any stretch of rows gives its share, in no period.
        steps = torch.arange(self.n_rows_, self.n_rows_ + n, dtype=torch.float64)
        return (steps * _GOLDEN + self.offset_).frac() < self.holdout

    def _members(self, model: Model) -> dict[str, Detector]:
        if self.detectors is None and not model.has_features:
            return make([Msp, Entropy], self.model)
        if self.detectors is None:
            names = chosen_layers(model, "auto")
            members: list[Choice] = [Mahalanobis(self.model, layers=[name]) for name in names]
            if not members:
                members = [Mahalanobis, Mahalanobis(self.model, normalize=True)]
            members += [RelativeMahalanobis, LastLayerLaplace, Gram, Fdbd]
            return make(members, self.model)
        if isinstance(self.detectors, str):
            every = make(self.detectors, self.model)
            return {name: d for name, d in every.items() if not isinstance(d, Fused)}
        return make(self.detectors, self.model)

    def _score(self, observation: Observation) -> Tensor:
        surprises = self._surprise(score_observed(self.members_, observation))
        weights = surprises.new_tensor(list(self.weights_.values()))
        return fuse_surprises(surprises, weights, self.combine)

    def _surprise(self, scores: dict[str, Tensor]) -> Tensor:
        """Return the surprises (n, k) of the members' scores."""
        return torch.stack([self.surprises_[name](s) for name, s in scores.items()], dim=1)
