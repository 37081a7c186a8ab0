"""The U-Net of Melendez et al. (CBMS 2021), configurable in filters, channels and classes."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from spermseg.errors import ShapeError
from spermseg.model.unet_config import PAPER, UNetConfig

DOUBLED = ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0))
"""(4, 3): along one axis, the weights of a 3-kernel that each weight of the 4-kernel of `doubled_kernel` sums."""


class DoubleConvolution(nn.Sequential):
    """Two 3x3 convolutions, each with batch normalisation and ReLU.

    A residual block adds the input of the second convolution to its normalised output, before the last ReLU.
    """

    def __init__(self, in_channels: int, out_channels: int, *, residual: bool = False) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, out_channels, Y, X) of (N, in_channels, Y, X)."""
        return self._second(self[2](self[1](self[0](x))))

    def _second(self, x: Tensor) -> Tensor:
        y = self[4](self[3](x))
        last: Tensor = self[5](y + x if self.residual else y)
        return last


class DecoderLevel(DoubleConvolution):
    """A double convolution of the coarser level, doubled in size, concatenated with the skip.

    A sum of two convolutions replaces doubling, concatenation and first convolution. It takes less than half the time.
    """

    def forward(self, above: Tensor, skip: Tensor) -> Tensor:  # type: ignore[override] # two inputs, of two sizes
        """Return (N, out_channels, Y, X) of the coarser level (N, C, Y / 2, X / 2) and the skip (N, D, Y, X)."""
        first = cast("nn.Conv2d", self[0])
        kernel, channels = first.weight, above.shape[1]  # (out_channels, C + D, 3, 3); the coarser level's C come first
        x = functional.conv_transpose2d(above, doubled_kernel(kernel[:, :channels]), stride=2, padding=1)
        x = x + functional.conv2d(skip, kernel[:, channels:], first.bias, padding=1)
        return self._second(self[2](self[1](x)))


def doubled_kernel(kernel: Tensor) -> Tensor:
    """Return a transposed convolution that equals doubling in size and then a convolution.

    Doubling repeats each value, so each output of a 3 x 3 kernel sees only 2 x 2 different values. 4 products replace
    9, and the doubled picture is never stored.

    Args:
        kernel: (O, C, 3, 3).

    Returns:
        (C, O, 4, 4), for stride 2 and padding 1.
    """
    doubled = kernel.new_tensor(DOUBLED)
    return torch.einsum("ya,xb,oiab->ioyx", doubled, doubled, kernel)


class EncoderDecoder(nn.Module):
    """The order in which a U-Net's layers run. A subclass makes the layers.

    Args:
        subpixel: pixels along each axis that the first layer reads, and the last one writes, as channels.
    """

    encoder: nn.ModuleList
    bridge: nn.Module
    decoder: nn.ModuleList
    head: nn.Conv2d

    def __init__(self, subpixel: int) -> None:
        super().__init__()
        self.subpixel = subpixel
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, classes, Y, X) for a picture (N, in_channels, Y, X)."""
        x = functional.pixel_unshuffle(x, self.subpixel)
        skips = []
        for level in self.encoder:
            x = level(x)  # (N, filters, Y / 2**k, X / 2**k)
            skips.append(x)
            x = self.pool(x)
        x = self.bridge(x)  # (N, bridge, Y / 2**levels, X / 2**levels)
        for level, skip in zip(self.decoder, reversed(skips), strict=True):
            x = level(x, skip)
        return functional.pixel_shuffle(self.head(x), self.subpixel)


class UNet(EncoderDecoder):
    """Encoder, bridge, decoder with skips, and a 1x1 convolution to logits. The caller applies the sigmoid."""

    def __init__(self, config: UNetConfig = PAPER) -> None:
        super().__init__(config.subpixel)
        self.config = config
        ways = config.subpixel**2
        widths = (config.in_channels * ways, *config.filters)
        self.encoder = nn.ModuleList(
            DoubleConvolution(i, o, residual=config.residual) for i, o in zip(widths, config.filters, strict=False)
        )
        self.bridge = DoubleConvolution(config.filters[-1], config.bridge, residual=config.residual)
        below = (config.bridge, *config.filters[:0:-1])
        self.decoder = nn.ModuleList(
            DecoderLevel(up + skip, skip, residual=config.residual)
            for up, skip in zip(below, config.filters[::-1], strict=True)
        )
        self.head = nn.Conv2d(config.filters[0], len(config.classes) * ways, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, classes, Y, X) for a picture (N, in_channels, Y, X) of values 0 to 1.

        Raises:
            ShapeError: the number of channels is wrong, or a height or width does not halve evenly at each level.
        """
        self._check(x)
        return super().forward(x)

    def _check(self, x: Tensor) -> None:
        channels = self.config.in_channels
        if x.ndim != 4 or x.shape[1] != channels:
            raise ShapeError(f"got a tensor {tuple(x.shape)}; (N, {channels}, Y, X) is needed")
        self.config.check_size(*x.shape[2:])


def count_parameters(network: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters())
