"""A model against the annotations of a split: scores of every picture, pooled and per image."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spermseg.micrograph.tiling import View, to_native
from spermseg.model.precision import mask_agreement
from spermseg.model.predict import Predictor
from spermseg.model.unet import UNet
from spermseg.training.dataset import Dataset, Example
from spermseg.training.metrics import SCORES, Confusion, confusion, pooled, summarise

AGREEMENT_PICTURES = 20
"""Of the validation split, on which half precision is held against full precision."""
Progress = Callable[[Sequence[Example]], Iterable[Example]]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One picture's counts, at its native resolution and at the network's."""

    example: Example
    native: Confusion
    network: Confusion


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmented:
    """One picture with both masks, at native resolution."""

    pixels: NDArray[np.uint8]
    truth: NDArray[np.bool_]
    predicted: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """A predictor and the dataset that it is held against."""

    predictor: Predictor
    dataset: Dataset
    threshold: float

    def score(self, split: str, progress: Progress = iter) -> list[Scored]:
        """Score every picture of a split.

        Raises:
            DatasetError: there is no such split, or a file of it is missing.
        """
        return list(self._scores(progress(self.dataset.examples(split))))

    def segment(self, example: Example) -> Segmented:
        """Segment one picture at native resolution, for a figure."""
        pixels = self.dataset.read_image(example)
        truth = self.dataset.read_mask(example)
        probability = to_native(self.predictor.predict_at_working(pixels), truth.shape)
        return Segmented(pixels=pixels, truth=truth, predicted=probability >= self.threshold)

    def _scores(self, examples: Iterable[Example]) -> Iterator[Scored]:
        for example in examples:
            pixels, truth = self.dataset.read_image(example), self.dataset.read_mask(example)
            probability = self.predictor.predict_at_working(pixels)
            yield Scored(
                example=example,
                native=confusion(to_native(probability, truth.shape) >= self.threshold, truth),
                network=confusion(probability >= self.threshold, self.predictor.view.working_mask(truth)),
            )


def half_precision_agreement(
    network: UNet, view: View, threshold: float, dataset: Dataset, progress: Progress = iter
) -> float:
    """Return `mask_agreement` of a network on pictures spread over the validation split."""
    examples = dataset.examples("val")
    some = examples[:: -(-len(examples) // AGREEMENT_PICTURES)]
    pictures = (view.working_pixels(dataset.read_image(example)) for example in progress(some))
    return mask_agreement(network, view, threshold, pictures)


def tabulate(scored: Sequence[Scored], split: str) -> dict[str, Any]:
    """Return the content of `metrics.json`: scores at native resolution, and beside them those at the network's."""
    return {
        "split": split,
        "n_images": len(scored),
        **_both_ways(scored, [one.native for one in scored]),
        "images": [{"image": one.example.image, "group": one.example.group, **one.native.scores()} for one in scored],
        "network_resolution": _both_ways(scored, [one.network for one in scored]),
    }


def _both_ways(scored: Sequence[Scored], counts: Sequence[Confusion]) -> dict[str, Any]:
    groups = [one.example.group for one in scored]
    values = {name: [getattr(count, name) for count in counts] for name in SCORES}
    return {
        "pooled": pooled(counts).scores(),
        "per_image": {name: asdict(summarise(values[name], groups)) for name in SCORES},
    }


def rank(scored: Sequence[Scored]) -> list[Scored]:
    """Return the pictures from the best Dice to the worst, by name where equal."""
    return sorted(scored, key=lambda one: (-one.native.dice, one.example.image))
