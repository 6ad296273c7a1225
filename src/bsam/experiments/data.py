"""Data sets as tensors, split by seed."""

from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor


class Part(NamedTuple):
    """Images, shape (n, 8, 8), float32 in [0, 1], and labels, shape (n,), in 0..9."""

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "Part":
        """Return the part on a device."""
        return Part(self.images.to(device), self.labels.to(device))


class Split(NamedTuple):
    """Three parts of one data set that share no example."""

    train: Part
    validation: Part
    test: Part


def digits(seed: int) -> Split:
    """Split scikit-learn's 1,797 handwritten digits: 40 % train, 20 % validation, 40 % test.

    The split is stratified: each part has the digits in the same proportions.

    Args:
        seed: which split.

    Example:
        >>> from bsam.experiments.data import digits
        >>> [len(part.labels) for part in digits(seed=0)]
        [718, 360, 719]
    """
    bunch = load_digits()
    images, labels = bunch.images.astype(np.float32) / 16.0, bunch.target
    rows = np.arange(len(labels))
    rest, test = train_test_split(rows, test_size=0.4, stratify=labels, random_state=seed)
    train, validation = train_test_split(
        rest, test_size=1 / 3, stratify=labels[rest], random_state=seed
    )
    return Split(*(_part(images, labels, part) for part in (train, validation, test)))


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


def _part(images: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> Part:
    return Part(torch.from_numpy(images[rows]), torch.from_numpy(labels[rows]).long())
