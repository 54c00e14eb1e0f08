"""Gradients in fewer dimensions whose inner products are kept in expectation."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from trustml.core._backends import Terms
from trustml.core.parameters import ParameterSpace
from trustml.core.random import RandomState, numpy_generator
from trustml.core.validation import check_choice, check_positive_int

Kind = Literal["rademacher", "gaussian"]

_BLOCK = 1024  # rows of a matrix that are drawn together, from a seed of their own
_KEPT = 2**28  # a matrix of so many bytes is kept, a larger one drawn again when needed
_DRAWN = 2**23  # so many numbers of it at a time


class Projection(ABC):
    """A linear map of gradients, p numbers to k, read off their factored form.

    Attributes
    ----------
    width : int
        p.
    size : int
        k.
    """

    width: int
    size: int

    @abstractmethod
    def of(self, terms: Terms) -> Tensor:
        """Return the projected gradients of the examples that ``terms`` hold.

        Parameters
        ----------
        terms : list of (slice, Term)
            As ``PerExampleGradients.measure`` gives them.

        Returns
        -------
        Tensor of shape (n, k)
        """


class RandomMatrix:
    """A random matrix known by its seed: independent entries of mean 0 and variance 1.

    Parameters
    ----------
    rows, columns : int
        Its shape.
    kind : "rademacher" or "gaussian"
        Signs, or normal entries.
    seed : int
        The entries depend on nothing else, not on which of them are asked for when.
    """

    def __init__(self, rows: int, columns: int, kind: Kind, seed: int) -> None:
        self.shape, self.kind, self.seed = (rows, columns), kind, seed
        self._kept: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the entries out: the seed has them."""
        return {**self.__dict__, "_kept": None}

    def rows(self, start: int, stop: int, like: Tensor) -> Tensor:
        """Return the rows from ``start`` to ``stop``, in the dtype and on the device of a tensor.

        Parameters
        ----------
        start, stop : int
            Which.
        like : Tensor
            Gives dtype and device.

        Returns
        -------
        Tensor of shape (stop - start, columns)
        """
        if math.prod(self.shape) * self._entry.itemsize > _KEPT:
            return self._draw(start, stop).to(like)
        if self._kept is None:
            self._kept = self._draw(0, self.shape[0])
        self._kept = self._kept.to(like.device)
        return self._kept[start:stop].to(like)

    @property
    def _entry(self) -> torch.dtype:
        return torch.float32 if self.kind == "gaussian" else torch.int8

    def _draw(self, start: int, stop: int) -> Tensor:
        out = torch.empty(stop - start, self.shape[1], dtype=self._entry)
        for block in range(start // _BLOCK, -(-stop // _BLOCK)):
            first = block * _BLOCK
            here = slice(max(start, first), min(stop, first + _BLOCK))
            drawn = torch.from_numpy(self._block(block, here.stop - first))
            out[here.start - start : here.stop - start] = drawn[here.start - first :]
        return out

    def _block(self, block: int, rows: int) -> np.ndarray:
        """Draw the first rows of a block, in which the numbers follow one another."""
        generator = np.random.Generator(np.random.SFC64([self.seed, block]))
        count = rows * self.shape[1]
        if self.kind == "gaussian":
            return generator.standard_normal((rows, self.shape[1]), dtype=np.float32)
        bits = np.unpackbits(np.frombuffer(generator.bytes(-(-count // 8)), np.uint8), count=count)
        signs: np.ndarray = (2 * bits.view(np.int8) - 1).reshape(rows, -1)
        return signs


class RandomProjection(Projection):
    """Gradients times a random matrix: inner products in expectation, whatever the model.

    The matrix is drawn in blocks from the seed and held only where it is small, so the numbers
    depend neither on the batch nor on the order of the calls. The standard error of a projected
    inner product of g and h is at most √(2/k) ‖g‖ ‖h‖.

    Parameters
    ----------
    space : ParameterSpace
        The parameters of the gradients.
    size : int
        k.
    kind : "rademacher" or "gaussian"
        Entries ± 1/√k, or normal with variance 1/k.
    random_state : int, generator or None
        Fixes the matrix.

    References
    ----------
    Johnson and Lindenstrauss (1984); Achlioptas (2003), Database-friendly random projections.
    Park et al. (2023), TRAK: attributing model behavior at scale, arXiv 2303.14186.

    Examples
    --------
    >>> from torch import nn
    >>> RandomProjection(ParameterSpace(nn.Linear(3, 2)), 4).dense().shape
    torch.Size([8, 4])
    """

    def __init__(
        self,
        space: ParameterSpace,
        size: int,
        kind: Kind = "rademacher",
        random_state: RandomState = 0,
    ) -> None:
        check_choice(kind, "kind", ("rademacher", "gaussian"))
        self.width, self.size = space.size, check_positive_int(size, "size")
        self._matrix = RandomMatrix(self.width, self.size, kind, _seed(random_state))

    def of(self, terms: Terms) -> Tensor:
        """Return the gradients times the matrix, (n, k)."""
        like = terms[0][1].like
        total = like.new_zeros(terms[0][1].n, self.size)
        for s, term in terms:
            for where, piece in term.pieces(max(1, _DRAWN // self.size)):
                block = self._matrix.rows(s.start + where.start, s.start + where.stop, like)
                total += piece.dot(block)
        return total / math.sqrt(self.size)

    def dense(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return the matrix P itself.

        Parameters
        ----------
        dtype : torch.dtype
            Of the result.

        Returns
        -------
        Tensor of shape (p, k)
        """
        return self._matrix.rows(0, self.width, torch.empty(0, dtype=dtype)) / math.sqrt(self.size)


class LayerwiseProjection(Projection):
    """Each parameter's gradient projected on both sides: ``P' G Q``, G its matrix.

    A parameter of shape (a, ...) is a matrix of a rows; a bias has one column. A side of no more
    than ``size`` entries is kept as it is. The cost is that of two thin products a layer, p times
    less than a dense projection's memory.

    Parameters
    ----------
    space : ParameterSpace
        The parameters of the gradients.
    size : int
        Entries of a projected side: a weight has at most ``size``², a bias ``size``.
    kind : "rademacher" or "gaussian"
        Entries of P and Q, with variance one over the number of columns.
    random_state : int, generator or None
        Fixes the matrices.
    sides : dict of str to (Tensor (a, j), Tensor (b, k)), or None
        P and Q of some parameters by name, instead of random ones.

    References
    ----------
    Choe et al. (2024), What is your data worth to GPT? LLM-scale data valuation with influence
    functions (LoGra), arXiv 2405.13954, equation 4.

    Examples
    --------
    >>> from torch import nn
    >>> LayerwiseProjection(ParameterSpace(nn.Linear(30, 20)), 4).size
    20
    """

    def __init__(
        self,
        space: ParameterSpace,
        size: int,
        kind: Kind = "rademacher",
        random_state: RandomState = 0,
        sides: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        check_choice(kind, "kind", ("rademacher", "gaussian"))
        check_positive_int(size, "size")
        self.width, seed = space.size, _seed(random_state)
        self._sides = []
        for j, (name, shape) in enumerate(space.shapes.items()):
            if sides is not None and name in sides:
                self._sides.append(sides[name])
                continue
            a = shape[0] if shape else 1
            b = shape.numel() // a
            self._sides.append(
                (_side(a, size, kind, [seed, j, 0]), _side(b, size, kind, [seed, j, 1]))
            )
        self.size = sum(first.shape[1] * second.shape[1] for first, second in self._sides)

    def of(self, terms: Terms) -> Tensor:
        """Return the projected matrices side by side, (n, k)."""
        like = terms[0][1].like
        found = [
            term.sandwich(first.to(like), second.to(like)).flatten(1)
            for (_, term), (first, second) in zip(terms, self._sides, strict=True)
        ]
        return torch.cat(found, dim=1)


def _seed(random_state: RandomState) -> int:
    return int(numpy_generator(random_state).integers(2**63 - 1))


def _side(entries: int, size: int, kind: Kind, key: list[int]) -> Tensor:
    """Return a side's matrix (entries, j), the identity where j is ``entries``."""
    if entries <= size:
        return torch.eye(entries, dtype=torch.float64)
    seed = int(np.random.default_rng(key).integers(2**63 - 1))
    signs = RandomMatrix(entries, size, kind, seed).rows(0, entries, torch.empty(0))
    return signs.double() / math.sqrt(size)
