"""`spermseg evaluate`: a model, a baseline or another rater against the annotations of a split."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tqdm import tqdm

from spermseg.cli.arguments.options import (
    PATIENCE_MINUTES,
    EndpointUrl,
    ModelFile,
    ModelFloat,
    ModelSwitch,
    OptionalText,
    PatienceMinutes,
    is_on,
)
from spermseg.cli.terminal import say
from spermseg.dataset.dataset import Dataset, open_dataset
from spermseg.errors import ConfigError
from spermseg.evaluation.baselines import BaselineName
from spermseg.evaluation.evaluate import Evaluator, Scored, rank, tabulate
from spermseg.evaluation.readers import BaselineReader, ModelReader, RaterReader
from spermseg.evaluation.shape_metrics import TOLERANCE
from spermseg.model.pretrained import model_location
from spermseg.model.saved import load_model
from spermseg.report.charts import confidence_figure
from spermseg.report.figures import Comparison, comparison_figure
from spermseg.report.scores import foretold, markdown_table
from spermseg.storage.filesystem import Location

EMPTY_MASK_RULE = "neither mask has a pixel: every score is 1; just one of them has none: every score is 0"


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Hold a model against annotated pictures: IoU, Dice, precision, recall, F1, clDice, surface Dice.

    Both pooled over all pixels and per image (mean, median, 95 % bootstrap interval over groups), at the native
    resolution and at the network's, for the whole cell and for every part that is both annotated and learned; and how
    well heads and cells are counted. Writes metrics.json, metrics.md, overlays.png (best, median, worst pictures) and,
    of a model, confidence.png: what it expected of its own masks, and what came.

    In place of a model, a method that does not learn (--baseline), or another rater's dataset of the same pictures
    (--rater), is compared with the same annotations.

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
    require_head: ModelSwitch = None
    """Whether pieces that are connected to no head are dropped before scoring: loose tails, and those of cells outside
    of the picture. It needs a model that has learned heads."""
    flips: bool = False
    """Read each picture four times, flipped along each axis and along both, and take the mean (a model only)."""
    device: str = "auto"
    """`auto` (the GPU when there is one), `cpu` or `cuda`."""
    examples: int = 2
    """Pictures of each kind (best, median, worst) in the figure."""
    endpoint_url: EndpointUrl = None
    """S3 server, where it is not AWS."""
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
        say(f"written: {out.child('metrics.json').uri}, and the tables and pictures beside it")
        return 0

    def _evaluator(self, dataset: Dataset) -> tuple[Evaluator, dict[str, Any]]:
        """Return what is compared with the dataset, and what `metrics.json` says of it."""
        if sum(given is not None for given in (self.model, self.baseline, self.rater)) > 1:
            raise ConfigError("give one of --model FILE, --baseline NAME and --rater DATASET, or none of them")
        if (self.baseline or self.rater) and (
            self.flips or self.threshold is not None or self.require_head is not None
        ):
            raise ConfigError(
                "--flips, --threshold and --require-head are for a model; leave them out, or the --baseline or --rater"
            )
        if self.baseline is not None:
            baseline = BaselineReader(name=self.baseline)
            return Evaluator(reader=baseline, dataset=dataset, tolerance=self.tolerance), {"baseline": self.baseline}
        if self.rater is not None:
            other = open_dataset(Location(self.rater, self.endpoint_url))
            evaluator = Evaluator(reader=RaterReader(dataset=other), dataset=dataset, tolerance=self.tolerance)
            return evaluator, {"rater_sha256": other.sha256}
        saved = load_model(model_location(self.model, self.endpoint_url))
        require_head = is_on(self.require_head, saved.description.require_head)
        reader = ModelReader.of(
            saved, threshold=self.threshold, require_head=require_head, flips=self.flips, device=self.device
        )
        about = {
            "threshold": reader.cells.threshold,
            "require_head": require_head,
            "flips": self.flips,
            "model_sha256": saved.sha256,
        }
        return Evaluator.of(saved, reader, dataset, tolerance=self.tolerance), about


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
