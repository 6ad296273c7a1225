"""A network's loss as a function of its flattened parameters."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bsam import options
from bsam.naming import own_parameters, require_module, unwrapped

CHUNK = 64


class NetworkLoss:
    """The sum of a network's losses over examples, as a function of theta, shape (..., P).

    Attributes:
        mean: the parameters as they were, flattened, shape (P,), float64.
        shapes: the shape of each parameter by name, in the order of theta.
        num_data: number of examples.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[..., Tensor],
        inputs: Any,
        targets: Any,
        scale: float,
    ) -> None:
        self.model, self.loss_fn, self.scale = model, loss_fn, scale
        self.inputs, self.targets = inputs, targets
        parameters = {n: p for n, p in own_parameters(model).items() if p.requires_grad}
        self.shapes = {name: p.shape for name, p in parameters.items()}
        self.mean = torch.cat([p.detach().flatten() for p in parameters.values()])
        self.num_data = len(targets)

    def __call__(self, theta: Tensor) -> Tensor:
        """Return the sum of losses at theta (..., P), shape (...), in float64."""
        if theta.dim() == 0 or theta.shape[-1] != len(self.mean):
            raise ValueError(
                f"theta: of shape {tuple(theta.shape)}: must end in {len(self.mean)}, the "
                "number of the network's parameters; pass loss.mean or a tensor like it."
            )
        rows = theta.reshape(-1, theta.shape[-1]).to(torch.float64)
        try:
            losses = torch.vmap(self._loss, chunk_size=CHUNK)(rows)
        except (RuntimeError, NotImplementedError):  # a layer that cannot be batched, as LSTM
            losses = torch.stack([self._loss(row) for row in rows])
        return self.scale * losses.reshape(theta.shape[:-1])

    def parameters(self, theta: Tensor) -> dict[str, Tensor]:
        """Return theta (P,) as parameters by name."""
        pieces = theta.split([shape.numel() for shape in self.shapes.values()])
        named = zip(self.shapes.items(), pieces, strict=True)
        return {name: piece.reshape(shape) for (name, shape), piece in named}

    def _loss(self, theta: Tensor) -> Tensor:
        outputs = torch.func.functional_call(self.model, self.parameters(theta), (self.inputs,))
        return self.loss_fn(outputs, self.targets)


def loss_of(
    model: nn.Module,
    loss_fn: Callable[..., Tensor],
    inputs: Tensor,
    targets: Tensor,
    *,
    reduction: str = "mean",
) -> NetworkLoss:
    """Return a network's loss as a function of its parameters, for the functions of this package.

    It works on a copy in float64 and evaluation mode; the model is left as it is.

    Args:
        model: the network; its parameters that require gradients are theta.
        loss_fn: a function of outputs and targets that gives a 0-d tensor.
        inputs: all examples, shape (n, ...).
        targets: shape (n, ...).
        reduction: ``"mean"`` if loss_fn averages over examples, ``"sum"`` if it adds up. What is
            returned is the sum either way.

    Returns:
        A :class:`bsam.relaxation.networks.NetworkLoss`, a function of theta (..., P) that gives
        (...), with ``mean``, the parameters as they are, shape (P,).

    Raises:
        TypeError: if model is not a module.
        ValueError: for a reduction that is neither, or a model with nothing to train.

    Example:
        >>> import torch
        >>> from bsam import relaxation
        >>> model = torch.nn.Linear(2, 1)
        >>> inputs, targets = torch.randn(5, 2), torch.randn(5, 1)
        >>> loss = relaxation.loss_of(model, torch.nn.functional.mse_loss, inputs, targets)
        >>> loss(loss.mean).shape, len(loss.mean)
        (torch.Size([]), 3)
    """
    require_module(model)
    allowed, advice = ("mean", "sum"), "it is how loss_fn treats examples"
    options.one_of("reduction", reduction, allowed, advice=advice)
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("model: has no parameter that requires a gradient; set requires_grad.")
    double = copy.deepcopy(unwrapped(model)).to(torch.float64).eval()
    if isinstance(loss_fn, nn.Module):
        loss_fn = copy.deepcopy(loss_fn).to(torch.float64)
    inputs = inputs.to(torch.float64) if inputs.is_floating_point() else inputs
    targets = targets.to(torch.float64) if targets.is_floating_point() else targets
    return NetworkLoss(double, loss_fn, inputs, targets, len(targets) if reduction == "mean" else 1)
