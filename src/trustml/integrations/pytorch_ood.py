"""Detectors of the package pytorch-ood under our face."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from trustml.core.optional import require_submodule
from trustml.core.random import seeded
from trustml.core.validation import all_finite
from trustml.model import Model, Observation
from trustml.ood import Detector, UnsuitableError

_DETECTORS = "pytorch_ood.detector"
_BATCH = 256


class PytorchOod(Detector):
    """A detector of pytorch-ood, fed with what one forward pass of our model shows.

    It gets logits, features, or the model's inputs, whichever its protocol names; so it fits
    in a `Suite`, and calibrate, p-values, alarms and discoveries work. Its scores are its own,
    in single precision, faults included: see the table in the guide. The object that is passed
    stays as it is; each fit works on a copy. Detectors that draw random numbers do so from
    torch's global generator, which is seeded for them and put back.

    The package needs torchvision only for its data sets; it is imported without them.

    Parameters
    ----------
    model : Model or estimator
        What the rows are judged with; class labels must be numbered without gaps in ``fit``.
    detector : str or object
        Name of a class of ``pytorch_ood.detector``, such as "KNN" or "ViM", or an object of its
        protocol: ``fit_logits`` and ``predict_logits``, ``fit_features`` and
        ``predict_features``, or ``fit`` and ``predict`` on the model's inputs.
    options : mapping or None
        Arguments of the class that is named. Its model, encoder, head, weight and bias are
        filled in.

    Attributes
    ----------
    reads_ : {"logits", "features", "inputs"}
        What it is fed with.
    detector_ : object
        The fitted copy.

    References
    ----------
    Kirchheim, Filax and Ortmeier (2022), PyTorch-OOD: a library for out-of-distribution
    detection based on PyTorch.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> class Level:
    ...     requires_fit = False
    ...     def predict_logits(self, logits):
    ...         return -logits.max(dim=1).values
    >>> X, y = load_iris(return_X_y=True)
    >>> det = PytorchOod(LogisticRegression(max_iter=1000).fit(X, y), Level()).fit(X)
    >>> det.calibrate(X[::2]).p_values(X[1::2]).shape
    (75,)
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    streams: ClassVar[bool] = False

    def __init__(self, model: Any, detector: Any, options: Mapping[str, Any] | None = None) -> None:
        self.model = model
        self.detector = detector
        self.options = options

    def _update(self, model: Model, observation: Observation, labels: Tensor | None) -> None:
        if not hasattr(self, "reads_"):
            self.detector_ = self._made(model)
            self.reads_ = _reads(self.detector_)
            self.seen_: list[tuple[Tensor, Tensor | None]] = []
        self.seen_.append((self._read(observation), labels))

    def _finish(self, model: Model) -> None:
        rows = torch.cat([part for part, _ in self.seen_])
        labels = [some for _, some in self.seen_ if some is not None]
        del self.seen_
        theirs = self.detector_
        if not getattr(theirs, "requires_fit", True):
            return
        if not labels:
            raise UnsuitableError(f"{self._name()} learns from class labels, and there are none")
        y = torch.cat(labels)
        if len(torch.unique(y)) <= int(y.max()):
            raise UnsuitableError(
                f"{self._name()} needs rows of every class up to the largest, and got gaps; give "
                "fit rows of all classes, or use a detector of trustml.ood"
            )
        with seeded(0), torch.enable_grad():
            if self.reads_ == "inputs":
                theirs.fit(DataLoader(TensorDataset(rows, y), batch_size=_BATCH))
            else:
                getattr(theirs, f"fit_{self.reads_}")(rows, y)

    def _score(self, observation: Observation) -> Tensor:
        rows = self._read(observation)
        ask = "predict" if self.reads_ == "inputs" else f"predict_{self.reads_}"
        with seeded(0), torch.enable_grad():
            scores = getattr(self.detector_, ask)(rows)
        if not isinstance(scores, Tensor) or scores.shape != (len(rows),):
            given = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(f"{self._name()} must score {len(rows)} rows, got {given}")
        if not all_finite(scores.detach()):
            raise ValueError(f"{self._name()} gave NaN or infinite scores")
        return scores.detach().double().to(rows.device)

    def _read(self, observation: Observation) -> Tensor:
        found = getattr(observation, self.reads_)
        if not isinstance(found, Tensor):
            raise UnsuitableError(
                f"{self._name()} reads {self.reads_} as one tensor, and {self.model!r} gives none"
            )
        return found.detach().clone()  # some write into what they are given

    def _name(self) -> str:
        named = self.detector if isinstance(self.detector, str) else type(self.detector).__name__
        return f"pytorch-ood's {named}"

    def _made(self, model: Model) -> Any:
        if not isinstance(self.detector, str):
            if self.options is not None or inspect.isclass(self.detector):
                raise TypeError(
                    "detector must be a name with its options, or an object without; got "
                    f"{self.detector!r} with options {self.options!r}"
                )
            return copy.deepcopy(self.detector)
        kinds = require_submodule(_DETECTORS, "ood-anchors")
        if not inspect.isclass(getattr(kinds, self.detector, None)):
            known = sorted(n for n in vars(kinds) if inspect.isclass(getattr(kinds, n)))
            raise ValueError(f"{_DETECTORS} has no {self.detector!r}; it has {', '.join(known)}")
        kind = getattr(kinds, self.detector)
        options = {**_filled_in(kind, model), **(self.options or {})}
        return kind(**options)


def _reads(theirs: Any) -> str:
    for part in ("logits", "features"):
        if hasattr(theirs, f"predict_{part}"):
            return part
    if not hasattr(theirs, "predict") or hasattr(theirs, "predict_feature_maps"):
        raise UnsuitableError(
            f"{type(theirs).__name__} reads neither logits, features nor inputs; for feature maps "
            "and activation shaping use React, Ash, Scale or Vra of trustml.ood"
        )
    return "inputs"


def _filled_in(kind: type, model: Model) -> dict[str, Any]:
    """Return the arguments of a detector that follow from the model."""
    parts: dict[str, Any] = {}
    wanted = inspect.signature(kind).parameters
    # Those that are fed with features or logits need no network of their own.
    fed = hasattr(kind, "predict_logits") or hasattr(kind, "predict_features")
    for name in ("model", "encoder"):
        if name in wanted:
            parts[name] = nn.Identity() if fed else copy.deepcopy(model.module).eval()
    if {"head", "w", "b"} & set(wanted):
        head = model.head if model.differentiable else None
        if head is None:
            raise UnsuitableError(
                f"pytorch-ood's {kind.__name__} needs a last linear layer, and {model!r} has none"
            )
        weight, bias = (part.clone() for part in head)
        parts |= {name: part for name, part in (("w", weight), ("b", bias)) if name in wanted}
        if "head" in wanted:
            parts["head"] = _linear(weight, bias)
    return parts


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta", dtype=weight.dtype)
    layer = layer.to_empty(device=weight.device)
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer.eval()
