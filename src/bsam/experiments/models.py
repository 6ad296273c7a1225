"""Networks that the experiments train."""

from collections.abc import Sequence

from torch import Tensor, nn


def mlp(inputs: int, hidden: int, classes: int) -> nn.Sequential:
    """Return a network with one hidden layer of ReLU units, over flattened images."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes)
    )


def resnet(
    channels: int, classes: int, *, widths: Sequence[int] = (8, 16, 32), stem_stride: int = 1
) -> nn.Sequential:
    """Return a small residual network with BatchNorm: one basic block for each width.

    Images lose half their side from each block to the next. With the widths given it has about
    20,000 parameters.

    Args:
        channels: of the images: 1, also for images of shape (n, height, width), or 3.
        classes: number of logits.
        widths: channels of the blocks; the first are also those of the convolution before them.
        stem_stride: of that convolution; 2 makes everything after it four times cheaper.
    """
    before = (widths[0], *widths)
    blocks = [
        _Block(inputs, width, stride=2 if number else 1)
        for number, (inputs, width) in enumerate(zip(before, widths, strict=False))
    ]
    return nn.Sequential(
        _WithChannels(),
        _convolution(channels, widths[0], stem_stride),
        nn.ReLU(),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(widths[-1], classes),
    )


class _WithChannels(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.unsqueeze(1) if images.dim() == 3 else images


class _Block(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _convolution(inputs, width, stride), nn.ReLU(), _convolution(width, width, 1)
        )
        same = inputs == width and stride == 1
        self.shortcut = nn.Identity() if same else _convolution(inputs, width, stride, size=1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.residual(x) + self.shortcut(x)).relu()


def _convolution(inputs: int, outputs: int, stride: int, size: int = 3) -> nn.Sequential:
    """A convolution and its BatchNorm, which makes a bias superfluous."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )
