"""The one rule by which the maps of a network become a mask, instances, a count of heads and a confidence.

The night, the evaluation and the calibration all call it: so what is measured is what a table holds.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spermseg.cells.confidence import Confidence
from spermseg.cells.heads import count_heads, headless
from spermseg.cells.instances import CellConfig, label_cells
from spermseg.micrograph.layout import Shape
from spermseg.micrograph.tiling import View, to_native


@dataclass(frozen=True, kw_only=True, eq=False)
class Interpretation:
    """What the maps of one picture say."""

    working: NDArray[np.float32]
    """(Y, X), 0-1: the probability of the whole cell at the working resolution; 0 where a cell without a head was."""
    probability: NDArray[np.float32]
    """(Y, X), 0-1: the same at native resolution."""
    labels: NDArray[np.int32]
    """(Y, X) instances at native resolution, 0 is background."""
    confidence: float
    """Dice, 0-1, that the model expects of its mask."""
    n_heads: int | None
    """Heads of the cells; None where heads are not looked for."""
    dropped: NDArray[np.bool_] | None
    """(Y, X) at the working resolution: where cells without a head were; None where heads are not looked for."""

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(Y, X) at native resolution: where there are cells."""
        return self.labels > 0


def interpret(
    cell: NDArray[np.float32],
    head: NDArray[np.float32] | None,
    native: Shape,
    *,
    config: CellConfig,
    view: View,
    confidence: Confidence,
) -> Interpretation:
    """Return what the maps of a picture say.

    Args:
        cell: (Y, X), 0-1: the probability of the whole cell, at the working resolution.
        head: (Y, X), 0-1: that of a head. It is used where `config.headed`, and needed there.
        native: (height, width) of the picture, px.
        config: what counts as a cell.
        view: how the network saw the picture.
        confidence: how the model judges its masks.
    """
    working, dropped = without_headless(cell, head, config, view)
    probability = to_native(working, native)
    labels = label_cells(probability >= config.threshold, config.min_area)
    n_heads = None
    if config.headed and head is not None:
        shown = np.where(view.working_cover(labels > 0) > 0, working, np.float32(0))
        n_heads = count_heads(shown, head, config.threshold, view.scale)
    return Interpretation(
        working=working,
        probability=probability,
        labels=labels,
        confidence=confidence.judge(cell, config.threshold),
        n_heads=n_heads,
        dropped=dropped,
    )


def without_headless(
    cell: NDArray[np.float32], head: NDArray[np.float32] | None, config: CellConfig, view: View
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """Return the map of the whole cell without cells that have no head, and where these were; see `interpret`."""
    if not config.headed or head is None:
        return cell, None
    dropped = headless(cell, head, config.threshold, view.scale)
    return np.where(dropped, np.float32(0), cell), dropped
