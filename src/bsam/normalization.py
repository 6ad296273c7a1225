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
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from bsam import inputs, options
from bsam.borrowing import evaluating
from bsam.naming import require_module, unwrapped

POLICIES = {
    "both": ("sampled", "perturbed"),
    "sampled": ("sampled",),
    "perturbed": ("perturbed",),
    "none": (),
}
"""Which passes of a step move running statistics, by the name of the policy."""

Policies = tuple[tuple[nn.Module, str], ...]
"""Models that have a policy of their own, with its name."""

_COUNT = "num_batches_tracked"
_STATISTICS = ("running_mean", "running_var", _COUNT)


def with_policy(policies: Policies, model: nn.Module, during: str) -> Policies:
    """Return policies with one more; for the same model, wrapped or not, the last one counts.

    Args:
        policies: so far.
        model: the model whose layers are meant.
        during: name of the policy.

    Raises:
        ValueError, TypeError: for another policy, or what is not a model.
    """
    require_module(model)
    options.one_of("during", during, tuple(POLICIES), advice="'both' is the authors'")
    inner = unwrapped(model)
    return (*(pair for pair in policies if pair[0] is not inner), (inner, during))


def frozen_during(pass_name: str, policies: Policies) -> list[nn.Module]:
    """Return the models whose statistics a pass must not move.

    Args:
        pass_name: ``"sampled"`` or ``"perturbed"``.
        policies: of all models.
    """
    return [model for model, during in policies if pass_name not in POLICIES[during]]


def tracking_layers(model: nn.Module) -> list[Any]:
    """Return the layers that keep running statistics: Batch-, SyncBatch- and InstanceNorm.

    Args:
        model: any module.
    """
    return [
        layer
        for layer in model.modules()
        if isinstance(mean := getattr(layer, "running_mean", None), Tensor) and not is_lazy(mean)
    ]


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
    places = _places(tracking_layers(model))
    before = [getattr(layer, name) for layer, name in places]
    copies = [statistic.clone() for statistic in before]
    try:
        yield
    finally:
        for (layer, name), statistic in zip(places, before, strict=True):
            if getattr(layer, name) is not statistic:  # a layer that assigns new ones
                setattr(layer, name, statistic)
        _set(before, copies)


@torch.no_grad()
def refresh_statistics(
    model: nn.Module, batches: Iterable[Any], *, forward: inputs.Forward = inputs.call
) -> None:
    """Make the running statistics anew: averages over batches at the weights as they are.

    For the mean after training, or inside ``posterior.sampled(model)`` for one draw. Everything but
    the layers in question is in evaluation mode meanwhile (no dropout); these layers are not, even
    where they are kept in it. Batches count by their number of examples.

    Args:
        model: its running statistics are replaced; modes and momenta are left as they were.
        batches: an iterable of tensors, or of sequences that begin with the inputs, such as a
            loader of the training data; a tensor is one batch.
        forward: called as ``forward(model, batch)`` for batches of another kind.

    Raises:
        TypeError: if model is not a module.
        ValueError: if there is no batch; the old statistics stay then, as after any exception.

    Example:
        >>> import torch, bsam
        >>> model = torch.nn.BatchNorm1d(1)
        >>> x = torch.tensor([[1.0], [3.0]])
        >>> bsam.normalization.refresh_statistics(model, [x, x + 1])
        >>> model.running_mean, model.running_var  # means of 2 and 3, of 2 and 2
        (tensor([2.5000]), tensor([2.]))
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model={type(model).__name__}: must be a module; the batches come second.")
    layers = [layer for layer in tracking_layers(model) if hasattr(layer, "momentum")]
    momenta = [layer.momentum for layer in layers]
    with _kept_if_it_fails(layers), evaluating(model):
        try:
            for layer in layers:
                layer.train()
                # Of one batch: what is left of all calls of BatchNorm, of the last of InstanceNorm.
                layer.momentum = 1.0 if isinstance(layer, _InstanceNorm) else None
            _average(unwrapped(model), layers, batches, forward)
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum


def _average(
    model: nn.Module, layers: list[Any], batches: Iterable[Any], forward: inputs.Forward
) -> None:
    averaged = [getattr(layer, name) for layer, name in _places(layers) if name != _COUNT]
    sums = [torch.zeros_like(each) for each in averaged]
    seen = number = 0
    for batch in [batches] if isinstance(batches, Tensor) else batches:
        if not (size := inputs.rows(batch)):
            continue
        for layer in layers:
            _reset(layer)
        forward(model, batch)
        seen, number = seen + size, number + 1
        for total, each in zip(sums, averaged, strict=True):
            total.add_(each, alpha=size)
    if not seen:
        raise ValueError("batches: is empty: must hold at least one; pass a training loader.")
    for total, each in zip(sums, averaged, strict=True):
        each.copy_(total / seen)
    for layer in layers:
        if isinstance(count := getattr(layer, _COUNT, None), Tensor):
            count.fill_(number)


@contextmanager
def _kept_if_it_fails(layers: list[Any]) -> Generator[None, None, None]:
    statistics = [getattr(layer, name) for layer, name in _places(layers)]
    before = [statistic.clone() for statistic in statistics]
    try:
        yield
    except BaseException:
        _set(statistics, before)
        raise


def _places(layers: list[Any]) -> list[tuple[Any, str]]:
    every = ((layer, name) for layer in layers for name in _STATISTICS)
    return [
        (layer, name) for layer, name in every if isinstance(getattr(layer, name, None), Tensor)
    ]


def _set(statistics: list[Tensor], values: list[Tensor]) -> None:
    for statistic, value in zip(statistics, values, strict=True):
        # Unseen by autograd, to which a backward pass that is still to come would complain.
        statistic.data.copy_(value)


def _reset(layer: Any) -> None:
    for name, value in zip(_STATISTICS, (0.0, 1.0, 0), strict=True):
        if isinstance(statistic := getattr(layer, name, None), Tensor):
            statistic.fill_(value)
