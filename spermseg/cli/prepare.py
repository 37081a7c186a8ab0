"""`spermseg prepare`: annotated micrographs -> a dataset."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from spermseg.cli.arguments.options import (
    PATIENCE_MINUTES,
    EndpointUrl,
    OptionalFile,
    OptionalPairs,
    OptionalText,
    PatienceMinutes,
)
from spermseg.cli.terminal import say
from spermseg.dataset.prepare import PrepareConfig, PrepareSummary, prepare_dataset
from spermseg.dataset.split import SplitConfig
from spermseg.storage.filesystem import Location


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Turn annotated micrographs into a dataset: masks, and a split that never cuts a group.

    Reads LabelMe, VIA (project and export) and COCO (polygons and run lengths), one file for each picture or one for
    all. The content of a file decides its format. A pixel belongs to a polygon when its centre lies inside.

    Example: spermseg prepare --images pictures --annotations json --out dataset --group-pattern "(patient-[0-9]+)"
    """

    images: Path
    """Folder of the micrographs."""
    annotations: Path
    """Folder of the annotation JSON files, or one file."""
    out: str
    """Folder or s3://bucket/prefix for the dataset."""
    group_pattern: OptionalText = None
    """Regular expression with one capture group, which finds the patient, slide or session in the path of an image.
    Without this option, every image is its own group."""
    split: OptionalFile = None
    """CSV with the columns image, group, split, to use instead of a random split."""
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of train, val and test."""
    seed: int = 0
    """Seed of the split."""
    labels: OptionalPairs = None
    """Pairs of label and part: `--labels Head head Kopf head Dirt ignore`. Without this option, every label is its own
    part."""
    label_attribute: OptionalText = None
    """VIA only: the region attribute that holds the label."""
    strict: bool = False
    """Stop at the first picture that cannot be used, instead of leaving it out and listing it."""
    overwrite: bool = False
    """Replace an existing dataset."""
    endpoint_url: EndpointUrl = None
    """S3 server, if it is not AWS."""
    patience: PatienceMinutes = PATIENCE_MINUTES

    def run(self) -> int:
        """Prepare the dataset and print a summary."""
        config = PrepareConfig(
            split=SplitConfig(
                fractions=self.fractions, seed=self.seed, group_pattern=self.group_pattern, split_csv=self.split
            ),
            labels=self.labels,
            label_attribute=self.label_attribute,
            strict=self.strict,
            overwrite=self.overwrite,
        )
        out = Location(self.out, self.endpoint_url)
        summary = prepare_dataset(
            self.images,
            self.annotations,
            out,
            config,
            lambda tasks: tqdm(tasks, desc="preparing", unit="picture"),
        )
        _print_summary(summary, out)
        return 0


def _print_summary(summary: PrepareSummary, out: Location) -> None:
    dataset = summary.dataset
    groups = Counter(split for split, _ in {(one.split, one.group) for one in dataset.all_examples})
    counts = ", ".join(
        f"{split} {dataset.description.counts[split]} ({groups[split]} groups)" for split in dataset.splits
    )
    say(f"dataset {out.uri}: {len(dataset.all_examples)} pictures: {counts}")
    say(f"parts: {', '.join(dataset.parts) or 'none'}; cell is their union; digest {dataset.sha256[:12]}")
    if summary.n_empty:
        say(f"nothing is annotated on {summary.n_empty} of them: have they no cells, or were they forgotten?")
    if summary.left_out:
        say(f"left out: {len(summary.left_out)}, each with its reason in {out.child('left_out.csv').uri}")
        for reason, count in Counter(one.reason for one in summary.left_out).most_common():
            say(f"  {count:>6}  {reason}")
