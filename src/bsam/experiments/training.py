"""One training loop for every method: each optimizer takes its step from a closure."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bsam.experiments.data import Part


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    part: Part,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
) -> float:
    """Train with cross-entropy and a learning rate that falls to zero along a cosine.

    Args:
        model: maps images to logits; trained in place.
        optimizer: over the parameters of the model.
        part: images and labels, on the model's device.
        epochs: passes over the data; the last ragged batch of each is left out.
        batch_size: examples a step.
        seed: order of the examples.

    Returns:
        The mean loss that the steps of the last epoch returned.
    """
    order = torch.Generator().manual_seed(seed)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda epoch: 0.5 * (1.0 + math.cos(math.pi * epoch / epochs))
    )
    model.train()
    loss = math.nan
    for _ in range(epochs):
        rows = torch.randperm(len(part.labels), generator=order).to(part.labels.device)
        batches = rows[: len(rows) - len(rows) % batch_size].split(batch_size)
        losses = [
            float(optimizer.step(_closure(model, optimizer, part, batch))) for batch in batches
        ]
        loss = sum(losses) / len(losses)
        scheduler.step()
    return loss


def _closure(
    model: nn.Module, optimizer: torch.optim.Optimizer, part: Part, rows: torch.Tensor
) -> Callable[[], Any]:
    images, labels = part.images[rows], part.labels[rows]

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        return loss.detach()

    return closure
