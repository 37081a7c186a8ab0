"""Calibration on the validation split, after training: threshold, confidence, and the check of half precision."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from spermseg.annotation.annotation import WHOLE_CELL
from spermseg.cells.confidence import UNFITTED, Confidence
from spermseg.cells.instances import CellConfig
from spermseg.cells.interpret import Interpretation
from spermseg.evaluation.pixel_metrics import confusion
from spermseg.evaluation.reliability import JudgedMap, fit_confidence
from spermseg.micrograph.layout import Shape
from spermseg.micrograph.tiling import View, to_native
from spermseg.model.folded import CellProbability
from spermseg.model.precision import BATCH_PX, forward_here, mask_agreement
from spermseg.model.predict import predict_working, window_layout
from spermseg.model.unet import UNet
from spermseg.training.data.coverage import UNKNOWN, covered
from spermseg.training.data.sampling import WorkingExample
from spermseg.training.data.source import TrainingData

AGREEMENT_PICTURES = 20
"""Pictures of the validation split on which half precision is compared with full precision."""
LEVELS = 100
"""Candidate thresholds are multiples of 1 / LEVELS."""
LEAST, MOST = 10, 90
"""The lowest and the highest candidate, in units of 1 / LEVELS. Beyond them, the Dice is mostly noise."""
COARSE = 5
"""Step between candidates, in units of 1 / LEVELS, where heads are required: each candidate then takes longer."""
Progress = Callable[[Sequence[str]], Iterable[str]]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The result of a calibration. The fields are those of the model's description."""

    threshold: float
    mask_agreement: float
    confidence: Confidence


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibrator:
    """Fits threshold and confidence to a validation split.

    Every method raises DatasetError where there are no validation pictures.
    """

    network: UNet
    """In evaluation mode."""
    view: View
    """How the network sees a picture."""
    data: TrainingData
    cells: CellConfig = field(default_factory=CellConfig)
    """What counts as a cell; its threshold is not used."""
    before: Confidence = UNFITTED
    """The confidence before this calibration."""
    show: Callable[[str], Progress] = lambda _: iter
    """The name of a step -> its progress bar."""

    def calibrate(self, threshold: float | None = None) -> Calibration:
        """Fit everything; a given threshold is kept."""
        if threshold is None:
            threshold = self.choose_threshold()
        return Calibration(
            threshold=threshold,
            confidence=self.fit_confidence(threshold),
            mask_agreement=self.half_precision_agreement(threshold),
        )

    def choose_threshold(self) -> float:
        """Return the threshold with the best mean Dice of the pictures.

        The Dice is of the whole cell, at the native resolution. Among equally good thresholds, the nearest to 0.5 wins.
        """
        classes = judged_classes(self.network)
        levels = np.arange(LEAST, MOST + 1, COARSE if self.cells.require_head else 1)
        curves = [
            self._dice_curve(maps, self.data.native_cells(name, self.view, classes), levels)
            for name, maps, _ in self._maps("choosing the threshold")
        ]
        mean = np.mean(curves, axis=0)
        good = levels[mean >= mean.max() - 1e-9]
        return float(good[np.argmin(np.abs(good - LEVELS // 2))] / LEVELS)

    def fit_confidence(self, threshold: float) -> Confidence:
        """Return `evaluation.reliability.fit_confidence` of the pictures, with the Dice of native masks."""
        classes = judged_classes(self.network)

        def judged() -> Iterator[JudgedMap]:
            for name, maps, truth in self._maps("fitting the confidence"):
                native = self.data.native_cells(name, self.view, classes)
                yield maps[0], truth, confusion(self._mask(maps, native.shape, threshold), native).dice

        return fit_confidence(judged(), threshold, self.before)

    def half_precision_agreement(self, threshold: float) -> float:
        """Return `mask_agreement` of pictures that are evenly spread over the split."""
        names = self.data.names("val")
        some = names[:: -(-len(names) // AGREEMENT_PICTURES)]
        progress = self.show("checking half precision")
        classes = judged_classes(self.network)
        pictures = (self.data.load(name, self.view, classes).pixels for name in progress(some))
        return mask_agreement(self.network, self.view, threshold, pictures)

    def _dice_curve(
        self, maps: NDArray[np.float32], truth: NDArray[np.bool_], levels: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the Dice of a picture at each of these levels."""
        if not self.cells.require_head:  # all levels at once; components below the least area hardly change the Dice
            return dice_curve(to_native(maps[0], truth.shape), truth)[levels]
        return np.array([confusion(self._mask(maps, truth.shape, one), truth).dice for one in levels / LEVELS])

    def _mask(self, maps: NDArray[np.float32], native: Shape, threshold: float) -> NDArray[np.bool_]:
        """Return the mask (Y, X) of the whole cell at native resolution."""
        config = replace(self.cells, threshold=float(threshold))
        given = maps if config.require_head else maps[0]
        return Interpretation.of(given, native, config=config, view=self.view, judge=self.before).mask

    def _maps(self, step: str) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.bool_]]]:
        """Yield the name, the maps and the ground truth (Y, X) of each picture, at the working resolution.

        The maps are (2, Y, X), of cells and heads, where heads are required, else (1, Y, X), of cells.
        """
        forward = forward_here(
            CellProbability(self.network, gives="cell and head" if self.cells.require_head else "cell")
        )
        layout = window_layout(self.view, self.network.config, BATCH_PX)
        classes = judged_classes(self.network)
        for name in self.show(step)(self.data.names("val")):
            example: WorkingExample = self.data.load(name, self.view, classes)
            (maps,) = predict_working(forward, layout, [example.pixels], BATCH_PX)
            known = (example.coverage != UNKNOWN).all(axis=-1)
            yield name, maps.reshape(-1, *known.shape) * known, whole_cell(example, classes)


def dice_curve(probability: NDArray[np.float32], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the Dice of a probability map at every threshold k / LEVELS, k from 0 to LEVELS.

    Args:
        probability: (Y, X), 0-1.
        truth: (Y, X).
    """
    level = np.floor(probability * LEVELS + 1e-6).astype(np.intp).clip(0, LEVELS)
    above = {
        name: np.bincount(level[chosen], minlength=LEVELS + 1)[::-1].cumsum()[::-1]
        for name, chosen in (("all", np.ones_like(truth)), ("hit", truth))
    }
    total = above["all"] + np.count_nonzero(truth)
    curve: NDArray[np.float64] = np.divide(2 * above["hit"], total, out=np.ones(LEVELS + 1), where=total > 0)
    return curve


def judged_classes(network: UNet) -> tuple[str, ...]:
    """Return the classes whose union is the whole cell: the class `cell`, or all classes where there is none."""
    classes = network.config.classes
    return (WHOLE_CELL,) if WHOLE_CELL in classes else classes


def whole_cell(example: WorkingExample, classes: tuple[str, ...]) -> NDArray[np.bool_]:
    """Return the mask (Y, X) of the whole cell of an example: its own mask, or the union of its parts."""
    mask = covered(example.coverage)
    return np.asarray(mask[..., classes.index(WHOLE_CELL)] if WHOLE_CELL in classes else mask.any(axis=-1))
