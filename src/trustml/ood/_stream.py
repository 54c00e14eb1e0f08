"""One forward pass over rows, batch by batch, for any number of detectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trustml.core.validation import check_same_length
from trustml.model import Model, Observation
from trustml.model.passes import Layers
from trustml.ood._jacobian import Answer, ReadsGradients, answers
from trustml.ood._seen import UnsuitableError, check_observed, provided

if TYPE_CHECKING:
    from trustml.ood._detector import Detector


class Learners:
    """Detectors that learn from the same batches; one that cannot is left out, or an error.

    Parameters
    ----------
    members : mapping of str to Detector
        By name.
    strict : bool
        A detector that does not fit is an error.

    Attributes
    ----------
    running : dict of str to Detector
        Those that fit so far.
    left_out : dict of str to str
        The reasons of the others.
    """

    def __init__(self, members: Mapping[str, Detector], *, strict: bool) -> None:
        self.running, self.strict = dict(members), strict
        self.left_out: dict[str, str] = {}
        shared: dict[object, object] = {}
        for member in members.values():
            if isinstance(member, ReadsGradients):
                member.shared_ = shared

    def update(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        """Let all learn from one batch.

        Raises
        ------
        UnsuitableError
            If none can.
        """
        if not provided(model, observation, None):
            raise UnsuitableError(
                f"no detector fits {model!r}: it gives neither class probabilities nor features; "
                "drift_test(model, X_ref, X_new) compares samples of any model"
            )
        self._each(lambda detector: detector.update(model, observation, labels))

    def finish(self, model: Model) -> dict[str, Detector]:
        """Return the detectors, fitted; an `UnsuitableError` if none fits."""
        self._each(lambda detector: detector.finish(model))
        return self.running

    def _each(self, step: Any) -> None:
        for name, detector in list(self.running.items()):
            try:
                step(detector)
            except UnsuitableError as error:
                if self.strict:
                    raise
                del self.running[name]
                self.left_out[name] = str(error)
        if not self.running:
            reasons = "; ".join(f"{name}: {why}" for name, why in self.left_out.items())
            raise UnsuitableError(f"no detector fits this model and these rows. {reasons}")


def learn(
    members: Mapping[str, Detector], model: Model, X: Any, y: Any, *, strict: bool
) -> tuple[dict[str, Detector], dict[str, str]]:
    """Fit detectors in one forward pass; those that do not fit are left out, or an error.

    Returns
    -------
    fitted : dict of str to Detector
        Those that fit.
    left_out : dict of str to str
        The reasons of the others.
    """
    labels = None if y is None or model.task != "classification" else model.targets(y)
    learners, start = Learners(members, strict=strict), 0
    for observation in observed(members.values(), model, X):
        some = _labels(model, observation, labels, start)
        learners.update(model, observation, some)
        start += len(observation)
    if labels is not None:
        check_same_length(X=range(start), y=labels)
    return learners.finish(model), learners.left_out


def score(members: Mapping[str, Detector], model: Model, X: Any) -> dict[str, Tensor]:
    """Return the scores (n,) of every detector, in one forward pass."""
    parts: dict[str, list[Tensor]] = {name: [] for name in members}
    for observation in observed(members.values(), model, X):
        for name, found in score_observed(members, observation).items():
            parts[name].append(found)
    return {name: torch.cat(found) for name, found in parts.items()}


def score_observed(members: Mapping[str, Detector], observation: Observation) -> dict[str, Tensor]:
    """Return every detector's scores of what the model saw; gradients are computed once."""
    asking = {name: d for name, d in members.items() if isinstance(d, ReadsGradients)}
    read: dict[str, Answer] = {}
    if asking:
        inputs, targets = next(iter(asking.values())).rows(observation)
        read = answers({name: d.question() for name, d in asking.items()}, inputs, targets)
    check_observed(observation)
    with torch.no_grad():
        return {
            name: detector.score_answer(observation, read[name])
            if isinstance(detector, ReadsGradients)
            else detector.score_checked(observation)
            for name, detector in members.items()
        }


def observed(detectors: Iterable[Detector], model: Model, X: Any) -> Iterable[Observation]:
    """Return the batches of one forward pass, with the layers that the detectors read."""
    model.look(X)
    return model.observations(X, layers_of(detectors, model))


def layers_of(detectors: Iterable[Detector], model: Model) -> Layers:
    """Return what the detectors read of inner layers; what two of them read is read once."""
    return {key: what for d in detectors for key, what in d.reads(model).items()}


def _labels(
    model: Model, observation: Observation, labels: Tensor | None, start: int
) -> Tensor | None:
    """Return a batch's class indices: the user's, else the predicted ones; None without classes."""
    if model.task != "classification":
        return None
    if labels is None:
        return None if observation.logits is None else observation.logits.argmax(dim=1)
    some = labels[start : start + len(observation)]
    if len(some) < len(observation):
        raise ValueError(
            f"X and y must have the same length, but X has more rows than y's {len(labels)}"
        )
    return some.to(observation.outputs.device)
