"""The one rule by which the maps of a network become a mask, instances, a count of heads and a confidence.

The night, the evaluation and the calibration all go by it: so what is measured is what a table holds.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from spermseg.cells.confidence import Confidence
from spermseg.cells.heads import count_heads, headless
from spermseg.cells.instances import CellConfig, label_cells
from spermseg.micrograph.layout import Shape
from spermseg.micrograph.tiling import View, to_native


@dataclass(frozen=True, kw_only=True, eq=False)
class Interpretation:
    """What the maps of one picture say; each figure is computed when it is first asked for."""

    cell: NDArray[np.float32]
    """(Y, X), 0-1: the probability of the whole cell, at the working resolution."""
    head: NDArray[np.float32] | None
    """(Y, X), 0-1: that of a head. It is used where `config.require_head`, and needed there."""
    native: Shape
    """(height, width) of the picture, px."""
    config: CellConfig
    """What counts as a cell."""
    view: View
    """How the network saw the picture."""
    judge: Confidence
    """How the model judges its masks."""

    @classmethod
    def of(
        cls, maps: NDArray[np.float32], native: Shape, *, config: CellConfig, view: View, judge: Confidence
    ) -> "Interpretation":
        """Return what a predictor's map says: (Y, X) of the cell or, where heads are needed, (2, Y, X) with theirs."""
        cell, head = maps if config.require_head else (maps, None)
        return cls(cell=cell, head=head, native=native, config=config, view=view, judge=judge)

    @cached_property
    def dropped(self) -> NDArray[np.bool_] | None:
        """(Y, X) at the working resolution: where cells without a head are; None where heads are not looked for."""
        if not self.config.require_head or self.head is None:
            return None
        return headless(self.cell, self.head, self.config.threshold, self.view.scale)

    def without_dropped(self, probability: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a map (Y, X) at the working resolution that is 0 where cells without a head are."""
        return probability if self.dropped is None else np.where(self.dropped, np.float32(0), probability)

    @cached_property
    def working(self) -> NDArray[np.float32]:
        """(Y, X), 0-1: the probability of the whole cell at the working resolution, less what is dropped."""
        return self.without_dropped(self.cell)

    @cached_property
    def probability(self) -> NDArray[np.float32]:
        """(Y, X), 0-1: the same at native resolution."""
        return to_native(self.working, self.native)

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """(Y, X) instances at native resolution, 0 is background."""
        return label_cells(self.probability >= self.config.threshold, self.config.min_area)

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """(Y, X) at native resolution: where there are cells."""
        return self.labels > 0

    @cached_property
    def confidence(self) -> float:
        """Dice, 0-1, that the model expects of its mask."""
        return self.judge.judge(self.cell, self.config.threshold)

    @cached_property
    def n_heads(self) -> int | None:
        """Heads of the cells; None where heads are not looked for."""
        if self.dropped is None or self.head is None:
            return None
        shown = np.where(self.view.working_coverage(self.mask) > 0, self.working, np.float32(0))
        return count_heads(shown, self.head, self.config.threshold, self.view.scale)
