"""Which figure predicts, without ground truth, the Dice of a mask? Compares several figures with the Dice of pictures.

    python benchmarks/learning/confidence.py --model run/model.safetensors --dataset dataset

Dice is of the whole cell at the working resolution, without dropped components. The table has the correlation, and the
AUROC of finding the tenth of the pictures with the lowest Dice. `unseen` is the confidence fitted to the other groups.
`earlier` is the Dice between the masks of the model and of an earlier epoch, with `--earlier`. Prints a table and, as
its last line, one JSON object of the figures.
"""

import json
from dataclasses import dataclass

import cv2
import numpy as np
import tyro
from numpy.typing import NDArray
from scipy.special import expit, logit
from tqdm import tqdm

from spermseg.cells.confidence import Confidence, moved_thresholds, stability
from spermseg.dataset.dataset import open_dataset
from spermseg.evaluation.pixel_metrics import confusion
from spermseg.evaluation.predictions import FLIPS
from spermseg.evaluation.reliability import JudgedMap, Reliability, fit_confidence
from spermseg.micrograph.quality import measure_quality
from spermseg.model.predict import Predictor
from spermseg.model.pretrained import model_location
from spermseg.model.saved import load_model
from spermseg.storage.filesystem import Location

SHIFTS = (0.5, 1.0, 2.0, 3.0, 4.0)
"""Logits by which the threshold moves up and down."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare figures of pictures with their Dice."""

    dataset: str
    """A dataset."""
    model: str | None = None
    """A model file; None is the bundled model."""
    split: str = "val"
    """A split of the dataset."""
    earlier: str | None = None
    """The model of an earlier epoch of the same training."""


def figures(
    maps: list[NDArray[np.float32]], pixels: NDArray[np.uint8], threshold: float, confidence: Confidence
) -> dict[str, float]:
    """Return the figures of a picture.

    Args:
        maps: the probability map of the picture, then the maps of its flips, flipped back.
        pixels: (Y, X, 3).
        threshold: of the mask.
        confidence: of the model.
    """
    probability = maps[0]
    mask = probability >= threshold
    area = max(1, int(mask.sum()))
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8))
    right = expit(logit(probability.clip(1e-9, 1 - 1e-7)) / confidence.temperature)
    quality = measure_quality(pixels)
    found = {"confidence": confidence.judge(probability, threshold)}
    for shift in SHIFTS:
        strict, lenient = moved_thresholds(threshold, shift / 2)  # by 2 logits at a temperature of 1
        found[f"stability, {shift:g} logits"] = stability(
            int((probability >= strict).sum()), int((probability >= lenient).sum())
        )
    return found | {
        "flips": float(np.mean([confusion(one >= threshold, mask).dice for one in maps[1:]])),
        "mean probability": float(probability[mask].mean()) if mask.any() else 0.0,
        "share of the picture": float(mask.mean()),
        "share on the edge": 1 - int(inner.sum()) / area,
        "expected Dice": float(2 * right[mask].sum() / (right.sum() + area)),
        "log focus": float(np.log(max(quality.focus, 1e-9))),
        "brightness": quality.brightness,
        "unevenness": quality.unevenness,
    }


def unseen(judged: list[tuple[str, JudgedMap]], threshold: float) -> list[float]:
    """Return the confidence of each map, by a fit to the maps of the other groups."""
    fitted = {
        group: fit_confidence((one for other, one in judged if other != group), threshold)
        for group in {group for group, _ in judged}
    }
    return [fitted[group].judge(probability, threshold) for group, (probability, _, _) in judged]


def main(options: Options) -> None:
    """Measure and print."""
    saved = load_model(model_location(options.model, None))
    about, dataset = saved.description, open_dataset(Location(options.dataset))
    predictor = Predictor(saved, about.view)
    before = None if options.earlier is None else Predictor(load_model(Location(options.earlier)), about.view)
    rows, dice, judged = [], [], []
    for example in tqdm(dataset.examples(options.split), unit="picture"):
        pixels = dataset.read_working(example, about.view)
        flipped = [np.ascontiguousarray(np.flip(pixels, flip)) for flip in FLIPS]
        maps = [np.flip(one, flip) for one, flip in zip(predictor.predict_working(flipped), FLIPS, strict=True)]
        truth = about.view.working_mask(dataset.read_mask(example))
        mask = maps[0] >= about.threshold
        rows.append(figures(maps, pixels, about.threshold, about.confidence))
        if before is not None:
            (probability,) = before.predict_working([pixels])
            rows[-1]["earlier"] = confusion(probability >= about.threshold, mask).dice
        dice.append(confusion(mask, truth).dice)
        judged.append((example.group, (np.ascontiguousarray(maps[0]), truth, dice[-1])))
    if len({group for group, _ in judged}) > 1:
        for row, said in zip(rows, unseen(judged, about.threshold), strict=True):
            row["unseen"] = said
    found = {name: Reliability.of([row[name] for row in rows], dice) for name in rows[0]}
    print(f"{len(dice)} pictures, mean Dice {np.mean(dice):.3f}\n| figure | Pearson | AUROC |\n| --- | --- | --- |")
    for name, one in found.items():
        known = ["-" if value is None else f"{value:.3f}" for value in (one.pearson, one.auroc)]
        print(f"| {name} | {' | '.join(known)} |")
    print(json.dumps({name: {"pearson": one.pearson, "auroc": one.auroc} for name, one in found.items()}))


if __name__ == "__main__":
    main(tyro.cli(Options))
