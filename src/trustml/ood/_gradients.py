"""What detectors share that read gradients of the outputs with respect to the parameters."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor

from trustml.core.batches import Inputs
from trustml.core.gradients import PerExampleGradients
from trustml.core.parameters import ParameterSpace
from trustml.core.validation import check_positive_int
from trustml.ihvp import Objective
from trustml.model import Model, Observation
from trustml.ood._detector import Detector
from trustml.ood._even_rows import EvenRows
from trustml.ood._heldout_damping import checked_damping, holdout
from trustml.ood._jacobian import Answer, Question, ReadsGradients, answers
from trustml.ood._laplace import targets_of
from trustml.ood._seen import UnsuitableError
from trustml.ood._spectrum import Spectrum, spectrum

T = TypeVar("T")


class GradientDetector(Detector, ReadsGradients):
    """A detector that weighs the Jacobian of the outputs by the curvature that the rows left.

    All such detectors of a `Suite` share one per-example gradient pass, and what they learn from
    the same rows with the same settings is computed once. Rows of ``fit`` are thinned evenly to
    ``max_rows``; their Gauss-Newton matrix is decomposed exactly where it, or the inner products
    of its output rows, are small, otherwise of sampled targets.

    Attributes
    ----------
    spectrum_ : Spectrum
        Leading eigenpairs of the Gauss-Newton matrix, mean loss.
    damping_ : float
        What is added to its eigenvalues, where the detector has a damping.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})
    streams: ClassVar[bool] = False

    rank: int
    max_rows: int
    parameters: str | Sequence[str] | None
    damping: float | str = 0.0
    raw: bool = False

    rows_: EvenRows
    spectrum_: Spectrum
    question_: Question

    @abstractmethod
    def _read(self, answer: Answer) -> Tensor:
        """Return float64 scores (n,) of what was read off the gradients."""

    def question(self) -> Question:
        """Return what to read off the gradients."""
        if not hasattr(self, "question_"):  # one that was loaded
            model, vectors = self.model_, self.__dict__.pop("vectors_")
            space = ParameterSpace(model.module, self.parameters, head=model.head_name)
            gradients = PerExampleGradients(model.module, space)
            self.question_ = Question(gradients, model.loss_fn, vectors, self.raw)
        return self.question_

    def __getstate__(self) -> dict[str, Any]:
        """Keep of the question what the model does not give."""
        state = dict(vars(self))
        if (question := state.pop("question_", None)) is not None:
            state["vectors_"] = question.vectors
        return state

    def rows(self, observation: Observation) -> tuple[Inputs, Tensor]:
        """Return the inputs and the targets of the rows that were seen."""
        return inputs_of(observation), targets_of(self.model_, observation)

    def score_answer(self, observation: Observation, answer: Answer) -> Tensor:
        """Return the scores of rows whose gradients were read.

        Parameters
        ----------
        observation : Observation
            Of n rows.
        answer : Answer
            To ``question()``, of the same rows.

        Returns
        -------
        Tensor of shape (n,)
            float64, higher = more out of distribution.
        """
        return self._read(answer)

    def _update(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        check_positive_int(self.rank, "rank")
        checked_damping(self.damping)
        if not hasattr(self, "shared_"):
            self.shared_ = {}
        key = ("rows", self.max_rows)
        self.rows_ = self._once(key, lambda: EvenRows(self.max_rows))
        if self.shared_.get((*key, "last")) is observation:
            return  # another detector has added these rows
        self.shared_[(*key, "last")] = observation
        self.rows_.add(inputs_of(observation), targets_of(model, observation, labels))

    def _finish(self, model: Model) -> None:
        names = self.parameters
        key = names if names is None or isinstance(names, str) else tuple(names)
        objective = self._once(("objective", self.max_rows, key), lambda: self._objective(model))
        held = torch.zeros(len(self.rows_), dtype=torch.bool)
        if checked_damping(self.damping) is None:
            held = holdout(self._keys(objective))
        self.n_rows_ = self.rows_.n
        self.question_ = self._learn(objective, held)
        del self.rows_, self.shared_

    def _learn(self, objective: Objective, held: Tensor) -> Question:
        """Learn the curvature of the rows that are not held out; return what to read of others."""
        self.spectrum_ = self._once(
            ("spectrum", id(objective), self.rank, bool(held.any())),
            lambda: spectrum(objective, held, self.rank),
        )
        damping = checked_damping(self.damping)
        self.damping_ = self.spectrum_.damping if damping is None else damping
        return Question(objective.gradients, objective.loss, self._vectors(objective), self.raw)

    def _vectors(self, objective: Objective) -> Tensor:
        """Return the directions (p, k) whose products with the Jacobian are read."""
        return self.spectrum_.vectors

    def _score(self, observation: Observation) -> Tensor:
        return self._read(answers({"": self.question()}, *self.rows(observation))[""])

    def _once(self, key: object, make: Callable[[], T]) -> T:
        if key not in self.shared_:
            self.shared_[key] = make()
        return cast("T", self.shared_[key])

    def _objective(self, model: Model) -> Objective:
        batch = self.rows_.batch()
        try:
            decay = model.weight_decay
        except (TypeError, ValueError):
            decay = 0.0  # unknown: the damping stands alone
        return Objective(
            model.module,
            model.loss_fn,
            (batch.inputs, batch.targets),
            self.parameters,
            decay,
            head=model.head_name,
            batch_size=model.batch_size,
        )

    def _keys(self, objective: Objective) -> Tensor:
        """Return a number for each row that does not depend on the others."""
        found = objective.collect(lambda batch: objective.outputs(batch.inputs))
        flat = found.reshape(len(found), -1).double()
        return flat @ torch.linspace(1, 2, flat.shape[1], dtype=flat.dtype, device=flat.device)


def inputs_of(observation: Observation) -> Inputs:
    """Return the inputs of a batch."""
    if observation.inputs is None:
        raise UnsuitableError(
            "gradients need the inputs of the rows, and this observation has none; score X itself"
        )
    return observation.inputs
