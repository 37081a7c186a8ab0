"""The U-Net of Melendez et al. (CBMS 2021), configurable in filters, channels and classes."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from spermseg.errors import ShapeError
from spermseg.model.unet_config import PAPER, UNetConfig

DOUBLED = ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0))
"""Along one axis, a kernel of 3 over doubled values as one of 4 that doubles itself: which of the 3 weights meet."""


class DoubleConvolution(nn.Sequential):
    """Two 3x3 convolutions, each with batch normalisation and ReLU; a residual one adds what the second one sees."""

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
    """A double convolution of what is above, doubled in size, and of the skip beside it, in less than half the time."""

    def forward(self, above: Tensor, skip: Tensor) -> Tensor:  # type: ignore[override] # two inputs, of two sizes
        """Return (N, out_channels, Y, X) of what is above (N, C, Y / 2, X / 2) and beside (N, D, Y, X)."""
        first = cast("nn.Conv2d", self[0])
        kernel, channels = first.weight, above.shape[1]  # (out_channels, C + D, 3, 3); what comes from above is first
        x = functional.conv_transpose2d(above, doubled_kernel(kernel[:, :channels]), stride=2, padding=1)
        x = x + functional.conv2d(skip, kernel[:, channels:], first.bias, padding=1)
        return self._second(self[2](self[1](x)))


def doubled_kernel(kernel: Tensor) -> Tensor:
    """Return the transposed convolution (C, O, 4, 4), stride 2, padding 1, that is a convolution of doubled values.

    Where a picture was doubled in size, by repeating values, each output of a 3 x 3 kernel (O, C, 3, 3) sees only 2 x 2
    different ones: 4 products do what 9 did, and nothing of double size is written down.
    """
    doubled = kernel.new_tensor(DOUBLED)
    return torch.einsum("ya,xb,oiab->ioyx", doubled, doubled, kernel)


class UNet(nn.Module):
    """Encoder, bridge, decoder with skips, and a 1x1 convolution to logits; the sigmoid is the caller's."""

    def __init__(self, config: UNetConfig = PAPER) -> None:
        super().__init__()
        self.config = config
        ways = config.subpixel**2
        widths = (config.in_channels * ways, *config.filters)
        self.encoder = nn.ModuleList(
            DoubleConvolution(i, o, residual=config.residual) for i, o in zip(widths, config.filters, strict=False)
        )
        self.pool = nn.MaxPool2d(2)
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
            ShapeError: another number of channels, or a height or width that does not halve evenly at each level.
        """
        self._check(x)
        x = functional.pixel_unshuffle(x, self.config.subpixel)
        skips = []
        for level in self.encoder:
            x = level(x)  # (N, filters, Y / 2**k, X / 2**k)
            skips.append(x)
            x = self.pool(x)
        x = self.bridge(x)  # (N, bridge, Y / 2**levels, X / 2**levels)
        for level, skip in zip(self.decoder, reversed(skips), strict=True):
            x = level(x, skip)
        return functional.pixel_shuffle(self.head(x), self.config.subpixel)

    def _check(self, x: Tensor) -> None:
        channels = self.config.in_channels
        if x.ndim != 4 or x.shape[1] != channels:
            raise ShapeError(f"got a tensor {tuple(x.shape)}; (N, {channels}, Y, X) is needed")
        self.config.check_size(*x.shape[2:])


def count_parameters(network: nn.Module) -> int:
    """Return the number of learned numbers."""
    return sum(parameter.numel() for parameter in network.parameters())
