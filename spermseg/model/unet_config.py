"""The shape of a network and of its weights. This module does not import PyTorch, which takes seconds."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from spermseg.annotation.annotation import HEAD
from spermseg.errors import ConfigError, ShapeError

MAX_LEVELS = 8
"""With more levels, pooling would leave nothing of a tile."""
MAX_FILTERS = 4096
MAX_SUBPIXEL = 8
MAX_CLASSES = 32
FLOAT, COUNT = "torch.float32", "torch.int64"
Named = Iterator[tuple[str, tuple[str, tuple[int, ...]]]]
Layout = dict[str, tuple[str, tuple[int, ...]]]
"""Name of a tensor -> its type, as PyTorch calls it, and its shape."""


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The network's shape. The defaults are the paper's: 412,865 parameters."""

    filters: tuple[int, ...] = (16, 32, 48, 64)
    """Filters of each encoder level, from the finest to the coarsest; the decoder has the same, reversed."""
    bridge: int = 64
    """Filters of the bridge, at 1 / 2**levels of the resolution."""
    in_channels: int = 3
    """Channels of the input; 3 for RGB."""
    classes: tuple[str, ...] = ("cell",)
    """One output channel a class, in this order."""
    residual: bool = False
    """Whether the second convolution of each level has a residual connection (He et al., CVPR 2016)."""
    subpixel: int = 1
    """Pixels along each axis that go in, and come out, as channels of one pixel (Shi et al., CVPR 2016). With 2, every
    level works at half of its resolution."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.filters) <= MAX_LEVELS:
            raise ConfigError(f"got {len(self.filters)} levels of filters; 1 to {MAX_LEVELS} are needed")
        widths = (*self.filters, self.bridge, self.in_channels)
        if not 1 <= min(widths) <= max(widths) <= MAX_FILTERS:
            raise ConfigError(
                f"got filters {self.filters}, bridge {self.bridge}, in_channels {self.in_channels}; "
                f"1 to {MAX_FILTERS} of each is needed"
            )
        if not 1 <= self.subpixel <= MAX_SUBPIXEL:
            raise ConfigError(f"got subpixel {self.subpixel}; 1 to {MAX_SUBPIXEL} is needed")
        if not 1 <= len(self.classes) <= MAX_CLASSES or len(set(self.classes)) != len(self.classes):
            named = f" ({', '.join(map(str, self.classes))})" if 0 < len(self.classes) <= MAX_CLASSES else ""
            raise ConfigError(f"got {len(self.classes)} classes{named}; 1 to {MAX_CLASSES} different ones are needed")

    @property
    def multiple(self) -> int:
        """Height and width of the input must be multiples of this, px."""
        return int(self.subpixel * 2 ** len(self.filters))

    @property
    def reach(self) -> int:
        """Greatest distance, along either axis, of a pixel that influences the logits of another one, px.

        In pixels of the finest level, with B = 2**levels: the convolutions reach 6 B - 4, and pooling joins blocks of
        B, which adds B - 1. With `subpixel` s, each of these pixels is s px wide, and the pixels that share it add
        s - 1.

        >>> UNetConfig().reach
        107
        """
        return 7 * self.multiple - 4 * self.subpixel - 1

    @property
    def layout(self) -> Layout:
        """Name, type and shape of every weight of a `UNet`."""
        ways = self.subpixel**2
        levels = pairwise((self.in_channels * ways, *self.filters))
        blocks = {f"encoder.{number}": widths for number, widths in enumerate(levels)}
        blocks["bridge"] = (self.filters[-1], self.bridge)
        for number, (above, skip) in enumerate(pairwise((self.bridge, *self.filters[::-1]))):
            blocks[f"decoder.{number}"] = (above + skip, skip)
        weights = dict(_convolution("head", self.filters[0], len(self.classes) * ways, 1))
        for name, widths in blocks.items():
            weights.update(_double_convolution(name, *widths))
        return weights

    @property
    def bytes_a_pixel(self) -> float:
        """Memory a pixel of the input: the widest level before and after a convolution, and the logits, in float32.

        >>> UNetConfig().bytes_a_pixel
        132.0
        """
        sides = (self.subpixel * 2.0**level for level in range(len(self.filters)))
        widest = max(width / side**2 for width, side in zip(self.filters, sides, strict=True))
        return 4 * (2 * widest + len(self.classes))

    def check_size(self, height: int, width: int) -> None:
        """Raise ShapeError for a height or width that does not halve evenly at each level."""
        if height % self.multiple or width % self.multiple or not height * width:
            up = tuple(max(1, -(-side // self.multiple)) * self.multiple for side in (height, width))
            raise ShapeError(
                f"got {height} x {width} px; multiples of {self.multiple} are needed, for example {up[0]} x {up[1]}"
            )


PAPER = UNetConfig()
"""The network of Melendez et al., CBMS 2021."""


def _double_convolution(name: str, in_channels: int, out_channels: int) -> Named:
    for place, channels in ((0, in_channels), (3, out_channels)):
        yield from _convolution(f"{name}.{place}", channels, out_channels, 3)
        for part in ("weight", "bias", "running_mean", "running_var"):
            yield f"{name}.{place + 1}.{part}", (FLOAT, (out_channels,))
        yield f"{name}.{place + 1}.num_batches_tracked", (COUNT, ())


def _convolution(name: str, in_channels: int, out_channels: int, side: int) -> Named:
    yield f"{name}.weight", (FLOAT, (out_channels, in_channels, side, side))
    yield f"{name}.bias", (FLOAT, (out_channels,))


def check_knows_heads(classes: Iterable[str]) -> None:
    """Raise ConfigError where a network has not learned the class of heads."""
    if HEAD not in classes:
        raise ConfigError(
            f"got a network that has learned {', '.join(classes)}; "
            f"dropping components without a head needs the class {HEAD}"
        )
