"""Networks that whole steps are timed on, as the authors of the method used them.

An MLP 784-500-300-10 with ELU; ResNet-20 with filter response normalization (FRN, Singh and
Krishnan, CVPR 2020) and no other activation than its threshold; a ResNet-18 with BatchNorm and
the 3x3 first convolution of CIFAR. Images are (n, 3, 32, 32), for the MLP (n, 1, 28, 28).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-6  # under FRN's root, fixed: only maps of one pixel need it learned


def mlp() -> nn.Sequential:
    """Return 784-500-300-10 with ELU: 545,810 weights in 6 tensors."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 500),
        nn.ELU(),
        nn.Linear(500, 300),
        nn.ELU(),
        nn.Linear(300, 10),
    )


def resnet20_frn() -> nn.Sequential:
    """Return widths 16, 32 and 64, three blocks each: 273,754 weights in 101 tensors.

    Convolutions have biases and He's initial weights; where a block changes the shape, a 1x1
    convolution takes the shortcut there.
    """
    layers: list[nn.Module] = [_convolution(3, 16), FilterResponseNorm(16)]
    inputs = 16
    for width in (16, 32, 64):
        for number in range(3):
            layers.append(_FrnBlock(inputs, width, stride=2 if number == 0 and width > 16 else 1))
            inputs = width
    return nn.Sequential(*layers, nn.AvgPool2d(8), nn.Flatten(), nn.Linear(64, 10))


def resnet18() -> nn.Sequential:
    """Return widths 64 to 512, two blocks each: 11,173,962 weights in 62 tensors."""
    layers: list[nn.Module] = [_normalized(3, 64), nn.ReLU()]
    inputs = 64
    for width in (64, 128, 256, 512):
        for number in range(2):
            layers.append(_BatchNormBlock(inputs, width, 2 if number == 0 and width > 64 else 1))
            inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


class FilterResponseNorm(nn.Module):
    r"""FRN and its threshold: :math:`\max(\gamma x / \sqrt{\nu^2 + \epsilon} + \beta, \tau)`.

    :math:`\nu^2` is the mean of :math:`x^2` over a map's pixels. It is written with a ReLU, as
    ``relu(y - tau) + tau``: the backward pass of ``torch.maximum`` costs a CPU four times as much.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))
        self.threshold = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize maps of shape (n, channels, height, width), in float32 inside autocast."""
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        power = wide.square().mean((2, 3), keepdim=True)
        factor = torch.rsqrt(power + EPSILON) * self.scale
        above = torch.addcmul(self.shift - self.threshold, wide, factor).relu()
        return (above + self.threshold).to(x.dtype)


class _FrnBlock(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _convolution(inputs, width, stride),
            FilterResponseNorm(width),
            _convolution(width, width),
            FilterResponseNorm(width),
        )
        same = inputs == width and stride == 1
        self.shortcut = nn.Identity() if same else _convolution(inputs, width, stride, size=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + self.shortcut(x)


class _BatchNormBlock(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _normalized(inputs, width, stride), nn.ReLU(), _normalized(width, width)
        )
        same = inputs == width and stride == 1
        self.shortcut = nn.Identity() if same else _normalized(inputs, width, stride, size=1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.residual(x) + self.shortcut(x))


def _convolution(inputs: int, outputs: int, stride: int = 1, size: int = 3) -> nn.Conv2d:
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    nn.init.zeros_(convolution.bias)
    return convolution


def _normalized(inputs: int, outputs: int, stride: int = 1, size: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


NETWORKS = {"MLP": mlp, "ResNet-20-FRN": resnet20_frn, "ResNet-18": resnet18}


def images(network: str, count: int, side: int = 32) -> Tensor:
    """Return random images for a network, the same every time.

    Args:
        network: key of ``NETWORKS``.
        count: how many.
        side: of the square images; the MLP's are always 28 x 28.
    """
    shape = (count, 1, 28, 28) if network == "MLP" else (count, 3, side, side)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def labels(count: int) -> Tensor:
    """Return random labels of ten classes, the same every time."""
    return torch.randint(10, (count,), generator=torch.Generator().manual_seed(2))
