"""The face of an attack."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from trustml.robustness._problem import Problem


class Attack(ABC):
    """A search for adversarial points inside a ball and a box.

    Subclasses are final frozen dataclasses whose fields are the settings. An attack proposes;
    the judge decides, the same for all of them.
    """

    name: ClassVar[str]

    @abstractmethod
    def run(self, problem: Problem, seed: int) -> Tensor:
        """Return one point a row, (n, *features); the clean row where nothing was found."""
