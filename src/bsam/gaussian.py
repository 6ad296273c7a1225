r"""The diagonal Gaussian :math:`q = N(\omega, 1/(N s))`.

This module is the only home of the factor :math:`1/\sqrt{N s}` and of all else that is made of N:
noise in training and samples in prediction both come from here.
"""

import math

import torch
from torch import Tensor

from bsam.dtypes import widest_dtype


def deviations(noise: list[Tensor], s: list[Tensor], num_data: float | Tensor) -> list[Tensor]:
    r"""Return :math:`e / \sqrt{N s}`: how far each weight lies from its mean.

    Args:
        noise: standard normal e, any shapes.
        s: posterior precision / N, same shapes, positive.
        num_data: N, positive; infinity gives zeros.

    Returns:
        New tensors of the same shapes.

    Example:
        >>> import torch
        >>> from bsam import gaussian
        >>> gaussian.deviations([torch.tensor([3.0])], [torch.tensor([0.5])], num_data=18)
        [tensor([1.])]
    """
    return list(torch._foreach_div(noise, root_precisions(s, num_data)))


def root_precisions(s: list[Tensor], num_data: float | Tensor) -> list[Tensor]:
    r"""Return :math:`\sqrt{N s}`, what noise is divided by.

    Args:
        s: posterior precision / N, any shapes, positive.
        num_data: N, positive; may be infinite.

    Example:
        >>> import torch
        >>> from bsam import gaussian
        >>> gaussian.root_precisions([torch.tensor([0.5])], num_data=18)
        [tensor([3.])]
    """
    roots = torch._foreach_mul(s, num_data)
    torch._foreach_sqrt_(roots)
    return list(roots)


def widened(num_data: float, factor: float) -> float:
    r"""Return the N at which deviations are ``factor`` times those of ``num_data``.

    Args:
        num_data: N, positive; infinity stays infinity.
        factor: positive.

    Example:
        >>> from bsam import gaussian
        >>> gaussian.widened(100.0, 2.0)
        25.0
    """
    return num_data / factor / factor


def to_draws_(noise: list[Tensor], mean: list[Tensor], precision: list[Tensor]) -> None:
    r"""Make noise, in place, into draws :math:`\omega + e / \sqrt\lambda`.

    Args:
        noise: standard normal e, any shapes.
        mean: :math:`\omega`, same shapes, of a dtype no wider.
        precision: :math:`\lambda`, same shapes, positive.

    Example:
        >>> import torch
        >>> from bsam import gaussian
        >>> noise = [torch.tensor([3.0])]
        >>> gaussian.to_draws_(noise, [torch.tensor([2.0])], [torch.tensor([9.0])])
        >>> noise
        [tensor([3.])]
    """
    torch._foreach_div_(noise, torch._foreach_sqrt(precision))
    torch._foreach_add_(noise, [m.to(e.dtype) for m, e in zip(mean, noise, strict=True)])


def precision(s: Tensor, num_data: float) -> Tensor:
    """Return the precision N s of the posterior.

    Args:
        s: posterior precision / N, any shape, positive.
        num_data: N, positive.
    """
    return s * num_data


def prior_precision(num_data: float, weight_decay: float) -> float:
    r"""Return the precision :math:`N \delta` of the prior :math:`N(0, 1/(N \delta))`.

    Args:
        num_data: N, positive.
        weight_decay: :math:`\delta`, at least 0; at 0 the prior is flat.
    """
    return num_data * weight_decay


def prior_deviation(num_data: float, weight_decay: float) -> float:
    r"""Return the standard deviation :math:`1/\sqrt{N \delta}` of the prior; infinite if flat.

    Args:
        num_data: N, positive.
        weight_decay: :math:`\delta`, at least 0.
    """
    prior = prior_precision(num_data, weight_decay)
    return 1.0 / math.sqrt(prior) if prior > 0.0 else math.inf


def log_prob(value: Tensor, mean: Tensor, precision: Tensor) -> Tensor:
    r"""Return :math:`\log N(\theta; \omega, 1/\lambda)`, summed over the elements of the mean.

    Args:
        value: :math:`\theta`, shape ``(..., *mean.shape)``.
        mean: :math:`\omega`.
        precision: :math:`\lambda`, of the mean's shape, positive.

    Returns:
        Shape (...), float64.

    Example:
        >>> import torch
        >>> from bsam import gaussian
        >>> mean, precision = torch.zeros(2), torch.ones(2)
        >>> gaussian.log_prob(torch.zeros(3, 2), mean, precision)  # log 1 / (2 pi), three times
        tensor([-1.8379, -1.8379, -1.8379], dtype=torch.float64)
    """
    value, mean, precision = _wide(value, mean, precision)
    each = (precision.log() - math.log(2.0 * math.pi) - precision * (value - mean).square()) / 2.0
    return _sum_over_elements(each, mean.dim())


def entropy(precision: Tensor) -> Tensor:
    r"""Return :math:`\sum \tfrac12 (1 + \log 2\pi - \log \lambda)` in nats, a 0-d float64 tensor.

    Args:
        precision: :math:`\lambda`, any shape, positive.

    Example:
        >>> import torch
        >>> from bsam import gaussian
        >>> gaussian.entropy(torch.ones(1))
        tensor(1.4189, dtype=torch.float64)
    """
    (precision,) = _wide(precision)
    return ((1.0 + math.log(2.0 * math.pi) - precision.log()) / 2.0).sum()


def kl_divergence(mean: Tensor, precision: Tensor, prior_precision: float) -> Tensor:
    r"""Return :math:`KL(N(\omega, 1/\lambda) \,\|\, N(0, 1/\pi))` in nats, a 0-d float64 tensor.

    .. math:: \sum \tfrac12 \left(\pi/\lambda + \pi \omega^2 - 1 - \log \pi/\lambda\right)

    Args:
        mean: :math:`\omega`, any shape.
        precision: :math:`\lambda`, of the mean's shape, positive.
        prior_precision: :math:`\pi`, positive.

    Example:
        >>> import torch
        >>> from bsam import gaussian
        >>> gaussian.kl_divergence(torch.ones(2), torch.full((2,), 4.0), prior_precision=4.0)
        tensor(4., dtype=torch.float64)
    """
    mean, precision = _wide(mean, precision)
    ratio = prior_precision / precision
    return ((ratio + prior_precision * mean.square() - 1.0 - ratio.log()) / 2.0).sum()


def _wide(*tensors: Tensor) -> list[Tensor]:
    return [tensor.to(widest_dtype(tensor.device)) for tensor in tensors]


def _sum_over_elements(values: Tensor, dims: int) -> Tensor:
    return values.flatten(values.dim() - dims).sum(-1) if dims else values
