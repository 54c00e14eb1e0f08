"""Images that are of no class: patches of photographs, and drawn textures."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from trustml.core.optional import require
from trustml.core.random import RandomState, numpy_generator
from trustml.core.validation import check_choice, check_positive_int

Images = NDArray[np.float32]


def foreign_images(
    n: int,
    shape: tuple[int, ...] = (8, 8),
    random_state: RandomState = 0,
    *,
    kind: Literal["both", "photographs", "textures"] = "both",
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Images:
    """Return images that belong to no class of a classifier of drawings, such as digits.

    Parameters
    ----------
    n : int
        How many.
    shape : (height, width) or (channels, height, width)
        Of one image.
    random_state : int, Generator or None
        Decides patches and textures.
    kind : {"both", "photographs", "textures"}
        Patches of scikit-learn's two photographs, scaled down; stripes, checks, clouds, ramps and
        noise; or half of each in random order. Photographs need Pillow.
    bounds : (low, high)
        Darkest and brightest value; each image fills the range.

    Returns
    -------
    ndarray of shape (n, *shape)
        float32.

    Raises
    ------
    ValueError
        If ``shape`` is not of an image, or ``kind`` is unknown.

    Examples
    --------
    >>> foreign_images(5, (8, 8), kind="textures").shape
    (5, 8, 8)
    """
    n = check_positive_int(n, "n")
    check_choice(kind, "kind", ("both", "photographs", "textures"))
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ValueError(f"shape must be (height, width) or (channels, height, width), got {shape}")
    generator = numpy_generator(random_state)
    channels, (height, width) = (1 if len(shape) == 2 else shape[0]), shape[-2:]
    photographs = {"both": n // 2, "photographs": n, "textures": 0}[kind]
    parts = [_texture(channels, height, width, generator) for _ in range(n - photographs)]
    if photographs:
        parts += _patches(photographs, channels, height, width, generator)
    images = np.stack(parts)[generator.permutation(n)].reshape(n, *shape)
    low, high = bounds
    return (low + (high - low) * images).astype(np.float32)


def _stretched(image: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = image.min(), image.max()
    return (image - low) / (high - low) if high > low else np.zeros_like(image)


def _patches(
    n: int, channels: int, height: int, width: int, generator: np.random.Generator
) -> list[NDArray[np.float64]]:
    require("PIL", "report")
    from sklearn.datasets import load_sample_images

    photos = [
        torch.tensor(photo).permute(2, 0, 1).double() for photo in load_sample_images().images
    ]
    found = []
    for _ in range(n):
        photo = photos[int(generator.integers(len(photos)))]
        room = min(photo.shape[1] // height, photo.shape[2] // width)
        factor = int(generator.integers(min(2, room), max(3, min(24, room + 1))))
        top = int(generator.integers(photo.shape[1] - factor * height + 1))
        left = int(generator.integers(photo.shape[2] - factor * width + 1))
        patch = photo[:, top : top + factor * height, left : left + factor * width]
        small = torch.nn.functional.adaptive_avg_pool2d(patch[None], (height, width))[0]
        if channels != small.shape[0]:
            small = small.mean(0, keepdim=True).expand(channels, height, width)
        found.append(_stretched(small.numpy()))
    return found


def _texture(
    channels: int, height: int, width: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    y, x = np.mgrid[0:height, 0:width]
    angle, phase = generator.uniform(0, np.pi), generator.uniform(0, 2 * np.pi)
    along = np.cos(angle) * x + np.sin(angle) * y
    which = int(generator.integers(5))
    if which == 0:  # stripes
        one = np.sin(along * generator.uniform(1.0, 2.5) + phase)
    elif which == 1:  # checks
        size = int(generator.integers(1, max(2, min(height, width) // 2)))
        one = ((x // size + y // size) % 2).astype(np.float64)
    elif which == 2:  # clouds
        from scipy.ndimage import gaussian_filter

        one = gaussian_filter(generator.standard_normal((height, width)), 1.2, mode="wrap")
    elif which == 3:  # a ramp
        one = along
    else:
        one = generator.uniform(size=(height, width))
    return np.repeat(_stretched(np.asarray(one, np.float64))[None], channels, axis=0)
