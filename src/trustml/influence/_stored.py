"""Scores of queries block by block: in memory, or in a folder where a killed run goes on."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trustml.core._described import described
from trustml.core.store import Store
from trustml.ihvp import Damping, Factorization, Objective, Solution
from trustml.influence._belonging import hash_data
from trustml.influence._queries import Queries
from trustml.influence._scores import Certificate
from trustml.influence._train_rows import TrainRows, rows_at_once

Answer = Callable[[Queries], tuple[Tensor, list[Solution]]]

_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class ScoreBlocks:
    """Effects of training rows on queries, as many queries at a time as fit into memory.

    Attributes
    ----------
    queries : Queries
        What is asked about.
    objective : Objective
        Where the queries' gradients are taken.
    inverse : Factorization
        Of the damped curvature.
    rows : TrainRows
        The training rows' gradients.
    damping : Damping
        For the certificate.
    """

    queries: Queries
    objective: Objective
    inverse: Factorization
    rows: TrainRows
    damping: Damping

    def answer(
        self,
        objective: Objective,
        scale: str,
        folder: str | os.PathLike[str] | None,
        settings: dict[str, Any],
    ) -> tuple[Tensor, Certificate]:
        """Return the scores and the certificate of their solves.

        Parameters
        ----------
        objective : Objective
            The user's: its dtype is the scores', its fingerprint the folder's.
        scale : {"effect", "raw"}
            Effects are divided by n.
        folder : str, Path or None
            Where scores are kept, and where a killed run goes on; None keeps them in memory.
        settings : dict
            What else the scores depend on.

        Returns
        -------
        scores : Tensor of shape (q, n)
            With a folder memory-mapped: read from the disk where it is looked at.
        certificate : Certificate
            Of all solves, those of earlier runs included.
        """
        divisor = objective.n if scale == "effect" else 1

        def answer(queries: Queries) -> tuple[Tensor, list[Solution]]:
            # A block that goes on after a kill must not miss what earlier blocks left behind.
            inverse = self.inverse if folder is None else copy.copy(self.inverse)
            blocks, solutions = [], []
            for gradients in queries.gradient_blocks(self.objective):
                solution = inverse.solve(gradients.T)
                scores = self.rows.dot(solution.x).T / divisor
                blocks.append(scores.to(objective.space.dtype))
                solutions.append(solution)
            return torch.cat(blocks), solutions

        if folder is None:
            scores, solutions = answer(self.queries)
            return scores, Certificate.of(solutions, self.damping)
        plain = {
            key: value if isinstance(value, _PLAIN) else described(value)
            for key, value in settings.items()
            if key != "model"  # it is hashed as the objective's
        }
        solver = {
            "scale": scale,
            "method": self.inverse.method,
            "damping": f"{self.damping.value:.6g}",
        }
        belongs_to = objective.fingerprint(**{**plain, **solver})
        store = Store(folder, belongs_to | {"queries": hash_data(self.queries.data)})
        return self._resume(store, answer, objective.space.dtype)

    def _resume(
        self, store: Store, answer: Answer, dtype: torch.dtype
    ) -> tuple[Tensor, Certificate]:
        shape = len(self.queries), len(self.rows.cotangents)
        table = store.rows("scores", shape, str(dtype).removeprefix("torch."))
        notes: dict[str, dict[str, Any]] = store.noted("solves") or {}

        def compute(part: slice) -> Tensor:
            own = replace(
                self.queries, data=self.queries.data.subset(torch.arange(part.start, part.stop))
            )
            scores, solutions = answer(own)
            solved = Certificate.of(solutions, self.damping)
            notes[str(part.start)] = {
                "residual": solved.relative_residual.tolist(),
                "converged": solved.converged,
                "summary": solved.summary,
            }
            store.note("solves", notes)  # first: a block counts once its scores are written
            return scores

        values = table.fill(compute, rows_at_once(self.objective.space.size))
        return torch.from_numpy(values), self._noted(notes)

    def _noted(self, notes: dict[str, dict[str, Any]]) -> Certificate:
        residual = np.full(len(self.queries), np.nan)
        used = [notes[key] for key in sorted(notes, key=int)]
        for key in sorted(notes, key=int):  # a later block overrides what a killed one promised
            found = notes[key]["residual"]
            residual[int(key) : int(key) + len(found)] = found
        worst = max(used, key=lambda note: max(note["residual"]))
        return Certificate(
            relative_residual=residual,
            converged=all(note["converged"] for note in used),
            chosen=self.damping,
            summary=worst["summary"],
        )
