"""The rule that turns the maps of a network into a mask, instances, a count of heads and a confidence.

Segmentation, evaluation and calibration share this rule, so an evaluation scores exactly the masks of a table.
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
    """The mask, instances, count of heads and confidence of one picture. Each is computed on first access."""

    cell: NDArray[np.float32]
    """(Y, X), 0-1: the probability of the whole cell, at the working resolution."""
    head: NDArray[np.float32] | None
    """(Y, X), 0-1: the probability of a head, at the working resolution. `config.require_head` needs this map; without
    it the map is not used."""
    native: Shape
    """(height, width) of the picture, px."""
    config: CellConfig
    """What counts as a cell."""
    view: View
    """How the network saw the picture."""
    judge: Confidence
    """How the model predicts the Dice of its masks."""

    @classmethod
    def of(
        cls, maps: NDArray[np.float32], native: Shape, *, config: CellConfig, view: View, judge: Confidence
    ) -> "Interpretation":
        """Return the interpretation of a predictor's maps.

        The maps are (2, Y, X), of cells and heads, where `config.require_head`, else (Y, X), of cells.
        """
        cell, head = maps if config.require_head else (maps, None)
        return cls(cell=cell, head=head, native=native, config=config, view=view, judge=judge)

    @cached_property
    def dropped(self) -> NDArray[np.bool_] | None:
        """(Y, X) at the working resolution: the components without a head; None where heads are not required."""
        if not self.config.require_head or self.head is None:
            return None
        return headless(self.cell, self.head, self.config.threshold, self.view.scale)

    def without_dropped(self, probability: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a map (Y, X) at the working resolution, set to 0 in the components without a head."""
        return probability if self.dropped is None else np.where(self.dropped, np.float32(0), probability)

    @cached_property
    def working(self) -> NDArray[np.float32]:
        """(Y, X), 0-1: the probability of the whole cell at the working resolution; 0 in dropped components."""
        return self.without_dropped(self.cell)

    @cached_property
    def probability(self) -> NDArray[np.float32]:
        """(Y, X), 0-1: `working` at native resolution."""
        return to_native(self.working, self.native)

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """(Y, X) labels of the instances at native resolution, 0 is background."""
        return label_cells(self.probability >= self.config.threshold, self.config.min_area)

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """(Y, X) mask of all cells at native resolution."""
        return self.labels > 0

    @cached_property
    def confidence(self) -> float:
        """The Dice that the model expects, 0-1. It is computed from `cell`, before any component is dropped."""
        return self.judge.judge(self.cell, self.config.threshold)

    @cached_property
    def n_heads(self) -> int | None:
        """Number of heads of the cells; None where heads are not required."""
        if self.dropped is None or self.head is None:
            return None
        shown = np.where(self.view.working_coverage(self.mask) > 0, self.working, np.float32(0))
        return count_heads(shown, self.head, self.config.threshold, self.view.scale)
