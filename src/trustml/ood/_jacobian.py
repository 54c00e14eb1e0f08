"""One per-example gradient pass for all detectors that read gradients of the outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trustml.core._backends import Read, Terms
from trustml.core.batches import Inputs, apply
from trustml.core.gradients import PerExampleGradients
from trustml.core.losses import OutputLoss
from trustml.core.projections import Projection
from trustml.core.validation import all_finite
from trustml.model import Observation

_NUMBERS = 2**22  # of what is read off the gradients of a block of rows


@dataclass(frozen=True, eq=False)
class Question:
    """What to read off the gradients of the outputs along each of some directions.

    Attributes
    ----------
    gradients : PerExampleGradients
        Of which model and parameters.
    loss : OutputLoss
        Its curvature weights the outputs.
    vectors : Tensor of shape (p, k) or Projection to k numbers
        Products with these are wanted.
    raw : bool
        Along each output by itself, instead of along the columns of S with SS' = Λ.
    """

    gradients: PerExampleGradients
    loss: OutputLoss
    vectors: Tensor | Projection
    raw: bool = False


@dataclass(frozen=True, eq=False)
class Answer:
    """Squared norms (n, r) of the gradients, and their products (n, r, k) with vectors."""

    norms: Tensor
    products: Tensor

    @property
    def total(self) -> Tensor:
        """The squared norms added up over the directions, (n,)."""
        return self.norms.sum(dim=1)

    @property
    def along(self) -> Tensor:
        """The squared products added up over the directions, (n, k)."""
        return self.products.square().sum(dim=1)


class ReadsGradients(ABC):
    """A detector that scores answers of the shared gradient pass.

    Attributes
    ----------
    shared_ : dict
        What detectors that learn from the same rows compute once; while they learn.
    """

    shared_: dict[object, object]

    @abstractmethod
    def question(self) -> Question:
        """Return what to read."""

    @abstractmethod
    def rows(self, observation: Observation) -> tuple[Inputs, Tensor]:
        """Return the inputs and the targets of the rows that were seen."""

    @abstractmethod
    def score_answer(self, observation: Observation, answer: Answer) -> Tensor:
        """Return float64 scores (n,) of what was read."""


def answers(
    questions: Mapping[str, Question], inputs: Inputs, targets: Tensor
) -> dict[str, Answer]:
    """Answer all questions: one forward pass for each set of parameters.

    Parameters
    ----------
    questions : mapping of str to Question
        By name. The same vectors, and the same gradients, are computed once.
    inputs : Tensor, dict or tuple of Tensor
        b rows as the module takes them.
    targets : Tensor of shape (b, ...)
        Of the loss.

    Returns
    -------
    dict of str to Answer
        In float64. Gradients that overflow are a ValueError.
    """
    groups: dict[object, dict[str, Question]] = {}
    for name, question in questions.items():
        of = question.gradients
        groups.setdefault((id(of.module), *of.space.shapes), {})[name] = question
    found: dict[str, Answer] = {}
    for group in groups.values():
        found |= _of_one_model(group, inputs, targets)
    return found


def _of_one_model(
    questions: dict[str, Question], inputs: Inputs, targets: Tensor
) -> dict[str, Answer]:
    first = next(iter(questions.values()))
    kinds = sorted({question.raw for question in questions.values()})
    wanted = {id(q.vectors): q.vectors for q in questions.values()}
    reads = [_reader(part, first.gradients.dtype) for part in wanted.values()]

    def read(terms: Terms) -> Tensor:
        norms = torch.stack([term.squared_norm() for _, term in terms]).sum(0)
        return torch.cat([norms[:, None], *(one(terms) for one in reads)], dim=1)

    parts: list[Tensor] = []
    start, rows = 0, 1  # a first row tells how many outputs there are
    while start < len(targets):
        here = slice(start, start + rows)
        own = targets[here]

        def directions(outputs: Tensor, own: Tensor = own) -> Tensor:
            flat = outputs.reshape(len(outputs), -1)
            axes = torch.eye(flat.shape[1], dtype=torch.float64, device=flat.device)
            # In float64: 1 - p of a sure row has few digits in float32.
            blocks = [
                axes.expand(len(flat), -1, -1)
                if raw
                else first.loss.hessian_factor(outputs.double(), own).mT
                for raw in kinds
            ]
            return torch.cat(blocks, dim=1)

        _, read_off = first.gradients.measure(apply(_picked(here), inputs), directions, read)
        parts.append(read_off.double())
        start, rows = here.stop, max(1, _NUMBERS // read_off[0].numel())
    whole = torch.cat(parts)
    if not all_finite(whole):
        raise ValueError(
            f"gradients of these rows overflow {first.gradients.dtype}; "
            "scale the inputs, or wrap the model in float64: module.double()"
        )
    each = dict(zip(kinds, whole.chunk(len(kinds), dim=1), strict=True))
    places, stop = {}, 1
    for key, part in wanted.items():
        start = stop
        stop += part.size if isinstance(part, Projection) else part.shape[1]
        places[key] = slice(start, stop)
    return {
        name: Answer(each[q.raw][:, :, 0], each[q.raw][:, :, places[id(q.vectors)]])
        for name, q in questions.items()
    }


def _picked(here: slice) -> Callable[[Tensor], Tensor]:
    return lambda part: part[here]


def _reader(vectors: Tensor | Projection, dtype: torch.dtype) -> Read:
    if isinstance(vectors, Projection):
        return vectors.of
    columns = vectors.to(dtype)
    return lambda terms: torch.stack([term.dot(columns[s]) for s, term in terms]).sum(0)
