"""Training methods under comparison, each an optimizer with its settings."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

import bsam

WEIGHT_DECAY = 1e-3

Make = Callable[[nn.Module, float, int, int], torch.optim.Optimizer]
"""Makes an optimizer from a model, a learning rate, the number of training examples and a seed."""


class Method(NamedTuple):
    """A way to train."""

    lr: float
    """Learning rate, chosen on validation data by ``benchmarks/demo_learning_rates.py``."""

    gradients_per_step: int
    make: Make


def _sgd(model: nn.Module, lr: float, _num_data: int, _seed: int) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=WEIGHT_DECAY)


def _adam(model: nn.Module, lr: float, _num_data: int, _seed: int) -> torch.optim.Adam:
    return torch.optim.Adam(model.parameters(), lr, weight_decay=WEIGHT_DECAY)


def _sam(model: nn.Module, lr: float, _num_data: int, _seed: int) -> bsam.SAM:
    return bsam.SAM(
        model.named_parameters(),
        torch.optim.SGD,
        rho=0.05,
        lr=lr,
        momentum=0.9,
        weight_decay=WEIGHT_DECAY,
    )


def _bsam(model: nn.Module, lr: float, num_data: int, seed: int) -> bsam.BSAM:
    return bsam.BSAM(
        model.named_parameters(), lr, num_data=num_data, weight_decay=WEIGHT_DECAY, seed=seed
    )


METHODS = {
    "SGD": Method(lr=0.3, gradients_per_step=1, make=_sgd),
    "Adam": Method(lr=0.03, gradients_per_step=1, make=_adam),
    "SAM": Method(lr=0.3, gradients_per_step=2, make=_sam),
    "bSAM": Method(lr=3.0, gradients_per_step=2, make=_bsam),
}
