"""One training loop for every method: each optimizer takes its step from a closure."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bsam.experiments.data import Part


class Training:
    """Training with cross-entropy and a learning rate that falls to zero along a cosine.

    It goes epoch by epoch, and on from :meth:`state_dict` bit for bit.

    Args:
        model: maps images to logits; trained in place.
        optimizer: over the parameters of the model.
        part: images and labels, on the model's device.
        epochs: passes over the data; the last ragged batch of each is left out.
        batch_size: examples a step.
        seed: order of the examples.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        part: Part,
        *,
        epochs: int,
        batch_size: int,
        seed: int,
    ) -> None:
        self.model, self.optimizer, self.part = model, optimizer, part
        self.epochs, self.batch_size = epochs, batch_size
        self.epoch = 0
        self.order = torch.Generator().manual_seed(seed)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda epoch: 0.5 * (1.0 + math.cos(math.pi * epoch / epochs))
        )

    def run_epoch(self) -> float:
        """Make one epoch and return the mean of the losses that its steps returned."""
        self.model.train()
        labels = self.part.labels
        rows = torch.randperm(len(labels), generator=self.order).to(labels.device)
        batches = rows[: len(rows) - len(rows) % self.batch_size].split(self.batch_size)
        losses = [float(self.optimizer.step(self._closure(batch))) for batch in batches]
        self.scheduler.step()
        self.epoch += 1
        return sum(losses) / len(losses)

    def _closure(self, rows: torch.Tensor) -> Callable[[], Any]:
        images, labels = self.part.images[rows], self.part.labels[rows]

        def closure() -> torch.Tensor:
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.model(images), labels)
            loss.backward()
            return loss.detach()

        return closure

    def state_dict(self) -> dict[str, Any]:
        """Return all that the rest of the run depends on."""
        return {
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "order": self.order.get_state(),
            "noise": torch.get_rng_state(),  # bSAM has its own; dropout and rivals draw from this
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        self.epoch = state["epoch"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.order.set_state(state["order"])
        torch.set_rng_state(state["noise"])


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    part: Part,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
) -> float:
    """Make all epochs of a :class:`Training`; return the mean loss of the last.

    Args:
        model: as for :class:`Training`, as are the rest.
        optimizer: over its parameters.
        part: images and labels.
        epochs: passes over the data.
        batch_size: examples a step.
        seed: order of the examples.
    """
    training = Training(model, optimizer, part, epochs=epochs, batch_size=batch_size, seed=seed)
    loss = math.nan
    while training.epoch < epochs:
        loss = training.run_epoch()
    return loss
