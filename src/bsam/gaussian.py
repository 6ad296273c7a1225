r"""The diagonal Gaussian :math:`q = N(\omega, 1/(N s))`.

This module is the only home of the factor :math:`1/\sqrt{N s}`: noise in training and samples
in prediction both come from here.
"""

import torch
from torch import Tensor


def deviations(noise: list[Tensor], s: list[Tensor], num_data: float) -> list[Tensor]:
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
    scale = torch._foreach_mul(s, num_data)
    torch._foreach_sqrt_(scale)
    return list(torch._foreach_div(noise, scale))
