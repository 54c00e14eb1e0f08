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
    b, g = len(x), layer.groups
    if len(spans) == 3:
        for j, span in enumerate(spans):
            x = x.unfold(2 + j, span + 1, layer.stride[j])[..., :: layer.dilation[j]]
        size = x.shape[5:].numel()
        seen = x.reshape(b, g, x.shape[1] // g, -1, size).transpose(2, 3).flatten(3)
    else:
        one = len(spans) == 1  # a sequence is an image of one line
        columns = F.unfold(
            x[:, :, None] if one else x,
            (1, *layer.kernel_size) if one else layer.kernel_size,
            (1, *layer.dilation) if one else layer.dilation,
            stride=(1, *layer.stride) if one else layer.stride,
        )
        seen = columns.reshape(b, g, -1, columns.shape[-1]).mT
    right = seen.reshape(n, b // n, g, *seen.shape[2:]).transpose(1, 2)
    return right.reshape(n, g, -1, seen.shape[-1])


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
