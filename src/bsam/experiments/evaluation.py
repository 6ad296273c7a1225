"""Predicted probabilities, at the weights and averaged over samples of the posterior."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bsam import BSAM, gaussian
from bsam.noise import standard_normal

# No step has so many sub-batches: draws for prediction are not those that the training saw, even
# where the same seed is used for both.
_PREDICTION = 2**32


@torch.no_grad()
def probabilities(model: nn.Module, images: Tensor) -> Tensor:
    """Return class probabilities, shape (n, classes), float64, at the model's weights."""
    model.eval()
    return model(images).double().softmax(1)


@torch.no_grad()
def sampled_probabilities(
    model: nn.Module, optimizer: BSAM, images: Tensor, *, num_samples: int, seed: int
) -> Tensor:
    r"""Return class probabilities averaged over weights drawn from :math:`N(\omega, 1/(N s))`.

    Args:
        model: trained with the optimizer; its weights, the mean, are left alone.
        optimizer: holds s and num_data.
        images: what to predict, shape (n, ...).
        num_samples: number of draws, at least 1.
        seed: of the draws.

    Returns:
        Shape (n, classes), float64.
    """
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=images.device)
    for weights in posterior_draws(model, optimizer, num_samples=num_samples, seed=seed):
        total = total + functional_call(model, weights, images).double().softmax(1)
    return total / num_samples


@torch.no_grad()
def posterior_draws(
    model: nn.Module, optimizer: BSAM, *, num_samples: int, seed: int
) -> Iterator[dict[str, Tensor]]:
    r"""Yield weights drawn from :math:`N(\omega, 1/(N s))`, by parameter name.

    Args:
        model: trained with the optimizer; its weights, the mean, are left alone.
        optimizer: holds s and num_data.
        num_samples: number of draws.
        seed: of the draws.
    """
    num_data = {p: group["num_data"] for group in optimizer.param_groups for p in group["params"]}
    for number in range(num_samples):
        weights, first = {}, 0
        for name, mean in model.named_parameters():
            weights[name] = mean.detach()
            if mean in optimizer.state:
                s = optimizer.state[mean]["s"]
                noise = standard_normal(
                    first,
                    mean.numel(),
                    seed=seed,
                    call=number,
                    sub_batch=_PREDICTION,
                    dtype=s.dtype,
                    device=s.device,
                )
                (deviation,) = gaussian.deviations([noise.view_as(mean)], [s], num_data[mean])
                weights[name] = weights[name] + deviation
            first += mean.numel()
        yield weights
