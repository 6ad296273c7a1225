"""Test images as they are, shifted, and of another kind: what a method should be less sure of."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from sklearn.datasets import load_sample_images
from torch import Tensor

from bsam.experiments.data import Part

DEGREES = (15, 30, 45)
NOISE = 0.3
"""Standard deviation of the noise; images are in [0, 1]."""

SHIFTED = ("clean", *(f"turned {degrees}" for degrees in DEGREES), "noise")
"""Names of the test sets that have labels."""


def test_sets(test: Part, seed: int) -> Mapping[str, Part]:
    """Return the test images in each form of ``SHIFTED``, by name, with the same labels.

    Args:
        test: images, shape (n, 8, 8).
        seed: of the noise.
    """
    return {
        "clean": test,
        **{f"turned {degrees}": turned(test, degrees) for degrees in DEGREES},
        "noise": noisy(test, NOISE, seed),
    }


def turned(part: Part, degrees: float) -> Part:
    """Return the part with its images turned counter-clockwise about their centre.

    Args:
        part: images and labels; the labels stay.
        degrees: by how much; corners that come from outside are black.
    """
    images = ndimage.rotate(
        part.images.cpu().numpy(), degrees, axes=(1, 2), reshape=False, order=1, mode="constant"
    )
    return Part(torch.from_numpy(images).to(part.images), part.labels)


def noisy(part: Part, deviation: float, seed: int) -> Part:
    """Return the part with Gaussian noise on its images, cut off at black and white.

    Args:
        part: images and labels; the labels stay.
        deviation: standard deviation of the noise.
        seed: of the noise.
    """
    noise = np.random.default_rng(seed).normal(0.0, deviation, tuple(part.images.shape))
    images = part.images + torch.from_numpy(noise).to(part.images)
    return Part(images.clamp(0.0, 1.0), part.labels)


def unknown(count: int, seed: int, side: int = 8) -> Tensor:
    """Return images that are no digits: patches of the two photographs that scikit-learn has.

    Grey, four times smaller, each stretched to reach from black to white, so that neither
    brightness nor contrast gives them away.

    Args:
        count: how many.
        seed: which patches.
        side: of a patch, in pixels.

    Returns:
        Shape (count, side, side), float32 in [0, 1].
    """
    rng = np.random.default_rng(seed)
    patches = np.stack([_patch(rng, photo, side) for photo in _photos(rng, count)])
    low, high = (f(patches, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    return torch.from_numpy(((patches - low) / np.maximum(high - low, 1e-3)).astype(np.float32))


def _photos(rng: np.random.Generator, count: int) -> list[Any]:
    small = [_smaller(image.mean(2), 4) for image in load_sample_images().images]
    return [small[number] for number in rng.integers(len(small), size=count)]


def _smaller(photo: np.ndarray, factor: int) -> np.ndarray:
    height, width = (length // factor for length in photo.shape)
    cut = photo[: height * factor, : width * factor]
    return cut.reshape(height, factor, width, factor).mean((1, 3))


def _patch(rng: np.random.Generator, photo: np.ndarray, side: int) -> np.ndarray:
    top, left = (rng.integers(length - side + 1) for length in photo.shape)
    return photo[top : top + side, left : left + side]
