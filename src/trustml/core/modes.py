"""Evaluation mode for as long as we look at a module, and not a moment longer."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from trustml.core._twice import twice_differentiable

_PRECISION: ContextVar[torch.dtype | None] = ContextVar("trustml_precision", default=None)
_POOL = threading.local()
# Flags, hooks and kernels belong to the module and the process: threads take turns.
_TURN = threading.RLock()
_NORMAL = sys.float_info.min  # half of it is subnormal
# numpy warns if it first looks at these while subnormal numbers are flushed.
np.finfo(np.float32), np.finfo(np.float64)


@contextmanager
def flushing_subnormals() -> Iterator[None]:
    """Let numbers below 1e-38 (float32) or 1e-308 be zero, on this thread: processors crawl there.

    Gradients of a confident model are full of them: its matrix products take three times as long.

    Yields
    ------
    None

    Examples
    --------
    >>> with flushing_subnormals():
    ...     float(torch.tensor(1e-30) * torch.tensor(1e-10))
    0.0
    >>> float(torch.tensor(1e-30) * torch.tensor(1e-10)) > 0
    True
    """
    if _NORMAL / 2 == 0:  # set already
        yield
        return
    threads = torch.get_num_threads()
    if threads > 1 and getattr(_POOL, "threads", 1) != threads:
        # Workers inherit the mode of who starts them: have them start before it is set.
        torch.zeros(2**18).add_(1)
        _POOL.threads = threads
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[nn.Module]:
    """Put every submodule in eval mode; restore each one's own flag afterwards.

    Attention runs with the plain (math) kernel meanwhile: fused kernels and fast paths have no
    second derivatives, and give a row other numbers alone than in a batch. What else torch cannot
    differentiate twice (EmbeddingBag), or does wrongly (weight norm), is written out. Subnormal
    numbers are zero, which is faster. Threads wait for each other.

    Parameters
    ----------
    module : nn.Module
        Its flags are restored even after an exception.

    Yields
    ------
    nn.Module
        The same module.

    Examples
    --------
    >>> from torch import nn
    >>> net = nn.Dropout().train()
    >>> with evaluating(net):
    ...     net.training
    False
    >>> net.training
    True
    """
    with _TURN:
        flags = [(part, part.training) for part in module.modules()]
        fast_path = torch.backends.mha.get_fastpath_enabled()
        try:
            # Not module.eval(): what is exported refuses it, adapters merge in it.
            for part, _ in flags:
                part.training = False
            torch.backends.mha.set_fastpath_enabled(False)
            with sdpa_kernel(SDPBackend.MATH), twice_differentiable(module), flushing_subnormals():
                yield module
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)
            for part, training in flags:
                part.training = training


@contextmanager
def mixed_precision(dtype: torch.dtype | None) -> Iterator[None]:
    """Let modules run under ``torch.autocast``; their outputs keep the parameters' precision.

    Parameters
    ----------
    dtype : torch.dtype or None
        torch.bfloat16 or torch.float16; None switches it off.

    Yields
    ------
    None

    Examples
    --------
    >>> with mixed_precision(torch.bfloat16):
    ...     precision()
    torch.bfloat16
    """
    token = _PRECISION.set(dtype)
    try:
        yield
    finally:
        _PRECISION.reset(token)


def precision() -> torch.dtype | None:
    """Return what modules are to run in, or None for their own."""
    return _PRECISION.get()


def refuse_inference_mode(what: str) -> None:
    """Raise where gradients cannot be taken.

    Parameters
    ----------
    what : str
        Who takes them.

    Raises
    ------
    RuntimeError
        Inside ``torch.inference_mode()``, where gradients would silently be zero.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            f"{what} takes gradients, which torch.inference_mode() switches off for good: call it "
            "outside (torch.no_grad() is no obstacle)"
        )
