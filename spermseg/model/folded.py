"""The network as it is run: the same logits by less arithmetic.

What is folded away: the division of the input by 255 and every batch normalisation go into the weights of the
convolution beside them; what a residual level adds is a 1 in the middle of a kernel; and where a decoder level
convolves what was just doubled in size, each output sees only 2 x 2 different values, so that a transposed convolution
of 4 x 4 does in 4 products what the 3 x 3 one does in 9.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from spermseg.annotation.annotation import HEAD, WHOLE_CELL
from spermseg.model.unet import DoubleConvolution, UNet, doubled_kernel
from spermseg.model.unet_config import UNetConfig

WHITE = 255
"""The largest value of a pixel."""
Gives = Literal["cell", "cell and head", "parts"]
"""What is asked of a network: the cell, (N, Y, X); with its head, (N, 2, Y, X); or all classes, (N, classes, Y, X)."""


class CellProbability(nn.Module):
    """Tiles -> how probable it is that a pixel is a cell's, by a network that is run and not trained.

    Where the whole cell is none of the classes, they are its parts, and its probability is the largest of theirs.

    Args:
        network: as it was trained; it stays as it is.
        half: whether it is to run in bfloat16.
        gives: of what it is to give the probability.
    """

    def __init__(self, network: UNet, *, half: bool = False, gives: Gives = "cell") -> None:
        super().__init__()
        self.channels = network.config.in_channels
        self._cell = cell_channel(network.config)
        self._gives = gives
        self._head = network.config.classes.index(HEAD) if gives == "cell and head" else None
        self.network = FoldedUNet(network)
        if half:
            first = self.network.encoder[0]
            first[0] = _PixelConvolution(first[0])  # type: ignore[index, operator]

    def forward(self, tiles: Tensor) -> Tensor:
        """Return probabilities (N, ..., Y, X) float32 of tiles (N, Y, X, C) uint8."""
        x = tiles.permute(0, 3, 1, 2).to(self.network.head.weight.dtype)  # channels-last in memory, without a copy
        probability = torch.sigmoid(self.network(x).float())
        if self._gives == "parts":
            return probability
        cell = probability.amax(dim=1) if self._cell is None else probability[:, self._cell]
        return cell if self._head is None else torch.stack([cell, probability[:, self._head]], dim=1)


def cell_channel(config: UNetConfig) -> int | None:
    """Return which class is the whole cell; None where it is none of them."""
    return config.classes.index(WHOLE_CELL) if WHOLE_CELL in config.classes else None


class FoldedUNet(nn.Module):
    """A copy of a network without batch normalisation, for pixel values of 0 to 255."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        config = network.config
        self.subpixel = config.subpixel
        levels = [_folded(level) for level in network.encoder]
        levels[0] = _scaled(levels[0], 1 / WHITE)
        self.encoder = nn.ModuleList(_with_relu(level) for level in levels)
        self.pool = nn.MaxPool2d(2)
        self.bridge = _with_relu(_folded(network.bridge))
        below = (config.bridge, *config.filters[:0:-1])
        self.decoder = nn.ModuleList(
            _FoldedLevel(_folded(level), up) for level, up in zip(network.decoder, below, strict=True)
        )
        self.head = _copy(network.head)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, classes, Y, X) of pixels (N, C, Y, X), 0 to 255."""
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


class _PixelConvolution(nn.Conv2d):
    """A convolution of pixels in bfloat16, each of its weights, and its bias, the sum of a number and a remainder.

    A bright field is a large number that is the same in all pixels, and the bias takes most of it away again. What
    rounding does to either does not average out, and this one layer would make most of the difference between half and
    full precision.
    """

    def __init__(self, exact: nn.Conv2d) -> None:
        super().__init__(2 * exact.in_channels + 1, exact.out_channels, kernel_size=3, padding=1)
        weight, bias = exact.weight.data, cast("Tensor", exact.bias).data
        high, bias_high = weight.bfloat16().float(), bias.bfloat16().float()
        rest = torch.zeros(exact.out_channels, 1, 3, 3)
        rest[:, 0, 1, 1] = bias - bias_high
        self.weight.data = torch.cat([high, weight - high, rest], dim=1)
        cast("Tensor", self.bias).data = bias_high
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the exact convolution gives, of (N, C, Y, X)."""
        return super().forward(torch.cat([x, x, torch.ones_like(x[:, :1])], dim=1))


class _FoldedLevel(nn.Module):
    """A level of the decoder: doubling, concatenation and first convolution as a sum of two convolutions."""

    def __init__(self, convolutions: Sequence[nn.Conv2d], above: int) -> None:
        super().__init__()
        first, second = convolutions
        kernel = first.weight.detach()  # (outputs, above + skip, 3, 3); what comes from above is first
        outputs, inputs = kernel.shape[:2]
        self.up = nn.ConvTranspose2d(above, outputs, kernel_size=4, stride=2, padding=1, bias=False)
        self.up.weight.data = doubled_kernel(kernel[:, :above])
        self.skip = nn.Conv2d(inputs - above, outputs, kernel_size=3, padding=1)
        self.skip.weight.data = kernel[:, above:].clone()
        self.skip.bias = first.bias
        self.rest = nn.Sequential(nn.ReLU(), second, nn.ReLU())

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return (N, skip's channels, Y, X) of what is above (N, above, Y / 2, X / 2) and beside it."""
        done: Tensor = self.rest(self.up(x) + self.skip(skip))
        return done


def _folded(block: nn.Module) -> list[nn.Conv2d]:
    """Return copies of a block's convolutions, with what is behind them folded in: normalisation, and what is added."""
    if not isinstance(block, DoubleConvolution):
        raise TypeError(f"got a {type(block).__name__}; a DoubleConvolution is needed")
    first, second = (
        fuse_conv_bn_eval(layer, norm)
        for layer, norm in pairwise(block)
        if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    )
    if block.residual:
        second.weight.data[:, :, 1, 1] += torch.eye(second.out_channels)
    return [first, second]


def _scaled(convolutions: list[nn.Conv2d], factor: float) -> list[nn.Conv2d]:
    """Let the first convolution take inputs that are larger by 1 / factor."""
    convolutions[0].weight.data = convolutions[0].weight.data * factor
    return convolutions


def _with_relu(convolutions: list[nn.Conv2d]) -> nn.Sequential:
    first, second = convolutions
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())


def _copy(head: nn.Conv2d) -> nn.Conv2d:
    copy = nn.Conv2d(head.in_channels, head.out_channels, kernel_size=1)
    copy.load_state_dict(head.state_dict())
    return copy
