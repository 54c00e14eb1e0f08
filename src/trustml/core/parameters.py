"""Which parameters are asked about, and their one flat vector."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter


class ParameterSpace:
    """Some of a module's parameters, in module order, as one vector of p numbers.

    A tied weight is one parameter, whatever its names. ``requires_grad`` only decides what None
    selects: a frozen parameter may be selected by name and its flag is left as it is.

    Parameters
    ----------
    module : nn.Module
        Never changed.
    selection : str, sequence of str or None
        None: all that require a gradient. "last_layer": the parameters of ``head``. Otherwise the
        name of a parameter or of a submodule, or a regular expression searched for in the names
        of the parameters; of a list, the union.
    head : str or None
        Name of the last layer.

    Attributes
    ----------
    names : tuple of str
        Parameter names, tied ones once.
    shapes : dict of str to torch.Size
        Shape of each.
    slices : dict of str to slice
        Where each lies in the vector.
    size : int
        p.

    Raises
    ------
    ValueError
        If nothing is selected, a pattern fits nothing, or the parameters are not floating point
        numbers on one device.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> ParameterSpace(net).size
    11
    >>> ParameterSpace(net, "2").names
    ('2.weight', '2.bias')
    """

    def __init__(
        self,
        module: nn.Module,
        selection: str | Sequence[str] | None = None,
        *,
        head: str | None = None,
    ) -> None:
        self.module, self.selection, self.head = module, selection, head
        self._aliases = _aliases(module)
        self._layers = {name for name, _ in module.named_modules()}
        everything = dict(module.named_parameters())
        if not everything:
            raise ValueError(
                f"{type(module).__name__} has no parameters; it serves methods that need only "
                "predictions"
            )
        if selection is None:
            chosen = {name for name, p in everything.items() if p.requires_grad}
            if not chosen:
                raise ValueError(
                    f"no parameter of {type(module).__name__} requires a gradient; name the ones "
                    f"that you mean with parameters=, from: {_some(everything)}"
                )
        else:
            patterns = [selection] if isinstance(selection, str) else list(selection)
            chosen = set().union(*(self._matching(pattern) for pattern in patterns))
            if not chosen:
                raise ValueError(f"no parameters selected by {selection!r}")
        parameters = {name: p for name, p in everything.items() if name in chosen}
        _check_usable(parameters)
        self.names = tuple(parameters)
        self.shapes = {name: p.shape for name, p in parameters.items()}
        self.slices: dict[str, slice] = {}
        start = 0
        for name, p in parameters.items():
            self.slices[name] = slice(start, start + p.numel())
            start += p.numel()
        self.size = start
        self.dtype = reduce(torch.promote_types, (p.dtype for p in parameters.values()))
        self.device = next(iter(parameters.values())).device

    def __repr__(self) -> str:
        return f"ParameterSpace({_some(self.names)}; size={self.size})"

    def parameters(self) -> dict[str, Tensor]:
        """Return the selected parameters themselves, detached: name -> tensor sharing memory."""
        everything = dict(self.module.named_parameters())
        return {name: everything[name].detach() for name in self.names}

    def vector(self) -> Tensor:
        """Return a copy of the parameters as one vector.

        Returns
        -------
        Tensor of shape (p,)
        """
        return self.flatten(self.parameters())

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return one vector from a tensor for each name.

        Parameters
        ----------
        tensors : mapping of str to Tensor
            One of the parameter's shape for each of ``names``.

        Returns
        -------
        Tensor of shape (p,)

        Raises
        ------
        ValueError
            If a name is missing or a shape differs.
        """
        missing = [name for name in self.names if name not in tensors]
        if missing:
            raise ValueError(f"no tensor for {_some(missing)}; one is needed for every name")
        for name in self.names:
            if tensors[name].shape != self.shapes[name]:
                raise ValueError(
                    f"{name} must have shape {tuple(self.shapes[name])}, got "
                    f"{tuple(tensors[name].shape)}"
                )
        return torch.cat([tensors[name].reshape(-1).to(self.dtype) for name in self.names])

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """Return the parts of a vector: name -> view of the parameter's shape.

        Parameters
        ----------
        vector : Tensor of shape (p,)
            In the order of ``names``.

        Returns
        -------
        dict of str to Tensor

        Raises
        ------
        ValueError
            If the vector does not have p entries.
        """
        if vector.shape != (self.size,):
            raise ValueError(f"vector must have shape ({self.size},), got {tuple(vector.shape)}")
        return {name: vector[s].view(self.shapes[name]) for name, s in self.slices.items()}

    def expand(self, weight_decay: float | Mapping[str, float]) -> Tensor:
        """Return the weight decay of every entry of the vector.

        Parameters
        ----------
        weight_decay : float or mapping of str to float
            One for all, or by parameter name, submodule name or regular expression; what fits no
            pattern has none. A name that fits exactly beats an expression.

        Returns
        -------
        Tensor of shape (p,)

        Raises
        ------
        ValueError
            If a pattern fits no parameter of the module, two disagree, or a value is negative.
        """
        result = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        if not isinstance(weight_decay, Mapping):
            return result + _check_decay(weight_decay, "weight_decay")
        found: dict[str, tuple[bool, float, str]] = {}
        for pattern, value in weight_decay.items():
            decay = _check_decay(value, f"weight_decay[{pattern!r}]")
            exact = pattern in self._aliases
            for name in self._matching(pattern):
                held = found.get(name)
                if held is not None and held[0] == exact and held[1] != decay:
                    raise ValueError(
                        f"weight_decay patterns {held[2]!r} and {pattern!r} both fit {name} and "
                        "disagree; make them disjoint, or name the parameter in full"
                    )
                if held is None or exact:
                    found[name] = (exact, decay, pattern)
        for name, where in self.slices.items():
            if name in found:
                result[where] = found[name][1]
        return result

    @torch.no_grad()
    def load(self, module: nn.Module, vector: Tensor) -> None:
        """Copy a vector into the parameters of ``module``, in place.

        Parameters
        ----------
        module : nn.Module
            A deep copy of this space's module, as a rule.
        vector : Tensor of shape (p,)
            The new values.
        """
        everything = dict(module.named_parameters())
        for name, part in self.unflatten(vector).items():
            everything[name].copy_(part)

    def on(self, module: nn.Module) -> ParameterSpace:
        """Return the same parameters of another module of the same make.

        Parameters
        ----------
        module : nn.Module
            A deep copy of this space's module, as a rule.

        Returns
        -------
        ParameterSpace
        """
        return ParameterSpace(module, [f"^{re.escape(name)}$" for name in self.names])

    def _matching(self, pattern: str) -> set[str]:
        """Return the canonical names that ``pattern`` means."""
        if pattern == "last_layer" and pattern not in self._aliases:
            if self.head is None:
                raise ValueError(
                    'the selection "last_layer" needs the name of the last layer: pass head=, or '
                    "select its parameters by name"
                )
            pattern = self.head
            if pattern == "":
                return {canonical for name, canonical in self._aliases.items() if "." not in name}
        if pattern in self._aliases:
            return {self._aliases[pattern]}
        below = {c for name, c in self._aliases.items() if name.startswith(pattern + ".")}
        if below and pattern:
            return below
        if pattern and pattern in self._layers:
            raise ValueError(f"the layer {pattern!r} has no parameters; name one that has")
        try:
            searched = {c for name, c in self._aliases.items() if re.search(pattern, name)}
        except re.error as error:
            raise ValueError(f"{pattern!r} is no name and no regular expression: {error}") from None
        if not searched:
            raise ValueError(f"{pattern!r} fits no parameter; there are: {_some(self._aliases)}")
        return searched


def _aliases(module: nn.Module) -> dict[str, str]:
    """Return every name of every parameter -> the first name of the same parameter."""
    first: dict[int, str] = {}
    result = {}
    for name, p in module.named_parameters(remove_duplicate=False):
        result[name] = first.setdefault(id(p), name)
    return result


def _check_usable(parameters: Mapping[str, Tensor]) -> None:
    for name, p in parameters.items():
        if isinstance(p, UninitializedParameter):
            raise ValueError(f"{name} has no shape yet; run the module once on a batch first")
        if not p.is_floating_point():
            raise ValueError(f"{name} has dtype {p.dtype}; only floating point can be selected")
    devices = {p.device for p in parameters.values()}
    if len(devices) > 1:
        raise ValueError(
            f"the parameters lie on several devices ({', '.join(map(str, devices))}); move the "
            "module to one, or select the parameters of one"
        )


def _check_decay(value: float, name: str) -> float:
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}")
    return float(value)


def _some(names: Iterable[str], limit: int = 12) -> str:
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more
