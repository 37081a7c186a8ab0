"""`spermseg evaluate`: a model, a baseline or another rater against the annotations of a split."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tqdm import tqdm

from spermseg.cli.options import EndpointUrl, ModelFile, ModelFloat, OptionalText
from spermseg.errors import ConfigError
from spermseg.model.predict import PredictConfig, Predictor
from spermseg.model.saved import SavedModel, load_model
from spermseg.model.shipped import model_location
from spermseg.report.charts import confidence_figure
from spermseg.report.figures import Comparison, comparison_figure
from spermseg.storage.filesystem import Location
from spermseg.training.baselines import BaselineName
from spermseg.training.dataset import Dataset, open_dataset
from spermseg.training.evaluate import Evaluator, Scored, rank, tabulate
from spermseg.training.readers import BaselineReader, ModelReader, RaterReader
from spermseg.training.shape_metrics import TOLERANCE

EMPTY_MASK_RULE = "neither mask has a pixel: every score is 1; just one of them has none: every score is 0"


NAMES = {
    "iou": "IoU",
    "dice": "Dice",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "cldice": "clDice",
    "surface_dice": "surface Dice",
}
"""Scores as tables name them, in their order."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Hold a model against annotated pictures: IoU, Dice, precision, recall, F1, clDice, surface Dice.

    Both pooled over all pixels and per image (mean, median, 95 % bootstrap interval over groups), at the native
    resolution and at the network's, for the whole cell and for every part that is both annotated and learned; and how
    well heads and cells are counted. Writes metrics.json, metrics.md, overlays.png (best, median, worst pictures) and,
    of a model, confidence.png: what it expected of its own masks, and what came.

    In place of a model, a method that does not learn (--baseline), or another rater's dataset of the same pictures
    (--rater), is held against the same annotations.

    Example: spermseg evaluate --model run/model.safetensors --dataset dataset --split test --out evaluation
    """

    dataset: str
    """The dataset: a folder or s3://bucket/prefix."""
    out: str
    """Where the tables and pictures are written."""
    model: ModelFile = None
    """The model file."""
    baseline: BaselineName | None = None
    """`otsu`, `medina` (light divided out) or `mostajer` (histogram), instead of a model."""
    rater: OptionalText = None
    """A dataset of the same pictures by another rater, instead of a model."""
    split: str = "test"
    """train, val or test."""
    threshold: ModelFloat = None
    """Probability from which a pixel is a cell's."""
    tolerance: float = TOLERANCE
    """Of the surface Dice: how far outlines may lie apart, px."""
    forgive_border: bool = False
    """Do not count what is found at the edge of a picture where nothing is annotated: for annotations that skip cells
    which the edge cuts."""
    flips: bool = False
    """Read each picture four times, flipped along each axis and along both, and take the mean (a model only)."""
    device: str = "auto"
    """`auto` (the GPU when there is one), `cpu` or `cuda`."""
    examples: int = 2
    """Pictures of each kind (best, median, worst) in the figure."""
    endpoint_url: EndpointUrl = None
    """S3 server, where it is not AWS."""

    def run(self) -> int:
        """Evaluate and print the table."""
        out = Location(self.out, self.endpoint_url)
        dataset = open_dataset(Location(self.dataset, self.endpoint_url))
        evaluator, about = self._evaluator(dataset)
        evaluator = replace(evaluator, forgive_border=self.forgive_border)
        scored = evaluator.score(self.split, lambda all_: tqdm(all_, desc="evaluating", unit="picture"))
        metrics = tabulate(scored, self.split) | about
        metrics |= {
            "tolerance_px": self.tolerance,
            "forgive_border": self.forgive_border,
            "dataset_sha256": dataset.sha256,
            "empty_mask_rule": EMPTY_MASK_RULE,
        }
        table = markdown_table(metrics)
        out.child("metrics.json").write_bytes((json.dumps(metrics, indent=2) + "\n").encode())
        out.child("metrics.md").write_bytes(table.encode())
        out.child("overlays.png").write_bytes(ranked_figure(evaluator, rank(scored), self.examples))
        print(table)
        written = "metrics.md, overlays.png"
        if "confidence" in metrics:
            out.child("confidence.png").write_bytes(confidence_chart(metrics))
            written += ", confidence.png"
        print(f"written: {out.child('metrics.json').uri}, {written}")
        return 0

    def _evaluator(self, dataset: Dataset) -> tuple[Evaluator, dict[str, Any]]:
        """Return what is held against the dataset, and what `metrics.json` says of it."""
        if sum(given is not None for given in (self.model, self.baseline, self.rater)) > 1:
            raise ConfigError("give one of --model FILE, --baseline NAME and --rater DATASET, or none of them")
        if self.baseline is not None:
            reader = BaselineReader(name=self.baseline)
            return Evaluator(reader=reader, dataset=dataset, tolerance=self.tolerance), {"baseline": self.baseline}
        if self.rater is not None:
            other = open_dataset(Location(self.rater, self.endpoint_url))
            evaluator = Evaluator(reader=RaterReader(dataset=other), dataset=dataset, tolerance=self.tolerance)
            return evaluator, {"rater_sha256": other.sha256}
        saved = load_model(model_location(self.model, self.endpoint_url))
        evaluator = model_evaluator(
            saved,
            dataset,
            threshold=self.threshold,
            tolerance=self.tolerance,
            flips=self.flips,
            device=self.device,
        )
        threshold = saved.description.threshold if self.threshold is None else self.threshold
        return evaluator, {"threshold": threshold, "flips": self.flips, "model_sha256": saved.sha256}


def model_evaluator(
    saved: SavedModel,
    dataset: Dataset,
    *,
    threshold: float | None = None,
    tolerance: float = TOLERANCE,
    flips: bool = False,
    device: str = "auto",
) -> Evaluator:
    """Return what holds a model against a dataset; the threshold is the model's own where none is given."""
    about = saved.description
    predictor = Predictor(saved, about.view, PredictConfig(device=device), parts=True)
    threshold = about.threshold if threshold is None else threshold
    return Evaluator(
        reader=ModelReader(predictor=predictor, threshold=threshold, confidence=about.confidence, flips=flips),
        dataset=dataset,
        view=about.view,
        min_area=about.min_area,
        tolerance=tolerance,
    )


def markdown_table(metrics: Mapping[str, Any]) -> str:
    """Return the scores in the layout of the paper's tables: a line a way of averaging, a column a score."""
    lines = [
        f"# Scores on the {metrics['split']} split, {metrics['n_images']} pictures",
        "",
        f"| part | resolution | averaged | {' | '.join(NAMES.values())} |",
        "| --- " * (3 + len(NAMES)) + "|",
        *_lines("cell", "native", metrics),
    ]
    if "network_resolution" in metrics:
        lines += _lines("cell", "network", metrics["network_resolution"])
    for part, scores in metrics["parts"].items():
        lines += _lines(part, "native", scores)
    lines.append("")
    if "heads" in metrics:
        lines.append("Heads found: precision {precision:.3f}, recall {recall:.3f}.".format(**metrics["heads"]))
    if "average_precision" in metrics:
        lines.append(
            "Average precision of cells: {mean:.3f}, at an overlap of 0.5 {at_50:.3f}.".format(
                **metrics["average_precision"]
            )
        )
    if "confidence" in metrics:
        lines.append(_confidence_line(metrics["confidence"]))
    lines.append(f"Surface Dice within {metrics['tolerance_px']:g} px. Empty masks: {metrics['empty_mask_rule']}.")
    if metrics.get("forgive_border"):
        lines.append("What was found at the edge of a picture, where nothing is annotated, does not count.")
    return "\n".join([*lines, ""])


def _lines(part: str, resolution: str, scores: Mapping[str, Any]) -> list[str]:
    """Return the lines of a part at one resolution."""
    ways = {
        "pooled over pixels": {name: f"{value:.3f}" for name, value in scores["pooled"].items()},
        "mean of images": {name: f"{one['mean']:.3f}" for name, one in scores["per_image"].items()},
        "median of images": {name: f"{one['median']:.3f}" for name, one in scores["per_image"].items()},
        "95 % interval of the mean": {
            name: "{:.3f}-{:.3f}".format(*one["ci95"]) if one["ci95"] else "one group"
            for name, one in scores["per_image"].items()
        },
    }
    return [_line(part, resolution, way, [cells.get(name, "-") for name in NAMES]) for way, cells in ways.items()]


def _confidence_line(found: Mapping[str, Any]) -> str:
    """Return the line that says how well a model foretells its Dice."""
    figures = {"correlation with it": found["pearson"], "AUROC of finding its lowest tenth": found["auroc"]}
    known = "".join(f"; {name} {value:.3f}" for name, value in figures.items() if value is not None)
    return f"Confidence: {found['mean_error']:.3f} off the Dice of a picture on average{known}."


def confidence_chart(metrics: Mapping[str, Any]) -> bytes:
    """Draw how well a model foretold the Dice of each picture."""
    said = [one["confidence"] for one in metrics["images"]]
    return confidence_figure(said, [one["dice"] for one in metrics["images"]], metrics["confidence"]["risk"])


def _line(part: str, resolution: str, averaged: str, cells: Sequence[str]) -> str:
    return f"| {' | '.join([part, resolution, averaged, *cells])} |"


def ranked_figure(evaluator: Evaluator, ranked: Sequence[Scored], examples: int) -> bytes:
    """Draw the best, median and worst of pictures that are ranked, each once, so many of each kind."""
    middle = max(0, len(ranked) // 2 - examples // 2)
    kinds = {
        "best": ranked[:examples],
        "median": ranked[middle : middle + examples],
        "worst": ranked[::-1][:examples],
    }
    chosen: dict[str, tuple[str, Scored]] = {}
    for kind, pictures in kinds.items():
        for one in pictures:
            chosen.setdefault(one.example.image, (kind, one))
    return comparison_figure([_comparison(evaluator, kind, one) for kind, one in chosen.values()])


def _comparison(evaluator: Evaluator, kind: str, one: Scored) -> Comparison:
    segmented = evaluator.segment(one.example)
    return Comparison(
        name=f"{kind}: {one.example.image}",
        pixels=segmented.pixels,
        truth=segmented.truth,
        predicted=segmented.predicted,
        dice=one.native.dice,
    )
