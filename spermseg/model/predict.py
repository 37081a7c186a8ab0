"""Decoded micrographs -> probability maps, tiles of many pictures sharing full batches. No Ray."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from spermseg.errors import ConfigError
from spermseg.micrograph.decode import Micrograph
from spermseg.micrograph.tiling import View, resize, to_native
from spermseg.model.saved import SavedModel
from spermseg.model.unet import DoubleConvolution, UNet

Forward = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Tiles (N, tile, tile, 3) uint8 -> maps (N, classes, tile, tile) float32."""
Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(kw_only=True, eq=False)
class _Waiting:
    """A picture whose tiles are under way."""

    shape: tuple[int, int]
    tiles: int
    maps: list[NDArray[np.float32]] = field(default_factory=list)


def predict_working(
    forward: Forward, view: View, pictures: Iterable[NDArray[np.uint8]], batch_size: int
) -> Iterator[NDArray[np.float32]]:
    """Yield the stitched maps (classes, Y, X) of pictures at the working resolution, in order.

    Args:
        forward: the network.
        view: how the pictures are split and stitched.
        pictures: (Y, X, 3) uint8, at the working resolution; read only as far ahead as a batch needs.
        batch_size: tiles that the network reads at once, from as many pictures as it takes.

    Raises:
        ShapeError: the tiles are of a size that the network cannot read.
    """
    waiting: deque[_Waiting] = deque()
    queue: list[NDArray[np.uint8]] = []
    for picture in pictures:
        tiles = view.split(picture)
        waiting.append(_Waiting(shape=(picture.shape[0], picture.shape[1]), tiles=len(tiles)))
        queue.extend(tiles)
        while len(queue) >= batch_size:
            _deliver(forward(np.stack(queue[:batch_size])), waiting)
            del queue[:batch_size]
            yield from _finished(waiting, view)
    if queue:
        _deliver(forward(np.stack(queue)), waiting)
    yield from _finished(waiting, view)


def _deliver(maps: NDArray[np.float32], waiting: Iterable[_Waiting]) -> None:
    """Hand each map to the first picture that still lacks one."""
    start = 0
    for picture in waiting:
        missing = picture.tiles - len(picture.maps)
        picture.maps.extend(maps[start : start + missing])
        start += missing


def _finished(waiting: deque[_Waiting], view: View) -> Iterator[NDArray[np.float32]]:
    while waiting and len(waiting[0].maps) == waiting[0].tiles:
        done = waiting.popleft()
        maps = np.stack(done.maps, axis=1)  # (classes, tiles, tile, tile)
        yield np.stack([view.stitch(of_class, done.shape) for of_class in maps])


def choose_device(device: str = "auto") -> torch.device:
    """Return the device: `auto` is the GPU when there is one.

    Raises:
        ConfigError: no such device, or a GPU was asked for and there is none.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    known = ["cpu", *(["cuda"] if gpus else []), *(f"cuda:{number}" for number in range(gpus))]
    if device == "auto":
        return torch.device("cuda" if gpus else "cpu")
    if device not in known:
        raise ConfigError(f"got device {device!r}, but PyTorch sees only {', '.join(known)} here; give one, or `auto`")
    return torch.device(device)


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """How the network is run. None of it changes a probability by more than rounding."""

    device: str = "auto"
    """`auto` (the GPU when there is one), `cpu`, `cuda`, or one of several GPUs such as `cuda:1`."""
    batch_size: int = 16
    """Tiles that the network reads at once."""
    precision: Precision = "auto"
    """`auto` is bfloat16 on a GPU and float32 on a CPU."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"got batch size {self.batch_size}; 1 or more is needed")
        if self.precision not in get_args(Precision):
            raise ConfigError(f"got precision {self.precision!r}; one of {', '.join(get_args(Precision))} is needed")


class Predictor:
    """A model made ready to run: batch norm folded, channels-last, on its device.

    Args:
        saved: the model; its network stays as it is.
        view: how pictures are split and stitched; usually the model's own.
        config: how the network is run.
    """

    def __init__(self, saved: SavedModel, view: View, config: PredictConfig = PredictConfig()) -> None:
        self.view = view
        self.device = choose_device(config.device)
        self.batch_size = config.batch_size
        on_gpu = self.device.type == "cuda"
        wants_half = config.precision == "bfloat16" or (config.precision == "auto" and on_gpu)
        self.dtype = torch.bfloat16 if wants_half else torch.float32
        self.network = (
            fold_batch_norm(saved.network).to(self.device, self.dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        )

    def predict(self, pictures: Iterable[Micrograph | NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:
        """Yield the probability map (Y, X) of the whole cell for each picture, at native resolution.

        Several classes are parts of the cell: the cell's probability is the largest of theirs.

        Args:
            pictures: as decoded, reduced ones among them, or whole ones (Y, X, 3).
        """
        shapes: deque[tuple[int, int]] = deque()

        def working() -> Iterator[NDArray[np.uint8]]:
            for picture in pictures:
                one = Micrograph(pixels=picture) if isinstance(picture, np.ndarray) else picture
                shapes.append(one.native_shape)
                yield resize(one.pixels, self.view.working_shape(one.native_shape))

        for maps in predict_working(self._forward, self.view, working(), self.batch_size):
            yield to_native(maps.max(axis=0), shapes.popleft())

    def predict_at_working(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probability map (Y, X) of the whole cell at the working resolution of one picture (Y, X, 3)."""
        working = self.view.working_pixels(picture)
        (maps,) = predict_working(self._forward, self.view, [working], self.batch_size)
        return np.asarray(maps.max(axis=0), np.float32)

    @torch.inference_mode()
    def _forward(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        x = network_input(torch.from_numpy(tiles).to(self.device), self.dtype)
        probability: NDArray[np.float32] = torch.sigmoid(self.network(x).float()).cpu().numpy()
        return probability


def network_input(tiles: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return tiles (N, Y, X, C) uint8 as (N, C, Y, X) of 0 to 1, channels-last in memory without a copy."""
    return tiles.permute(0, 3, 1, 2).to(dtype) / 255


def fold_batch_norm(network: UNet) -> UNet:
    """Return a copy of the network for inference, each batch normalisation folded into the convolution before it."""
    folded = UNet(network.config).eval()
    folded.load_state_dict(network.state_dict())
    for block in folded.modules():
        if isinstance(block, DoubleConvolution):
            for i, (layer, norm) in enumerate(pairwise(block)):
                if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    block[i], block[i + 1] = fuse_conv_bn_eval(layer, norm), nn.Identity()
    return folded.requires_grad_(False)
