"""What each position of a convolution sees."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd


def channels(x: Tensor, n: int, groups: int) -> Tensor:
    """Return (b, channels, *positions) as (n, groups, t, channels / groups)."""
    split = x.reshape(n, len(x) // n, groups, x.shape[1] // groups, -1)
    return split.permute(0, 2, 1, 4, 3).reshape(n, groups, -1, x.shape[1] // groups)


def windows(layer: _ConvNd, x: Tensor, n: int, positions: Sequence[int] | None = None) -> Tensor:
    """Return what each position sees, as (n, groups, t, channels / groups x kernel)."""
    x = _padded(layer, x)
    spans = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    for j, length in enumerate(positions or ()):  # output_padding may add more
        x = x.narrow(2 + j, 0, (length - 1) * layer.stride[j] + spans[j] + 1)
    for j, span in enumerate(spans):
        x = x.unfold(2 + j, span + 1, layer.stride[j])[..., :: layer.dilation[j]]
    k, g = len(spans), layer.groups
    # Copied in runs along the positions: faster than unfold's own, and a matrix product takes it.
    seen = x.permute(0, 1, *range(2 + k, 2 + 2 * k), *range(2, 2 + k))
    size = seen.shape[1 : 2 + k].numel() // g
    if len(x) == n:
        return seen.reshape(n, g, size, -1).mT
    right = seen.reshape(n, len(x) // n, g, size, -1)
    return right.permute(0, 2, 1, 4, 3).reshape(n, g, -1, size)


def _padded(layer: _ConvNd, x: Tensor) -> Tensor:
    spans = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    if layer.padding == "same":
        pads = [(span // 2, span - span // 2) for span in spans]
    elif layer.padding == "valid":
        pads = [(0, 0) for _ in spans]
    else:
        pads = [(int(p), int(p)) for p in layer.padding]
    flat = [side for pair in reversed(pads) for side in pair]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(x, flat, mode=mode) if any(flat) else x
