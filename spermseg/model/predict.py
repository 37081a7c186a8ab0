"""Decoded micrographs -> probability maps. A batch holds windows of several pictures. This module does not use Ray."""

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from spermseg.annotation.annotation import WHOLE_CELL
from spermseg.errors import ConfigError, first_line
from spermseg.micrograph.decode import Micrograph
from spermseg.micrograph.layout import Layout, Shape
from spermseg.micrograph.tiling import View, to_native
from spermseg.model.engine import EngineName, Precision, choose_device, choose_engine, choose_precision, make_engine
from spermseg.model.folded import WHITE, Gives, cell_channel
from spermseg.model.saved import SavedModel
from spermseg.model.unet_config import UNetConfig, check_knows_heads
from spermseg.storage.prefetch import map_ahead

Forward = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Tiles (N, Y, X, 3) uint8 -> maps (N, ..., Y, X) float32."""
Run = Callable[[Forward, Iterable[NDArray[np.uint8]]], Iterator[NDArray[np.float32]]]
"""Applies a network to batches, as `map` does."""
MOST_BATCH = 1000
"""Megapixels; a larger batch would not fit in memory."""
GPU_BATCHES = 2
"""Batches that a GPU has at a time, so that it does not wait while the CPU cuts windows and stitches maps."""


@dataclass(kw_only=True, eq=False)
class _Waiting:
    """A picture of which the network has not returned all windows."""

    layout: Layout
    done: int = 0
    """Windows that the network has returned."""
    whole: NDArray[np.float32] | None = None
    """The map (..., Y, X), filled core by core."""

    def take(self, tiles: NDArray[np.float32]) -> int:
        """Place those of these windows that belong to this picture; return how many."""
        taken = min(len(tiles), len(self.layout) - self.done)
        if self.whole is None and taken:
            self.whole = np.empty((*tiles.shape[1:-2], *self.layout.shape), tiles.dtype)
        for tile in tiles[:taken]:
            self.layout.place(self.done, tile, self.whole)  # type: ignore[arg-type]
            self.done += 1
        return taken


@dataclass(kw_only=True, eq=False)
class _Batch:
    """Windows of one shape that wait for the network."""

    most_px: int
    tiles: list[NDArray[np.uint8]] = field(default_factory=list)

    def fits(self, layout: Layout) -> bool:
        """Return whether windows of a layout have the shape of those that wait."""
        return not self.tiles or self.tiles[0].shape[:2] == layout.window

    @property
    def is_full(self) -> bool:
        """Whether one more window would exceed the pixels that the network may read at once."""
        return bool(self.tiles) and (len(self.tiles) + 1) * self.tiles[0][..., 0].size > self.most_px

    def take(self) -> NDArray[np.uint8]:
        """Return the windows as one array (N, Y, X, 3), and empty the batch."""
        tiles = np.stack(self.tiles)
        self.tiles.clear()
        return tiles


def predict_working(
    forward: Forward,
    layout: Callable[[Shape], Layout],
    pictures: Iterable[NDArray[np.uint8]],
    batch_px: int,
    run: Run = map,
) -> Iterator[NDArray[np.float32]]:
    """Yield the stitched maps (..., Y, X) of pictures at the working resolution, in order.

    Args:
        forward: the network.
        layout: shape of a picture -> its windows.
        pictures: (Y, X, 3) uint8, at the working resolution; read only as far ahead as a batch needs.
        batch_px: pixels that the network reads at once, from one or more pictures; at least one window.
        run: applies the network to batches, in order; it may read ahead.
    """
    waiting: deque[_Waiting] = deque()

    def batches() -> Iterator[NDArray[np.uint8]]:
        batch = _Batch(most_px=batch_px)
        for picture in pictures:
            found = layout(picture.shape[:2])
            if not batch.fits(found):
                yield batch.take()
            waiting.append(_Waiting(layout=found))
            for tile in found.split(picture):
                batch.tiles.append(tile)
                if batch.is_full:
                    yield batch.take()
        if batch.tiles:
            yield batch.take()

    for maps in run(forward, batches()):
        for one in waiting:
            maps = maps[one.take(maps) :]
        while waiting and waiting[0].done == len(waiting[0].layout):
            yield waiting.popleft().whole  # type: ignore[misc]


def window_layout(view: View, network: UNetConfig, window_px: int) -> Callable[[Shape], Layout]:
    """Return a function from the shape of a picture to its windows for a network.

    The function raises ShapeError where the network cannot read windows of that size.
    """

    def layout(shape: Shape) -> Layout:
        found = view.layout(shape, reach=network.reach, window_px=window_px, multiple=network.multiple)
        network.check_size(*found.window)
        return found

    return layout


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """How the network is run. These settings change masks only by rounding."""

    device: str = "auto"
    """`auto` (the GPU when there is one), `cpu`, `cuda`, or one of several GPUs such as `cuda:1`."""
    engine: EngineName = "auto"
    """`torch`, `openvino` (CPU only, the extra spermseg[openvino]); `auto` takes the faster one."""
    precision: Precision = "auto"
    """`float32`, `bfloat16`; `auto` is bfloat16 where the device computes fast in it and the model's masks stay the
    same."""
    batch_megapixels: float = 2.0
    """Megapixels that the network reads at once, at its working resolution."""

    def __post_init__(self) -> None:
        if not 0 < self.batch_megapixels <= MOST_BATCH:
            raise ConfigError(
                f"got a batch of {self.batch_megapixels} megapixels; more than 0 and at most {MOST_BATCH} is needed"
            )
        choose_precision(self.precision, torch.device("cpu"), None)

    @property
    def batch_px(self) -> int:
        """`batch_megapixels` in px."""
        return int(self.batch_megapixels * 1e6)

    @property
    def text(self) -> str:
        """All settings as JSON, for `read_predict_config`."""
        return json.dumps(asdict(self), sort_keys=True)


def read_predict_config(text: str) -> PredictConfig:
    """Return the config of `PredictConfig.text`.

    Raises:
        ConfigError: the text is not one of `PredictConfig.text`.
    """
    try:
        return TypeAdapter(PredictConfig).validate_json(text)
    except ValidationError as error:
        raise ConfigError(f"got settings of the network that cannot be read: {first_line(error)}") from error


class Predictor:
    """A model that is ready to run on its device.

    Args:
        saved: the model; its network is not changed.
        view: how the network sees pictures; usually the model's own.
        config: how the network is run.
        parts: whether maps have all classes, as `predict_parts` needs.
        heads: whether maps are (2, Y, X), of the whole cell and of heads.

    Raises:
        ConfigError: the machine has no such device or engine, or the network has not learned heads.
    """

    def __init__(
        self,
        saved: SavedModel,
        view: View,
        config: PredictConfig = PredictConfig(),
        *,
        parts: bool = False,
        heads: bool = False,
    ) -> None:
        self.view = view
        self.classes = saved.network.config.classes
        """The classes of the network."""
        self._cell = cell_channel(saved.network.config)
        if heads:
            check_knows_heads(self.classes)
        device = choose_device(config.device)
        self.engine = choose_engine(config.engine, device)
        self.dtype = choose_precision(config.precision, device, saved.description.mask_agreement)
        self.batch_px = config.batch_px
        self.network_s = 0.0
        """Seconds spent in the network so far."""
        self._layout = window_layout(view, saved.network.config, self.batch_px)
        gives: Gives = "parts" if parts else "cell and head" if heads else "cell"
        self._engine = make_engine(saved.network, self.engine, device, self.dtype, gives=gives)
        self._run: Run = partial(map_ahead, ThreadPoolExecutor(1), count=GPU_BATCHES) if device.type == "cuda" else map

    def predict(self, pictures: Iterable[Micrograph | NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:
        """Yield the probability map (Y, X) of the whole cell for each picture, at native resolution.

        Args:
            pictures: decoded micrographs, which may be reduced, or arrays (Y, X, 3) at native resolution.
        """
        shapes: deque[Shape] = deque()

        def working() -> Iterator[NDArray[np.uint8]]:
            for picture in pictures:
                one = Micrograph(pixels=picture) if isinstance(picture, np.ndarray) else picture
                shapes.append(one.native_shape)
                yield one.seen_by(self.view)

        for probability in self.predict_working(working()):
            yield to_native(probability, shapes.popleft())

    def predict_parts(self, picture: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return class -> probability map (Y, X) of one picture (Y, X, 3), both at the working resolution.

        The result always has the whole cell.
        """
        (maps,) = self.predict_working([picture])  # (classes, Y, X)
        cell = maps.max(axis=0) if self._cell is None else maps[self._cell]
        return {WHOLE_CELL: cell} | dict(zip(self.classes, maps, strict=True))

    def predict_working(self, pictures: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:
        """Yield the probability map (Y, X) of the whole cell for each picture (Y, X, 3) at the working resolution.

        With `heads`, a map is (2, Y, X). With `parts`, a map is (classes, Y, X).
        """
        return predict_working(self._forward, self._layout, pictures, self.batch_px, self._run)

    def _forward(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        started = time.perf_counter()
        found = self._engine(tiles)
        self.network_s += time.perf_counter() - started
        return found


def network_input(tiles: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return tiles (N, Y, X, C) uint8 as (N, C, Y, X) of 0 to 1, channels-last in memory without a copy."""
    return tiles.permute(0, 3, 1, 2).to(dtype) / WHITE
