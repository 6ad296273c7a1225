"""Test images that a method is sure or unsure about."""

import base64
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from bsam.experiments.data import digits
from bsam.experiments.runs import Run


class Example(NamedTuple):
    """A test image, what it is, what it was taken for, and the probability of that."""

    row: int
    label: int
    predicted: int
    confidence: float


def sure_but_wrong(probs: np.ndarray, labels: np.ndarray, count: int) -> list[Example]:
    """Return the mistakes with the largest confidence, the worst first.

    Args:
        probs: shape (n, classes).
        labels: shape (n,).
        count: at most how many.
    """
    rows = np.argsort(-probs.max(1), kind="stable")
    return _examples(rows[probs.argmax(1)[rows] != labels[rows]][:count], probs, labels)


def least_sure(probs: np.ndarray, labels: np.ndarray, count: int) -> list[Example]:
    """Return the predictions with the least confidence, the least first.

    Args:
        probs: shape (n, classes).
        labels: shape (n,).
        count: at most how many.
    """
    return _examples(np.argsort(probs.max(1), kind="stable")[:count], probs, labels)


def _examples(rows: np.ndarray, probs: np.ndarray, labels: np.ndarray) -> list[Example]:
    return [
        Example(int(row), int(labels[row]), int(probs[row].argmax()), float(probs[row].max()))
        for row in rows
    ]


def images_of(run: Run) -> np.ndarray | None:
    """Return a run's clean test images, shape (n, 8, 8) in [0, 1]; None if they are not known.

    Args:
        run: finished.
    """
    if run.recipe.data != "digits":
        return None
    part = digits(run.recipe.seed).test
    same = np.array_equal(part.labels.numpy(), run.arrays["labels"])
    return part.images.numpy() if same else None  # a split by another version says nothing


def png(image: np.ndarray) -> str:
    """Return an image as the address of a PNG that holds it all.

    Args:
        image: shape (height, width) in [0, 1].
    """
    buffer = io.BytesIO()
    Image.fromarray((image * 255.0).round().astype(np.uint8)).save(buffer, "png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
