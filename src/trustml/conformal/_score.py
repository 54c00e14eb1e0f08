"""What a nonconformity score for classification is, and how one is found by name."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal

from torch import Tensor

from trustml.conformal._listed import listed
from trustml.model import Model


class Score(ABC):
    """Strangeness of every class of every row, from probabilities; higher = stranger.

    A new score needs one method, ``__call__``; the others have correct defaults. Subclasses are
    final. ``name`` is what ``SplitClassifier(score=...)`` knows them by; ``randomized`` says
    whether ``uniforms`` are read, which costs a hash of every row.

    Attributes
    ----------
    reads : {"probabilities", "features"}
        What of the model the score is given: class probabilities (n, c), or the inputs of the
        last linear layer (n, h).
    share : float in [0, 1)
        Part of the calibration rows, drawn at random, that `learnt` gets and calibration does
        not: the score is fixed before it meets the rows that it is calibrated on.
    """

    name: ClassVar[str]
    randomized: bool
    reads: ClassVar[Literal["probabilities", "features"]] = "probabilities"
    share: float = 0.0

    @abstractmethod
    def __call__(self, probabilities: Tensor, uniforms: Tensor) -> Tensor:
        """Return scores of shape (n, c).

        A row's scores must depend on that row alone, not on its batch.

        Parameters
        ----------
        probabilities : Tensor of shape (n, c)
            float64, in [0, 1]; the features (n, h) if ``reads`` says so.
        uniforms : Tensor of shape (n,)
            One number in (0, 1) a row, independent of the label; NaN unless ``randomized``.
        """

    def of_labels(self, probabilities: Tensor, uniforms: Tensor, labels: Tensor) -> Tensor:
        """Return the scores (n,) of one class a row: what calibration needs.

        To be written where it is cheaper than all classes; to the last bit the number that
        ``__call__`` gives that class, or rows that tie with the threshold would be lost.

        Parameters
        ----------
        probabilities, uniforms : Tensor
            As in ``__call__``.
        labels : Tensor of shape (n,)
            Columns.

        Returns
        -------
        Tensor of shape (n,)
        """
        return self(probabilities, uniforms).gather(1, labels[:, None])[:, 0]

    def learnt(self, model: Model, probabilities: Tensor, labels: Tensor) -> Score:
        """Return the score that calibration uses; itself, if there is nothing to learn.

        Parameters
        ----------
        model : Model
            The model that is calibrated, with its training rows if it was given them.
        probabilities : Tensor of shape (k, c)
            Of the calibration rows set aside, as in ``__call__``; none if ``share`` is 0.
        labels : Tensor of shape (k,)
            Their columns.

        Returns
        -------
        Score
        """
        return self


ScoreFunction = Callable[[Tensor, Tensor], Tensor]


class Given(Score):
    """A user's callable (probabilities (n, c), uniforms (n,)) -> (n, c), checked.

    Parameters
    ----------
    function : callable
        What the user gave.
    """

    name = "given"
    randomized = True

    def __init__(self, function: ScoreFunction) -> None:
        self.function = function

    def __call__(self, probabilities: Tensor, uniforms: Tensor) -> Tensor:
        """Return what the callable gives.

        Returns
        -------
        Tensor of shape (n, c)

        Raises
        ------
        ValueError
            If it is no tensor of this shape.
        """
        scores = self.function(probabilities, uniforms)
        if not isinstance(scores, Tensor) or scores.shape != probabilities.shape:
            raise ValueError(
                f"score must return a tensor of shape {tuple(probabilities.shape)}, got "
                f"{tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__}"
            )
        return scores


def as_score(score: str | ScoreFunction) -> Score:
    """Return a score from its name, or from a callable.

    Parameters
    ----------
    score : str, Score or callable
        A name, a `Score`, or any callable (probabilities (n, c), uniforms (n,)) -> (n, c).

    Returns
    -------
    Score

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
    return score if isinstance(score, Score) else Given(score)
