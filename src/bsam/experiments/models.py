"""Networks that the experiments train."""

from torch import nn


def mlp(inputs: int, hidden: int, classes: int) -> nn.Sequential:
    """Return a network with one hidden layer of ReLU units, over flattened images."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes)
    )
