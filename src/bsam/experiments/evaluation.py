"""What a trained network predicts: at its weights, by its posterior, as rivals would mend it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from bsam import GaussianPosterior, Predictive, metrics, predict
from bsam.experiments.data import Part

SCALES = tuple(np.geomspace(1e-3, 1.0, 16).tolist())
"""Standard deviations that isotropic noise on the weights is chosen from, on validation images."""

COUNTS = (1, 2, 4, 8, 16)
"""Numbers of draws for which predictions are kept beside those of all draws."""

CURVE = ("clean", "turned 30")
"""Test sets for which they are kept."""


class Evaluation(NamedTuple):
    """Predictions by way of predicting and test set, and what was chosen on validation images."""

    arrays: dict[str, np.ndarray]
    """``WAY/SET/log_probs``, (n, classes), and ``WAY/SET/expected_entropy``, (n,); float32."""
    chosen: dict[str, float]


def ways_of(method: str) -> tuple[str, ...]:
    """Return the ways in which a method's network predicts; the first is the method's own.

    Args:
        method: its name.
    """
    if method.startswith(("bSAM", "IVON")):
        return ("samples", "mean")
    return {
        "SGD": ("weights", "temperature"),
        "Adam": ("weights", "temperature"),
        "SAM": ("weights", "temperature", "noise"),
    }.get(method, ("weights",))


def evaluate(
    model: nn.Module,
    posterior: GaussianPosterior | None,
    ways: tuple[str, ...],
    validation: Part,
    tests: Mapping[str, Tensor],
    *,
    num_samples: int,
    seed: int,
) -> Evaluation:
    """Predict test images in several ways.

    Args:
        model: a trained network.
        posterior: over its weights, for the way ``"samples"``.
        ways: ``"weights"`` and ``"mean"`` predict at the weights; ``"samples"`` averages over the
            posterior; ``"temperature"`` divides the logits by a number chosen on validation images;
            ``"noise"`` averages over weights with noise of a size chosen there.
        validation: what is chosen on.
        tests: images by name of the test set.
        num_samples: number of draws.
        seed: of the draws.
    """
    arrays: dict[str, np.ndarray] = {}
    chosen: dict[str, float] = {}
    for way in ways:
        used, temperature = posterior if way == "samples" else None, 1.0
        if way == "temperature":
            chosen[way] = temperature = best_temperature(model, validation)
        if way == "noise":
            chosen[way] = best_noise(model, validation, num_samples, seed)
            used = isotropic(model, chosen[way])
        count = num_samples if used else 0
        for name, images in tests.items():
            predictive = predict(
                model, used, images, count, seed=seed, method="vmap", forward=_cooled(temperature)
            )
            _keep(arrays, f"{way}/{name}", predictive)
            if used and name in CURVE:
                for few in COUNTS:
                    if few < count:
                        fewer = predict(model, used, images, few, seed=seed, method="vmap")
                        _keep(arrays, f"{way}/{name}/{few}", fewer)
    return Evaluation(arrays, chosen)


def _keep(arrays: dict[str, np.ndarray], where: str, predictive: Predictive) -> None:
    arrays[f"{where}/log_probs"] = predictive.log_probs.cpu().numpy().astype(np.float32)
    expected = predictive.expected_entropy.cpu().numpy()
    arrays[f"{where}/expected_entropy"] = expected.astype(np.float32)


def _cooled(temperature: float) -> Any:
    return lambda model, images: model(images) / temperature


def best_temperature(model: nn.Module, validation: Part) -> float:
    """Return the temperature whose softmax of logits / temperature has the least validation NLL.

    Args:
        model: a trained network.
        validation: images and labels.

    References:
        C. Guo et al., "On calibration of modern neural networks", ICML 2017, section 4.2.
    """

    def nll(log_temperature: float) -> float:
        forward = _cooled(float(np.exp(log_temperature)))
        predictive = predict(model, None, validation.images, num_samples=0, forward=forward)
        return _nll(predictive, validation.labels)

    # In 1/T the NLL is convex, so along log T it has one minimum.
    return float(np.exp(minimize_scalar(nll, bounds=(-3.0, 3.0), method="bounded").x))


def best_noise(model: nn.Module, validation: Part, num_samples: int, seed: int) -> float:
    """Return the standard deviation in ``SCALES`` with the least validation NLL.

    Args:
        model: a trained network.
        validation: images and labels.
        num_samples: number of draws.
        seed: of the draws.
    """
    nll = {}
    for scale in SCALES:
        predictive = predict(
            model, isotropic(model, scale), validation.images, num_samples, seed=seed, method="vmap"
        )
        nll[scale] = _nll(predictive, validation.labels)
    return min(nll, key=lambda scale: nll[scale])


def isotropic(model: nn.Module, deviation: float) -> GaussianPosterior:
    """Return a Gaussian around a model's weights with one standard deviation for all.

    Args:
        model: any module.
        deviation: > 0.
    """
    mean = dict(model.named_parameters())
    return GaussianPosterior(
        mean, {name: torch.full_like(p, deviation**-2) for name, p in mean.items()}
    )


def _nll(predictive: Predictive, labels: Tensor) -> float:
    return metrics.negative_log_likelihood(predictive.probs, labels)
