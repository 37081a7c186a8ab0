"""The examples of each step, a function of only (seed, epoch, step).

A resumed training therefore sees the same examples as an uninterrupted one. The global batch does not depend on the
number of workers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from spermseg.storage.prefetch import map_ahead, threads_ahead
from spermseg.training.config import TrainConfig
from spermseg.training.data.augment import Augmentation
from spermseg.training.data.coverage import covered
from spermseg.training.data.ignored_regions import forget_cut_off
from spermseg.training.data.superpose import FADED, superpose

Tile = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Pixels (tile, tile, 3) and their coverage (tile, tile, classes)."""
Batch = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Tiles (N, tile, tile, 3) and their coverage (N, tile, tile, classes)."""


class Batches(Protocol):
    """The batches of a training, epoch by epoch."""

    @property
    def steps(self) -> int:
        """Global batches of an epoch."""

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yield this worker's share of each global batch."""


@dataclass(frozen=True, kw_only=True, eq=False)
class WorkingExample:
    """An annotated micrograph at the working resolution."""

    pixels: NDArray[np.uint8]
    """(Y, X, 3) RGB."""
    coverage: NDArray[np.uint8]
    """(Y, X, classes), the share of each pixel that is in the class (`training.data.coverage`)."""


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Splits epochs into global batches, and each batch into the shares of the workers."""

    examples: Sequence[WorkingExample]
    tile: int
    """Side of a tile, px; larger examples are cropped at random, smaller ones are padded by mirroring."""
    scale: float
    """Resolution of the examples over the native one."""
    config: TrainConfig
    """Batch size, seed and augmentation."""
    classes: tuple[str, ...] = ()
    """The classes of the coverage."""
    rank: int = 0
    workers: int = 1

    @property
    def steps(self) -> int:
        """Global batches of an epoch. If the last one is short, it repeats the first slots of the epoch."""
        return -(-len(self.examples) * self.config.expansion // self.config.batch_size)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the slots of an epoch in random order, (steps, batch_size).

        With n examples, slot s is variant s // n of example s % n.
        """
        rng = np.random.default_rng((self.config.seed, epoch))
        slots = rng.permutation(len(self.examples) * self.config.expansion)
        # np.resize fills up from the start of the slots
        return np.resize(slots, (self.steps, self.config.batch_size))

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yield this worker's share of each global batch: tiles (N, tile, tile, 3), coverage (N, tile, tile, classes).

        A thread makes the next batch while the network trains on this one.
        """
        shares = self.order(epoch)[:, self.rank :: self.workers]
        augmentation = Augmentation(self.config.augment, self.tile)
        with threads_ahead(1) as pool:
            yield from map_ahead(pool, lambda slots: self._batch(epoch, slots, augmentation), shares, count=2)

    def _batch(self, epoch: int, slots: NDArray[np.int64], augmentation: Augmentation) -> Batch:
        pairs = [self._sample(epoch, int(slot), augmentation) for slot in slots]
        return np.stack([pixels for pixels, _ in pairs]), np.stack([coverage for _, coverage in pairs])

    def _sample(self, epoch: int, slot: int, augmentation: Augmentation) -> Tile:
        variant, index = divmod(slot, len(self.examples))
        rng = np.random.default_rng((self.config.seed, epoch, slot))
        pixels, coverage = self._variant(index, variant, rng, augmentation)
        if rng.random() < self.config.superpose:
            another = self._variant(int(rng.integers(len(self.examples))), variant, rng, augmentation)
            pixels, coverage = superpose(pixels, coverage, *another, rng.uniform(*FADED))
        return pixels, forget_cut_off(coverage, self.classes, self.scale) if self.config.ignore_cut else coverage

    def _variant(self, index: int, variant: int, rng: np.random.Generator, augmentation: Augmentation) -> Tile:
        pixels, coverage = random_tile(self.examples[index], self.tile, rng, self.config.places)
        return augmentation.variant(pixels, coverage, variant, int(rng.integers(2**31)))


def random_tile(example: WorkingExample, tile: int, rng: np.random.Generator, places: int = 1) -> Tile:
    """Return a random square of an example, padded by mirroring where the example is smaller.

    With several places, the square with the most cell pixels is returned.
    """
    short = [(0, max(0, tile - side)) for side in example.coverage.shape[:2]]
    pixels, coverage = example.pixels, example.coverage
    if any(after for _, after in short):
        pixels = np.pad(pixels, (*short, (0, 0)), mode="symmetric")
        coverage = np.pad(coverage, (*short, (0, 0)), mode="symmetric")
    corners = [[int(rng.integers(side - tile + 1)) for side in coverage.shape[:2]] for _ in range(places)]
    squares = [np.s_[y : y + tile, x : x + tile] for y, x in corners]
    square = max(squares, key=lambda one: np.count_nonzero(covered(coverage[one]))) if places > 1 else squares[0]
    return pixels[square], coverage[square]
