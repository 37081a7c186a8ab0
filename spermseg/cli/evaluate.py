"""`spermseg evaluate`: a model against the annotations of a split."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from spermseg.cli.options import EndpointUrl, ModelFloat
from spermseg.model.predict import PredictConfig, Predictor
from spermseg.model.saved import load_model
from spermseg.report.figures import Comparison, comparison_figure
from spermseg.storage.filesystem import Location
from spermseg.training.dataset import open_dataset
from spermseg.training.evaluate import Evaluator, Scored, rank, tabulate
from spermseg.training.metrics import SCORES

EMPTY_MASK_RULE = "neither mask has a pixel: every score is 1; just one of them has none: every score is 0"


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Hold a model against annotated pictures: IoU, Dice, precision, recall and F1.

    Both pooled over all pixels and per image (mean, median, 95 % bootstrap interval over groups), at the native
    resolution and at the network's. Writes metrics.json, metrics.md and overlays.png (best, median and worst pictures).

    Example: spermseg evaluate --model run/model.safetensors --dataset dataset --split test --out evaluation
    """

    model: str
    """The model file."""
    dataset: str
    """The dataset: a folder or s3://bucket/prefix."""
    out: str
    """Where the tables and pictures are written."""
    split: str = "test"
    """train, val or test."""
    threshold: ModelFloat = None
    """Probability from which a pixel is a cell's."""
    device: str = "auto"
    """`auto` (the GPU when there is one), `cpu` or `cuda`."""
    examples: int = 2
    """Pictures of each kind (best, median, worst) in the figure."""
    endpoint_url: EndpointUrl = None
    """S3 server, where it is not AWS."""

    def run(self) -> int:
        """Evaluate and print the table."""
        saved = load_model(Location(self.model, self.endpoint_url))
        out = Location(self.out, self.endpoint_url)
        threshold = saved.description.threshold if self.threshold is None else self.threshold
        evaluator = Evaluator(
            predictor=Predictor(saved, saved.description.view, PredictConfig(device=self.device)),
            dataset=open_dataset(Location(self.dataset, self.endpoint_url)),
            threshold=threshold,
        )
        scored = evaluator.score(self.split, lambda all_: tqdm(all_, desc="evaluating", unit="picture"))
        metrics = tabulate(scored, self.split) | {
            "threshold": threshold,
            "model_sha256": saved.sha256,
            "dataset_sha256": evaluator.dataset.sha256,
            "empty_mask_rule": EMPTY_MASK_RULE,
        }
        table = markdown_table(metrics)
        out.child("metrics.json").write_bytes((json.dumps(metrics, indent=2) + "\n").encode())
        out.child("metrics.md").write_bytes(table.encode())
        out.child("overlays.png").write_bytes(_figure(evaluator, rank(scored), self.examples))
        print(table)
        print(f"written: {out.child('metrics.json').uri}, metrics.md, overlays.png")
        return 0


def markdown_table(metrics: Mapping[str, Any]) -> str:
    """Return the scores in the layout of the paper's tables: a line a way of averaging, a column a score."""
    lines = [
        f"# Scores on the {metrics['split']} split, {metrics['n_images']} pictures",
        "",
        "| resolution | averaged | IoU | Dice | precision | recall | F1 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for resolution, scores in (("native", metrics), ("network", metrics["network_resolution"])):
        lines.append(_line(resolution, "pooled over pixels", [f"{scores['pooled'][name]:.3f}" for name in SCORES]))
        per_image = [scores["per_image"][name] for name in SCORES]
        lines.append(_line(resolution, "mean of images", [f"{one['mean']:.3f}" for one in per_image]))
        lines.append(_line(resolution, "median of images", [f"{one['median']:.3f}" for one in per_image]))
        intervals = ["{:.3f}-{:.3f}".format(*one["ci95"]) if one["ci95"] else "one group" for one in per_image]
        lines.append(_line(resolution, "95 % interval of the mean", intervals))
    return "\n".join([*lines, "", f"Empty masks: {metrics['empty_mask_rule']}.", ""])


def _line(resolution: str, averaged: str, cells: Sequence[str]) -> str:
    return f"| {' | '.join([resolution, averaged, *cells])} |"


def _figure(evaluator: Evaluator, ranked: Sequence[Scored], examples: int) -> bytes:
    """Draw the best, median and worst pictures, each once."""
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
