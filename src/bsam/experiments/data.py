"""Data sets as tensors, split by seed."""

from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor


class Part(NamedTuple):
    """Images, float32 in [0, 1], and labels, int64, shape (n,), counted from 0.

    Grey images have shape (n, height, width), colour ones (n, 3, height, width).
    """

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


def images(path: str, seed: int, *, train: int, validation: int, test: int | None = None) -> Split:
    """Read part of an image data set in the layout of the Hugging Face Hub.

    Training and validation images come from the training file, test images from the test file; each
    part is a stratified choice. The images are those of the first column that holds images, labels
    those of the first column that names classes.

    Args:
        path: a folder of Parquet files, or a name on the Hub.
        seed: which choice.
        train: how many training images.
        validation: how many other images of the training file.
        test: how many test images; None takes all, in the order of the file.
    """
    import datasets  # takes a second

    files = datasets.load_dataset(path)
    features = files["train"].features
    image, label = (
        next(name for name, feature in features.items() if isinstance(feature, kind))
        for kind in (datasets.Image, datasets.ClassLabel)
    )
    labels = np.asarray(files["train"][label])
    chosen = _stratified(labels, train + validation, seed)
    rest = _stratified(labels[chosen], validation, seed)
    rows = {"train": np.delete(chosen, rest), "validation": chosen[rest]}
    tested = np.asarray(files["test"][label])
    rows["test"] = np.arange(len(tested)) if test is None else _stratified(tested, test, seed)

    def part(name: str) -> Part:
        selected = files["test" if name == "test" else "train"].select(rows[name])
        pixels = np.stack([np.asarray(each) for each in selected[image]]).astype(np.float32) / 255
        pixels = pixels.transpose(0, 3, 1, 2) if pixels.ndim == 4 else pixels
        return _part(np.ascontiguousarray(pixels), np.asarray(selected[label]), np.s_[:])

    return Split(part("train"), part("validation"), part("test"))


def _stratified(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Choose so many rows, each label in the same proportion."""
    rows = np.arange(len(labels))
    if count == len(rows):
        return rows
    return train_test_split(rows, train_size=count, stratify=labels, random_state=seed)[0]


def _part(images: np.ndarray, labels: np.ndarray, rows: np.ndarray | slice) -> Part:
    return Part(torch.from_numpy(images[rows]), torch.from_numpy(labels[rows]).long())
