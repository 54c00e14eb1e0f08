"""What a detector has learnt, on disk and back, without pickle."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from torch import Tensor

from trustml.core._described import described
from trustml.core.store import Store, hash_tensors
from trustml.ihvp import Factorization, factorize
from trustml.model import Model, as_model

Kind = TypeVar("Kind")

_PLAIN = (bool, int, float, str, type(None))
_COLLECTIONS: tuple[Any, ...] = (list, tuple, set, frozenset, torch.Size)
_TREE, _GROUP = "tree", "detector"


def save(detector: BaseEstimator, path: str | os.PathLike[str]) -> None:
    """Write a detector to a folder: tensors (safetensors) and a JSON manifest, no pickle.

    Its parameters are written, and what it has learnt. A part that is neither numbers nor text
    is refused with a TypeError that names it.

    Parameters
    ----------
    detector : Detector
        Fitted.
    path : str or Path
        A new folder, or one with an earlier save for the same model, which is replaced; a
        folder that belongs to another model is refused with a ``StoreMismatchError``.

    Raises
    ------
    NotFittedError
        If there is nothing to save.
    """
    kind = type(detector).__name__
    if not hasattr(detector, "model_"):
        raise NotFittedError(f"this {kind} is not fitted; call fit(X_in) first")
    writer = _Writer(kind)
    tree = json.dumps(writer.write(detector, ""))
    writer.tensors[_TREE] = torch.frombuffer(bytearray(tree.encode()), dtype=torch.uint8)
    Store(path, fingerprint(detector.model_)).save(_GROUP, writer.tensors)


def load(path: str | os.PathLike[str], model: Any, kind: type[Kind]) -> Kind:
    """Return the detector that ``save`` wrote; for another model a ``StoreMismatchError``.

    Parameters
    ----------
    path : str or Path
        The folder.
    model : Model or estimator
        The same model as then: nothing of it is in the folder but its fingerprint.
    kind : type
        What is expected: a class of detectors, or ``Detector`` for any.

    Returns
    -------
    Detector
        Fitted, and calibrated if it was.

    Raises
    ------
    ValueError
        If there is no saved detector, or the file is damaged.
    TypeError
        If it holds another kind of detector.
    """
    wrapped = as_model(model)
    tensors = None
    if (Path(path) / "manifest.json").exists():
        tensors = Store(path, fingerprint(wrapped)).load(_GROUP)
    if tensors is None:
        raise ValueError(f"{path} holds no saved detector; make one with save")
    tree = json.loads(tensors.pop(_TREE).numpy().tobytes())
    found = _Reader(tensors, model, wrapped).read(tree)
    if not isinstance(found, kind):
        raise TypeError(f"{path} holds a {type(found).__name__}, not a {kind.__name__}")
    return found


def fingerprint(model: Model) -> dict[str, Any]:
    """Return what a detector's numbers belong to: structure, weights and task of a model.

    Parameters
    ----------
    model : Model
        Of one that only predicts, its type with its settings and the arrays it has learnt.

    Returns
    -------
    dict
        JSON values.
    """
    facts: dict[str, Any] = {"task": model.task}
    if model.differentiable:
        module = model.module
        facts["structure"] = f"{type(module).__name__} {_hash(str(module))}"
        facts["weights"] = hash_tensors(*module.state_dict().values())
    else:
        estimator = model.estimator
        facts["estimator"] = described(estimator)
        facts["learnt"] = described(dict(getattr(estimator, "__dict__", {})))
    return facts


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class _Writer:
    """Turns a detector into JSON values and a group of tensors."""

    def __init__(self, who: str) -> None:
        self.who = who
        self.tensors: dict[str, Tensor] = {}
        self.model: Any = None

    def write(self, thing: Any, path: str) -> Any:
        if isinstance(thing, _PLAIN):
            return thing
        if isinstance(thing, Model) or (self.model is not None and thing is self.model):
            return {"is": "model"}
        if isinstance(thing, np.generic):
            return {"is": "scalar", "type": thing.dtype.str, "value": thing.item()}
        if isinstance(thing, (Tensor, np.ndarray)):
            return self._array(thing, path)
        if type(thing) in _COLLECTIONS:
            items = [self.write(item, f"{path}[{i}]") for i, item in enumerate(thing)]
            return {"is": type(thing).__name__, "items": items}
        if isinstance(thing, Mapping):
            pairs = [
                [self.write(key, path), self.write(value, f"{path}[{key!r}]")]
                for key, value in thing.items()
            ]
            return {"is": "dict", "items": pairs}
        if isinstance(thing, (torch.dtype, torch.device)):
            return {"is": type(thing).__name__, "name": str(thing).removeprefix("torch.")}
        if isinstance(thing, (slice, range)):
            bounds = [thing.start, thing.stop, thing.step]
            return {"is": type(thing).__name__, "items": bounds}
        if inspect.isclass(thing) and _ours(thing):
            return {"is": "class", "kind": _name(thing)}
        if isinstance(thing, Factorization):
            operator = self.write(thing.operator, f"{path}.operator")
            return {"is": "inverse", "of": operator, "method": thing.method, "tol": thing.tol}
        if _ours(type(thing)) and hasattr(thing, "__dict__") and not isinstance(thing, tuple):
            return self._object(thing, path)
        raise TypeError(
            f"this {self.who} cannot be saved: {path or 'it'} is of type "
            f"{type(thing).__qualname__}, which is neither numbers nor text; fit it again instead"
        )

    def _array(self, thing: Tensor | np.ndarray, path: str) -> dict[str, Any]:
        if isinstance(thing, np.ndarray) and thing.dtype.kind not in "biuf":
            return {"is": "names", "items": self.write(thing.tolist(), path)}
        name = f"t{len(self.tensors)}"
        if isinstance(thing, Tensor):
            # What detectors share is written, and read, once.
            name = next((known for known, own in self.tensors.items() if own is thing), name)
            self.tensors[name] = thing
            return {"is": "tensor", "at": name, "moves": thing.device.type != "cpu"}
        self.tensors[name] = torch.tensor(thing)
        return {"is": "array", "at": name}

    def _object(self, thing: Any, path: str) -> dict[str, Any]:
        outer = self.model
        if isinstance(thing, BaseEstimator):
            self.model = getattr(thing, "model", outer)
        written = {
            key: self.write(value, f"{path}.{key}".lstrip("."))
            for key, value in thing.__getstate__().items()
        }
        self.model = outer
        return {"is": "object", "kind": _name(type(thing)), "state": written}


class _Reader:
    """Turns what a writer wrote back; of classes it makes those of this package alone."""

    def __init__(self, tensors: dict[str, Tensor], given: Any, model: Model) -> None:
        self.tensors, self.given, self.model = tensors, given, model

    def read(self, value: Any) -> Any:
        if isinstance(value, _PLAIN):
            return value
        kind = value["is"]
        if kind == "model":
            return self.model
        if kind == "scalar":
            return np.dtype(value["type"]).type(value["value"])
        if kind == "tensor":
            if value["moves"]:
                self.tensors[value["at"]] = self.tensors[value["at"]].to(self.model.device)
            return self.tensors[value["at"]]
        if kind == "array":
            return self.tensors[value["at"]].numpy()
        if kind in ("dtype", "device"):
            return getattr(torch, value["name"]) if kind == "dtype" else torch.device(value["name"])
        if kind == "class":
            return _class(value["kind"])
        if kind == "inverse":
            return factorize(self.read(value["of"]), value["method"], value["tol"])
        if kind == "object":
            return self._object(value)
        return self._collection(kind, value)

    def _collection(self, kind: str, value: dict[str, Any]) -> Any:
        if kind == "names":
            return np.array(self.read(value["items"]))
        if kind == "dict":
            return {self.read(key): self.read(item) for key, item in value["items"]}
        if kind in ("slice", "range"):
            return slice(*value["items"]) if kind == "slice" else range(*value["items"])
        makers = {maker.__name__: maker for maker in _COLLECTIONS}
        return makers[kind]([self.read(item) for item in cast("Sequence[Any]", value["items"])])

    def _object(self, value: dict[str, Any]) -> Any:
        kind = _class(value["kind"])
        thing = kind.__new__(kind)
        state = {key: self.read(item) for key, item in value["state"].items()}
        if isinstance(thing, BaseEstimator) and "model" in state:
            state["model"] = self.given
        vars(thing).update(state)  # frozen dataclasses too
        return thing


def _ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "trustml"


def _name(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _class(name: str) -> Any:
    """Return a class of this package by name, nothing else."""
    module, _, path = name.partition(":")
    found: Any = import_module(module) if module.partition(".")[0] == "trustml" else None
    found = getattr(found, path, None)
    if not inspect.isclass(found) or not _ours(found):
        raise ValueError(f"a saved detector names {name!r}, which is no class of this version")
    return found
