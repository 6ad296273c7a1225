"""Running statistics of BatchNorm and its kin: when they move, and how to make them anew.

In training mode such a layer normalizes by its batch and moves running averages, which it uses in
evaluation. Sharpness-aware steps run the model twice, at weights other than the mean, so it
matters, or may matter, which passes move them (``optimizer.update_statistics``); and weights drawn
for prediction meet statistics that were made with others (:func:`refresh_statistics`).
"""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bsam import inputs
from bsam.borrowing import evaluating

POLICIES = {
    "both": ("sampled", "perturbed"),
    "sampled": ("sampled",),
    "perturbed": ("perturbed",),
    "none": (),
}
"""Which passes of a step move running statistics, by the name of the policy."""

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def tracking_layers(model: nn.Module) -> list[Any]:
    """Return the layers that keep running statistics: Batch-, SyncBatch- and InstanceNorm.

    Args:
        model: any module.
    """
    return [m for m in model.modules() if isinstance(getattr(m, "running_mean", None), Tensor)]


@contextmanager
def frozen_statistics(model: nn.Module) -> Generator[None, None, None]:
    """Have running statistics stay as they are, whatever passes are made inside the block.

    Layers go on normalizing by their batch. Blocks may be nested, and a backward pass may come
    after the block.

    Args:
        model: any module; one without such layers is left alone.

    Example:
        >>> import torch, bsam
        >>> model = torch.nn.BatchNorm1d(2)
        >>> with bsam.normalization.frozen_statistics(model):
        ...     _ = model(torch.randn(8, 2))
        >>> model.running_mean, int(model.num_batches_tracked)
        (tensor([0., 0.]), 0)
    """
    statistics = _statistics(tracking_layers(model))
    before = [statistic.clone() for statistic in statistics]
    try:
        yield
    finally:
        _set(statistics, before)


@torch.no_grad()
def refresh_statistics(
    model: nn.Module, batches: Iterable[Any], *, forward: inputs.Forward = inputs.call
) -> None:
    """Make the running statistics anew: averages over batches at the weights as they are.

    For the mean after training, or inside ``posterior.sampled(model)`` for one draw. Everything but
    the layers in question is in evaluation mode meanwhile (no dropout). Batches count by their
    number of examples.

    Args:
        model: its running statistics are replaced; modes and momenta are left as they were.
        batches: an iterable of tensors, or of sequences that begin with the inputs, such as a
            loader of the training data.
        forward: called as ``forward(model, batch)`` for batches of another kind.

    Raises:
        ValueError: if there is no batch; the old statistics stay then, as after any exception.

    Example:
        >>> import torch, bsam
        >>> model = torch.nn.BatchNorm1d(1)
        >>> x = torch.tensor([[1.0], [3.0]])
        >>> bsam.normalization.refresh_statistics(model, [x, x + 1])
        >>> model.running_mean, model.running_var  # means of 2 and 3, of 2 and 2
        (tensor([2.5000]), tensor([2.]))
    """
    layers = tracking_layers(model)
    statistics = _statistics(layers)
    before = [statistic.clone() for statistic in statistics]
    momenta = [layer.momentum for layer in layers]
    seen = 0
    try:
        with evaluating(model):
            for layer in layers:
                layer.train()
                _reset(layer)
            for batch in batches:
                size = inputs.rows(batch)
                seen += size
                for layer in layers:
                    layer.momentum = size / seen
                forward(model, batch)
        if not seen:
            raise ValueError("batches: is empty: must hold at least one; pass a training loader.")
    except BaseException:
        _set(statistics, before)
        raise
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


def _statistics(layers: list[Any]) -> list[Tensor]:
    every = [getattr(layer, name, None) for layer in layers for name in _STATISTICS]
    return [statistic for statistic in every if isinstance(statistic, Tensor)]


def _set(statistics: list[Tensor], values: list[Tensor]) -> None:
    for statistic, value in zip(statistics, values, strict=True):
        # Unseen by autograd, to which a backward pass that is still to come would complain.
        statistic.data.copy_(value)


def _reset(layer: Any) -> None:
    for name, value in zip(_STATISTICS, (0.0, 1.0, 0), strict=True):
        if isinstance(statistic := getattr(layer, name, None), Tensor):
            statistic.fill_(value)
