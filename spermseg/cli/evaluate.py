"""`spermseg evaluate`: compares a model, a baseline or another rater with the annotations of a split."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from tqdm import tqdm

from spermseg.cli.arguments.options import (
    PATIENCE_MINUTES,
    EndpointUrl,
    ModelFile,
    ModelFloat,
    ModelSwitch,
    OptionalText,
    PatienceMinutes,
    choice,
    is_on,
)
from spermseg.cli.terminal import say
from spermseg.dataset.dataset import Dataset, open_dataset
from spermseg.errors import ConfigError
from spermseg.evaluation.baselines import BaselineName
from spermseg.evaluation.evaluate import Evaluator, Scored, rank, tabulate
from spermseg.evaluation.predictions import BaselinePredictions, ModelPredictions, RaterPredictions
from spermseg.evaluation.shape_metrics import TOLERANCE
from spermseg.model.pretrained import model_location
from spermseg.model.saved import load_model
from spermseg.report.charts import confidence_figure
from spermseg.report.figures import Comparison, comparison_figure
from spermseg.report.scores import foretold, markdown_table
from spermseg.storage.filesystem import Location

EMPTY_MASK_RULE = "both masks are empty: every score is 1; one mask is empty: every score is 0"


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Compare the predictions of a model with annotations: IoU, Dice, precision, recall, F1, clDice, surface Dice.

    Scores are pooled over all pixels, and per image (mean, median, 95 % bootstrap interval over groups). They are given
    at the native resolution and at the network's resolution, for the whole cell and for each part that is annotated and
    learned. The errors of counting are given, too. Writes metrics.json, metrics.md, overlays.png (best, median and
    worst pictures) and confidence.png (the expected and the actual Dice).

    --baseline evaluates a method without learning. --rater evaluates another rater's dataset of the same pictures.

    Example: spermseg evaluate --model run/model.safetensors --dataset dataset --split test --out evaluation
    """

    dataset: str
    """The dataset: a folder or s3://bucket/prefix."""
    out: str
    """Folder or s3://bucket/prefix for the tables and figures."""
    model: ModelFile = None
    """The model file."""
    baseline: Annotated[BaselineName | None, choice(BaselineName, "(optional)")] = None
    """Evaluate `otsu`, `medina` (background division) or `mostajer` (histogram) instead of a model."""
    rater: OptionalText = None
    """Evaluate another rater instead of a model: that rater's dataset of the same pictures."""
    split: str = "test"
    """The split to evaluate: train, val or test."""
    threshold: ModelFloat = None
    """Least probability of a pixel in the mask."""
    tolerance: float = TOLERANCE
    """Tolerance of the surface Dice: largest distance of outlines that agree, px."""
    forgive_border: bool = False
    """Ignore predictions at the edge of a picture where nothing is annotated. For annotations that leave out cells at
    the edge."""
    require_head: ModelSwitch = None
    """Drop pieces that are connected to no head before scoring: loose tails, and tails of cells outside the picture.
    Needs a model that has learned heads."""
    flips: bool = False
    """Test-time augmentation of a model: the mean over each picture and its three flips."""
    device: str = "auto"
    """`auto` (a GPU if there is one), `cpu` or `cuda`."""
    examples: int = 2
    """Number of best, of median and of worst pictures in overlays.png."""
    endpoint_url: EndpointUrl = None
    """S3 server, if it is not AWS."""
    patience: PatienceMinutes = PATIENCE_MINUTES

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
        say(*table.split("\n"))
        if "confidence" in metrics:
            out.child("confidence.png").write_bytes(confidence_figure(*foretold(metrics)))
        say(f"written: {out.child('metrics.json').uri}, metrics.md and figures")
        return 0

    def _evaluator(self, dataset: Dataset) -> tuple[Evaluator, dict[str, Any]]:
        """Return the evaluator, and the entries of `metrics.json` that describe its predictions."""
        if sum(given is not None for given in (self.model, self.baseline, self.rater)) > 1:
            raise ConfigError("give one of --model FILE, --baseline NAME and --rater DATASET, or none of them")
        if (self.baseline or self.rater) and (
            self.flips or self.threshold is not None or self.require_head is not None
        ):
            raise ConfigError(
                "--flips, --threshold and --require-head are for a model; leave them out with --baseline and --rater"
            )
        if self.baseline is not None:
            baseline = BaselinePredictions(name=self.baseline)
            return Evaluator(source=baseline, dataset=dataset, tolerance=self.tolerance), {"baseline": self.baseline}
        if self.rater is not None:
            other = open_dataset(Location(self.rater, self.endpoint_url))
            evaluator = Evaluator(source=RaterPredictions(dataset=other), dataset=dataset, tolerance=self.tolerance)
            return evaluator, {"rater_sha256": other.sha256}
        saved = load_model(model_location(self.model, self.endpoint_url))
        require_head = is_on(self.require_head, saved.description.require_head)
        source = ModelPredictions.of(
            saved, threshold=self.threshold, require_head=require_head, flips=self.flips, device=self.device
        )
        about = {
            "threshold": source.cells.threshold,
            "require_head": require_head,
            "flips": self.flips,
            "model_sha256": saved.sha256,
        }
        return Evaluator.of(saved, source, dataset, tolerance=self.tolerance), about


def ranked_figure(evaluator: Evaluator, ranked: Sequence[Scored], examples: int) -> bytes:
    """Draw the best, the median and the worst of ranked pictures. A picture of two kinds is drawn once.

    Args:
        evaluator: segments the pictures.
        ranked: the pictures, the best first.
        examples: number of pictures of each kind.
    """
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
