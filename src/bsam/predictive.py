"""The predictive distribution: what is reported of it, and how it is added up draw by draw."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from bsam import options
from bsam.dtypes import widest_dtype

LIKELIHOODS = ("categorical", "bernoulli", "gaussian")
"""What a model's outputs may mean."""


class _Shown:
    """Prints as names and shapes, not as thousands of numbers."""

    def __repr__(self) -> str:
        parts = (f"{name}: {tuple(value.shape)}" for name, value in vars(self).items())
        return f"{type(self).__name__}({', '.join(parts)})"


@dataclass(frozen=True, eq=False, repr=False)
class Predictive(_Shown):
    r"""Predicted probabilities and what is uncertain about them, in nats; float64.

    The entropy of the averaged prediction splits into two parts (Depeweg et al., ICML 2018):
    ``entropy = expected_entropy + mutual_information``. The first part is noise in the data that
    every draw of the weights agrees on (aleatoric); the second, the mutual information between
    label and weights, is disagreement between the draws (epistemic).

    Shapes are (n, ..., classes) and (n, ...) for the categorical likelihood; for Bernoulli, where
    the probabilities are those of y = 1, all are that of the model's outputs.
    """

    probs: Tensor
    """Averaged probabilities."""
    log_probs: Tensor
    """Their logarithms, exact where probabilities are too small for a number."""
    entropy: Tensor
    """Entropy of the averaged prediction: all uncertainty."""
    expected_entropy: Tensor
    """Average of the draws' entropies: aleatoric uncertainty."""
    mutual_information: Tensor
    """What is left, at least 0: epistemic uncertainty."""


@dataclass(frozen=True, eq=False, repr=False)
class GaussianPredictive(_Shown):
    """Mean and variance of a predicted real number; shapes are that of the outputs; float64.

    ``variance = aleatoric_variance + epistemic_variance`` (law of total variance).
    """

    mean: Tensor
    """Average of the draws' means."""
    variance: Tensor
    """Variance of the prediction: all uncertainty."""
    aleatoric_variance: Tensor
    """Variance of the noise, averaged over the draws."""
    epistemic_variance: Tensor
    """Variance of the draws' means (divided by their number)."""


class Accumulator(ABC):
    """Adds up the outputs of draw after draw for one batch; its size does not grow."""

    def __init__(self) -> None:
        self.count = 0

    @abstractmethod
    def add(self, outputs: Any) -> None:
        """Take in the outputs of one draw."""

    @abstractmethod
    def result(self) -> Any:
        """Return what has come of all draws so far."""


class CategoricalAccumulator(Accumulator):
    """Logits, shape (n, ..., classes)."""

    def add(self, outputs: Any) -> None:
        """Take in the logits of one draw."""
        logits = _float_tensor(outputs, "logits")
        if logits.dim() < 2 or logits.shape[-1] < 2:
            raise ValueError(
                f"likelihood='categorical': the model gave outputs of shape {tuple(logits.shape)}: "
                "must be logits of shape (n, ..., classes) with at least 2 classes; for one logit "
                "pass likelihood='bernoulli'."
            )
        self._add(_wide(logits).log_softmax(-1))

    def _add(self, log_probs: Tensor) -> None:
        # The logarithm of the sum, so that small probabilities keep their digits.
        entropy = _entropy(log_probs)
        first = self.count == 0
        self._log_sum = log_probs if first else torch.logaddexp(self._log_sum, log_probs)
        self._entropy_sum = entropy if first else self._entropy_sum + entropy
        self.count += 1

    def result(self) -> Predictive:
        """Return the average over the draws."""
        log_probs = self._log_sum - math.log(self.count)
        entropy, expected = _entropy(log_probs), self._entropy_sum / self.count
        information = (entropy - expected).clamp(min=0.0)  # rounding may leave -1e-17
        return Predictive(log_probs.exp(), log_probs, entropy, expected, information)


class BernoulliAccumulator(CategoricalAccumulator):
    """Logits of y = 1, any shape (n, ...)."""

    def add(self, outputs: Any) -> None:
        """Take in the logits of one draw."""
        logits = _wide(_float_tensor(outputs, "logits"))
        self._add(torch.stack([logsigmoid(-logits), logsigmoid(logits)], -1))

    def result(self) -> Predictive:
        """Return the average over the draws."""
        both = super().result()
        return Predictive(
            both.probs[..., 1],
            both.log_probs[..., 1],
            both.entropy,
            both.expected_entropy,
            both.mutual_information,
        )


class GaussianAccumulator(Accumulator):
    """Means, any shape (n, ...), with a given noise variance; or pairs (mean, variance)."""

    def __init__(self, noise_variance: Tensor | None) -> None:
        super().__init__()
        self._given = noise_variance

    def add(self, outputs: Any) -> None:
        """Take in the means of one draw, and variances where the model gives them (Welford)."""
        mean, noise = self._mean_and_noise(outputs)
        if self.count == 0:
            self._mean, self._noise = torch.zeros_like(mean), torch.zeros_like(mean)
            self._squares = torch.zeros_like(mean)
        self.count += 1
        deviation = mean - self._mean
        self._mean = self._mean + deviation / self.count
        self._squares = self._squares + deviation * (mean - self._mean)
        self._noise = self._noise + noise

    def _mean_and_noise(self, outputs: Any) -> tuple[Tensor, Tensor]:
        if isinstance(outputs, tuple | list) and len(outputs) == 2:
            if self._given is not None:
                raise ValueError(
                    "noise_variance: must be left out, since the model gives a variance itself."
                )
            mean, noise = (_wide(_float_tensor(each, "mean and variance")) for each in outputs)
            if noise.shape != mean.shape or (noise <= 0).any():
                raise ValueError(
                    f"outputs: the model gave a mean of shape {tuple(mean.shape)} and a variance "
                    f"of shape {tuple(noise.shape)}, the least {noise.min():.3g}: must be of one "
                    "shape, the variance positive; exponentiate a log variance."
                )
            return mean, noise
        if self._given is None:
            raise ValueError(
                "noise_variance=None: must be the variance of y around the model's mean, > 0, for "
                "likelihood='gaussian'; or let the model give a pair (mean, variance)."
            )
        mean = _wide(_float_tensor(outputs, "means"))
        if self._given.dim() >= mean.dim() and self._given.shape[:1] != (1,):
            raise ValueError(
                f"noise_variance: shape {tuple(self._given.shape)} for outputs of shape "
                f"{tuple(mean.shape)}: must be one number or one for each output; for one each row "
                "let the model give a pair (mean, variance)."
            )
        return mean, self._given.to(mean).expand_as(mean)

    def result(self) -> GaussianPredictive:
        """Return the moments over the draws."""
        aleatoric, epistemic = self._noise / self.count, self._squares / self.count
        return GaussianPredictive(self._mean, aleatoric + epistemic, aleatoric, epistemic)


def accumulators(likelihood: object, noise_variance: object) -> Callable[[], Accumulator]:
    """Return what makes an accumulator for a batch.

    Args:
        likelihood: one of ``LIKELIHOODS``.
        noise_variance: for ``"gaussian"`` alone, a positive number or tensor, or None.

    Raises:
        ValueError, TypeError: for arguments that are not allowed.
    """
    options.one_of("likelihood", likelihood, LIKELIHOODS, advice="logits are 'categorical'")
    if likelihood != "gaussian":
        if noise_variance is not None:
            raise ValueError(
                f"noise_variance: must be left out for likelihood={likelihood!r}; it is for "
                "'gaussian'."
            )
        return CategoricalAccumulator if likelihood == "categorical" else BernoulliAccumulator
    if isinstance(noise_variance, Tensor):
        if not (noise_variance > 0).all():
            raise ValueError("noise_variance=<tensor>: must be positive everywhere.")
        given = noise_variance
    elif noise_variance is not None:
        advice = "pass the variance, not the standard deviation, of y around its mean"
        given = torch.tensor(options.real("noise_variance", noise_variance, above=0, advice=advice))
    else:
        given = None
    return lambda: GaussianAccumulator(given)


def joined(parts: list[Any]) -> Any:
    """Return the results of several batches as one, rows one after the other.

    Args:
        parts: results of one kind, at least one.
    """
    if len(parts) == 1:
        return parts[0]
    names = [field.name for field in fields(parts[0])]
    return type(parts[0])(*(torch.cat([getattr(each, name) for each in parts]) for name in names))


def _entropy(log_probs: Tensor) -> Tensor:
    return torch.special.entr(log_probs.exp()).sum(-1)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(widest_dtype(tensor.device))


def _float_tensor(outputs: Any, what: str) -> Tensor:
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point() or not outputs.dim():
        shown = f" {outputs.dtype}, {outputs.dim()}-d" if isinstance(outputs, Tensor) else ""
        raise TypeError(
            f"outputs: the model gave {type(outputs).__name__}{shown}: must be a floating point "
            f"tensor of {what}, shape (n, ...); pass forward=lambda model, batch: ... to pick it."
        )
    return outputs
