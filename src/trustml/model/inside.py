"""What a model shows of itself: outputs, features, inner layers, head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from trustml.core.validation import restore
from trustml.model.observation import Observation
from trustml.model.passes import Layers, Passes


class Inside(ABC):
    """Forward passes without gradients, and what they show; the part of a `Model` that looks."""

    _passes: Passes

    @property
    @abstractmethod
    def differentiable(self) -> bool:
        """Whether there is a module."""

    @abstractmethod
    def require_gradients(self, what: str) -> None:
        """Raise a TypeError where there is none."""

    def observe(self, X: Any, layers: Sequence[str] = ()) -> Observation:
        """Return everything that one forward pass shows, without gradients.

        Parameters
        ----------
        X : array-like, frame, dict or tuple of tensors
            Rows.
        layers : sequence of str
            Names of inner layers, as in ``self.layers``, whose outputs are wanted too.

        Returns
        -------
        Observation
        """
        wanted = {name: (name, torch.clone) for name in layers}
        return Observation.join(list(self._passes.observe(X, wanted)))

    def observations(self, X: Any, layers: Layers | None = None) -> Iterator[Observation]:
        """Yield what one forward pass shows batch by batch, so that not all need be in memory.

        Parameters
        ----------
        X : array-like, frame, dict or tuple of tensors
            Rows.
        layers : dict of str to (str, callable), or None
            Keys of ``Observation.layers``, and for each the layer's name and a function of its
            output (b, ...) that returns what to keep (b, ...).

        Yields
        ------
        Observation
            With ``inputs``, in the order of the rows.
        """
        yield from self._passes.observe(X, layers or {})

    def look(self, X: Any) -> None:
        """Look at the first rows, so that the head and the layers are known.

        Parameters
        ----------
        X : array-like, frame, dict or tuple of tensors
            Rows.
        """
        if self.differentiable:
            self._passes.look(X)

    @property
    def layers(self) -> dict[str, tuple[int, ...] | None]:
        """Layers in the order in which they finish, and the shape of one row of their output.

        None stands for outputs that are no tensor with one row for each input; layers that hold
        others are there too, "" is the whole module. Known after a first forward pass.
        """
        self.require_gradients("layers")
        return dict(self._passes.looked("the list of layers").layers)

    def features(self, X: Any) -> Any:
        """Return the input of the last linear layer; of a linear model, its transformed input.

        Returns
        -------
        ndarray or Tensor of shape (n, h)

        Raises
        ------
        ValueError
            If the output does not come from a linear layer; the text lists the layers.
        """
        if self._passes.kind != "features":
            self.require_gradients("features")
        found = self.observe(X).features
        if found is None:
            layers = ", ".join(name for name in self.layers if name)
            raise ValueError(
                f"{self!r} has no features: its output does not come from a linear layer; the "
                f"layers that run are {layers}"
            )
        return restore(found, X)

    @property
    def has_features(self) -> bool:
        """Whether there are features; a ValueError before any data was seen."""
        return self._passes.kind == "features" or (
            self.differentiable and self.head_name is not None
        )

    @property
    def head_name(self) -> str | None:
        """Name of the last linear layer in ``module``; None if there is none."""
        return self._passes.head_name

    @property
    def head(self) -> tuple[Tensor, Tensor] | None:
        """Weight (c, h) and bias (c,) of the last linear layer; None if there is none.

        A missing bias is zeros; a one-output model has (1, h), as its module.
        """
        return self._passes.head()
