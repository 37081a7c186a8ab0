"""The network for inference: the same logits by less arithmetic.

Three things are folded into the weights of the neighbouring convolutions. The first is the division of the input by 255
and every batch normalisation. The second is a residual connection, which becomes a 1 in the middle of a kernel. The
third is the doubling in size of a decoder level, which becomes a transposed convolution (`unet.doubled_kernel`).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from spermseg.annotation.annotation import HEAD, WHOLE_CELL
from spermseg.model.unet import DoubleConvolution, EncoderDecoder, UNet, doubled_kernel
from spermseg.model.unet_config import UNetConfig

WHITE = 255
"""The largest value of a pixel."""
Gives = Literal["cell", "cell and head", "parts"]
"""The maps that a network returns: the cell, (N, Y, X); the cell and its head, (N, 2, Y, X); all classes,
(N, classes, Y, X)."""


class CellProbability(nn.Module):
    """Tiles -> the probability that a pixel belongs to a cell. This network runs and does not learn.

    Where the whole cell is not one of the classes, the classes are its parts. The probability of the cell is then the
    largest of theirs.

    Args:
        network: the trained network; it is not changed.
        half: whether the network will run in bfloat16.
        gives: the maps to return.
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
    """Return the index of the class of the whole cell; None where there is no such class."""
    return config.classes.index(WHOLE_CELL) if WHOLE_CELL in config.classes else None


class FoldedUNet(EncoderDecoder):
    """A copy of a network without batch normalisation, for pixel values of 0 to 255."""

    def __init__(self, network: UNet) -> None:
        config = network.config
        super().__init__(config.subpixel)
        levels = [_folded(level) for level in network.encoder]
        levels[0] = _scaled(levels[0], 1 / WHITE)
        self.encoder = nn.ModuleList(_with_relu(level) for level in levels)
        self.bridge = _with_relu(_folded(network.bridge))
        below = (config.bridge, *config.filters[:0:-1])
        self.decoder = nn.ModuleList(
            _FoldedLevel(_folded(level), up) for level, up in zip(network.decoder, below, strict=True)
        )
        self.head = _copy(network.head)
        self.eval().requires_grad_(False)


class _PixelConvolution(nn.Conv2d):
    """A convolution of pixels in bfloat16. Each weight, and the bias, is the sum of a rounded number and a remainder.

    The bright background has the same large value in all pixels, and the bias subtracts most of it again. Rounding
    errors of the two do not average out. Without the remainders, this layer alone would cause most of the difference
    between half and full precision.
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
        """Return the output of the exact convolution for (N, C, Y, X)."""
        return super().forward(torch.cat([x, x, torch.ones_like(x[:, :1])], dim=1))


class _FoldedLevel(nn.Module):
    """A level of the decoder: doubling, concatenation and first convolution as a sum of two convolutions."""

    def __init__(self, convolutions: Sequence[nn.Conv2d], above: int) -> None:
        super().__init__()
        first, second = convolutions
        kernel = first.weight.detach()  # (outputs, above + skip, 3, 3); the channels of the coarser level come first
        outputs, inputs = kernel.shape[:2]
        self.up = nn.ConvTranspose2d(above, outputs, kernel_size=4, stride=2, padding=1, bias=False)
        self.up.weight.data = doubled_kernel(kernel[:, :above])
        self.skip = nn.Conv2d(inputs - above, outputs, kernel_size=3, padding=1)
        self.skip.weight.data = kernel[:, above:].clone()
        self.skip.bias = first.bias
        self.rest = nn.Sequential(nn.ReLU(), second, nn.ReLU())

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return (N, outputs, Y, X) of the coarser level (N, above, Y / 2, X / 2) and the skip (N, channels, Y, X)."""
        done: Tensor = self.rest(self.up(x) + self.skip(skip))
        return done


def _folded(block: nn.Module) -> list[nn.Conv2d]:
    """Return copies of a block's convolutions, with batch normalisation and residual connection folded in."""
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
    """Scale the weights of the first convolution, for inputs that are larger by 1 / factor."""
    convolutions[0].weight.data = convolutions[0].weight.data * factor
    return convolutions


def _with_relu(convolutions: list[nn.Conv2d]) -> nn.Sequential:
    first, second = convolutions
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())


def _copy(head: nn.Conv2d) -> nn.Conv2d:
    copy = nn.Conv2d(head.in_channels, head.out_channels, kernel_size=1)
    copy.load_state_dict(head.state_dict())
    return copy
