r"""The lines of bSAM's algorithm as functions on lists of tensors.

For sub-batches j = 1..m, element by element ("SAM as an Optimal Relaxation of Bayes",
Moellenhoff and Khan, ICLR 2023, Algorithm 1; the names are those of ``docs/notation.md``)::

    theta_j = omega + e_j / sqrt(N s)                            sample
    g_j     = grad l_j(theta_j)
    eps_j   = rho g_j / s                                        perturb
    q_j     = grad l_j(omega + eps_j)
    g_m     = beta1 g_m + (1 - beta1) (mean_j q_j + delta omega)               update_momentum
    s       = beta2 s + (1 - beta2) (mean_j sqrt(s)|g_j| + delta + gamma)      update_precision
    omega   = omega - alpha g_m / s                                            update_mean

A function whose name is a verb changes what it names in place. A list holds one tensor for each
parameter; the loop path of the optimizer calls with lists of one. The mean may be of a narrower
dtype than the rest (bfloat16 weights); everything else has the dtype of s.
"""

from functools import partial

import torch
from torch import Tensor

from bsam import gaussian


def sample(weights: list[Tensor], noise: list[Tensor], s: list[Tensor], *, num_data: float) -> None:
    r"""Move weights from the mean to a draw: :math:`\omega + e / \sqrt{N s}`."""
    roots = gaussian.root_precisions(s, num_data)
    torch._foreach_addcdiv_(weights, noise, roots)


def perturb(weights: list[Tensor], gradients: list[Tensor], s: list[Tensor], *, rho: float) -> None:
    r"""Move weights from the mean uphill: :math:`\omega + \rho g / s`."""
    torch._foreach_addcdiv_(weights, gradients, s, rho)


def gradient_scales(gradients: list[Tensor], s: list[Tensor]) -> list[Tensor]:
    r"""Return :math:`\sqrt{s}\,|g|`, what one sub-batch says about the precision."""
    scales = list(torch._foreach_sqrt(s))
    torch._foreach_mul_(scales, torch._foreach_abs(gradients))
    return scales


def update_momentum(
    exp_avg: list[Tensor],
    gradients: list[Tensor],
    mean: list[Tensor],
    *,
    beta1: float,
    weight_decay: float,
) -> None:
    r""":math:`g_m \leftarrow \beta_1 g_m + (1-\beta_1)(q + \delta\omega)`; no bias correction."""
    wide = [m.to(g.dtype) for m, g in zip(mean, gradients, strict=True)]
    decayed = torch._foreach_add(gradients, wide, alpha=weight_decay)
    torch._foreach_lerp_(exp_avg, decayed, 1.0 - beta1)


def update_precision(
    s: list[Tensor], scales: list[Tensor], *, beta2: float, weight_decay: float, damping: float
) -> None:
    r""":math:`s \leftarrow \beta_2 s + (1-\beta_2)(\sqrt{s}|g| + \delta + \gamma)`.

    Written as a step from s towards its target, so that s cannot creep below the floor
    :math:`\delta + \gamma` by rounding, however many steps are taken.
    """
    targets = torch._foreach_add(scales, weight_decay + damping)
    torch._foreach_lerp_(s, targets, 1.0 - beta2)


def update_mean(
    mean: list[Tensor], exp_avg: list[Tensor], s: list[Tensor], *, lr: float | Tensor
) -> None:
    r""":math:`\omega \leftarrow \omega - \alpha g_m / s`."""
    if isinstance(lr, Tensor):
        steps = torch._foreach_div(exp_avg, s)
        torch._foreach_mul_(steps, lr)
        torch._foreach_sub_(mean, steps)
    else:
        torch._foreach_addcdiv_(mean, exp_avg, s, -lr)


def update(
    mean: list[Tensor],
    exp_avg: list[Tensor],
    s: list[Tensor],
    gradients: list[Tensor],
    scales: list[Tensor],
    *,
    lr: float | Tensor,
    beta1: float,
    beta2: float,
    weight_decay: float,
    damping: float,
    order: str,
) -> None:
    """The last three lines; ``order`` says which s moves the mean, the new one or the old one."""
    update_momentum(exp_avg, gradients, mean, beta1=beta1, weight_decay=weight_decay)
    precision = partial(
        update_precision, s, scales, beta2=beta2, weight_decay=weight_decay, damping=damping
    )
    weights = partial(update_mean, mean, exp_avg, s, lr=lr)
    for line in (precision, weights) if order == "precision_first" else (weights, precision):
        line()
