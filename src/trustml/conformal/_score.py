"""What a nonconformity score for classification is, and how one is found by name."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from trustml.conformal._listed import listed


class Score(ABC):
    """Strangeness of every class of every row, from probabilities; higher = stranger.

    Subclasses are final. ``name`` is what ``SplitClassifier(score=...)`` knows them by;
    ``randomized`` says whether ``uniforms`` are read, which costs a hash of every row.
    """

    name: str
    randomized: bool

    @abstractmethod
    def __call__(self, probabilities: Tensor, uniforms: Tensor) -> Tensor:
        """Return scores of shape (n, c).

        A row's scores must depend on that row alone, not on its batch.

        Parameters
        ----------
        probabilities : Tensor of shape (n, c)
            float64, in [0, 1].
        uniforms : Tensor of shape (n,)
            One number in (0, 1) a row, independent of the label; NaN unless ``randomized``.
        """


ScoreFunction = Callable[[Tensor, Tensor], Tensor]


def as_score(score: str | ScoreFunction) -> ScoreFunction:
    """Return a score from its name, or a callable as it is.

    Parameters
    ----------
    score : str, Score or callable
        A name, a `Score`, or any callable (probabilities (n, c), uniforms (n,)) -> (n, c).

    Returns
    -------
    callable

    Raises
    ------
    ValueError
        If no score has this name; the message lists those that exist.
    TypeError
        If it is neither a name nor callable, or a class instead of an object.
    """
    if isinstance(score, str):
        known = listed(Score)  # type: ignore[type-abstract]
        if score not in known:
            raise ValueError(f"score must be one of {sorted(known)} or a Score, got {score!r}")
        return known[score]()
    if inspect.isclass(score) or not callable(score):
        raise TypeError(
            f"score must be a name, a Score or a callable (probabilities, uniforms) -> (n, c), "
            f"got {score!r}; a class needs its brackets: {getattr(score, '__name__', 'Aps')}()"
        )
    return score
