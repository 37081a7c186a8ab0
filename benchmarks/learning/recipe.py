"""Ablations of the recipe `clinic`: trainings of the same length that differ from the recipe in one thing.

    python benchmarks/learning/recipe.py --dataset dataset --out build/recipe

The most promising variants come first. Each training is a separate command. After a kill, the same benchmark command
keeps finished trainings and resumes the others. Each model is scored on the validation split at native resolution, mean
of images.

Prints a table and, as its last line, one JSON object of the figures.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm
from trainings import COLUMNS, cells, option_words, scored

BASE = "recipe"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A training that differs from the recipe in one thing."""

    name: str
    why: str
    train: tuple[str, ...] = ()
    """Options added to `spermseg train`."""
    evaluate: tuple[str, ...] = ()
    """Options added to `spermseg evaluate`. Without options of the training, the recipe's own model is scored."""


VARIANTS = (
    Variant(name=BASE, why="all others are compared with it"),
    Variant(name="threshold 0.5", why="does calibration of the threshold help?", evaluate=("--threshold", "0.5")),
    Variant(name="flips", why="test-time augmentation", evaluate=("--flips",)),
    Variant(name="pretrained", why="the start of the full recipe", train=("--init", "pretrained")),
    Variant(name="half the resolution", why="tails are 5 px wide there", train=("--scale", "0.5")),
    Variant(name="a third of the resolution", why="in between", train=("--scale", "0.33")),
    Variant(name="native resolution", why="all detail", train=("--scale", "1")),
    Variant(name="an eighth of the resolution", why="coarser", train=("--scale", "0.125")),
    Variant(name="hard labels", why="a pixel is cell or not", train=("--soft-labels", "no")),
    Variant(
        name="pixel by pixel",
        why="the paper's network",
        train=("--subpixel", "1", "--filters", "16", "32", "48", "64", "--bridge", "64"),
    ),
    Variant(
        name="pixel by pixel, five levels",
        why="sees as far",
        train=("--subpixel", "1", "--filters", "16", "32", "48", "64", "96", "--bridge", "96"),
    ),
    Variant(
        name="wider",
        why="more arithmetic",
        train=("--filters", "32", "64", "96", "128", "--bridge", "128"),
    ),
    Variant(name="narrower", why="a third of it", train=("--filters", "16", "32", "48", "64", "--bridge", "64")),
    Variant(name="adam", why="the paper's optimiser", train=("--optimizer", "adam")),
    Variant(name="bce", why="the paper's loss", train=("--loss", "bce")),
    Variant(name="focal Tversky", why="false negatives weigh more", train=("--loss", "focal-tversky")),
    Variant(name="clDice", why="for tails that tear", train=("--loss", "bce+dice+cldice")),
    Variant(
        name="constant rate",
        why="a schedule for a pretrained network",
        train=("--schedule", "constant", "--learning-rate", "1e-3"),
    ),
    Variant(name="constant rate 3e-4", why="lower", train=("--schedule", "constant", "--learning-rate", "3e-4")),
    Variant(name="no EMA", why="does the EMA of the weights help?", train=("--ema-decay", "0")),
    Variant(name="no weight decay", why="does it matter?", train=("--weight-decay", "0")),
    Variant(name="residual", why="learns deeper networks", train=("--residual",)),
    Variant(name="symmetries", why="no light, stain, scale, blur, noise", train=("--augment", "symmetries")),
    Variant(name="no tile on another", why="do synthetic crossings help?", train=("--superpose", "0")),
    Variant(name="half of the tiles on others", why="more synthetic crossings", train=("--superpose", "0.5")),
    Variant(name="crowded tiles", why="hard tiles more often", train=("--places", "3")),
    Variant(name="small tiles", why="more steps", train=("--tile", "192")),
    Variant(name="ignore cut", why="a tail without its head looks the same", train=("--ignore-cut", "yes")),
    Variant(
        name="ignore loose", why="tails of cells outside are not annotated", train=("--ignore-loose", "pretrained")
    ),
    Variant(name="ignore border", why="cut cells are often not annotated", train=("--ignore-border", "40")),
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train and score the variants, one after the other."""

    dataset: str
    """A dataset with splits train and val."""
    out: Path
    """Folder of trainings and scores."""
    only: tuple[str, ...] = ()
    """Names of variants; without names, all variants."""
    epochs: int = 4
    """Epochs of each training."""
    expansion: int = 5
    """Tiles of each picture in an epoch."""
    tile: int = 256
    """Side of a tile, px at the working resolution."""
    batch_size: int = 4
    """Tiles a step."""


def row_of(options: Options, variant: Variant) -> dict[str, Any]:
    """Return the row of a variant. It is trained and scored where that has not been done yet."""
    place = options.out / variant.name.replace(",", "").replace(" ", "-")
    run = place if variant.train or variant.name == BASE else options.out / BASE
    length = option_words(
        epochs=options.epochs, expansion=options.expansion, tile=options.tile, batch_size=options.batch_size
    )
    start = () if "--init" in variant.train else ("--init", "scratch")  # networks of any shape have the same start
    words = (*start, *length, *variant.train)
    figures = scored(options.dataset, place, run, words, variant.evaluate)
    return {"name": variant.name, "why": variant.why, **figures}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    heading = f"| variant | why | {' | '.join(COLUMNS)} | GMAC/Mpx |"
    texts = [[row["name"], row["why"], *cells(row), f"{row['gmac_per_native_mpx']:.1f}"] for row in rows]
    lines = [heading, "| --- " * (len(COLUMNS) + 3) + "|", *(f"| {' | '.join(text)} |" for text in texts)]
    return "\n".join(lines)


def main(options: Options) -> None:
    """Train, score and print."""
    known = {variant.name for variant in VARIANTS}
    if unknown := set(options.only) - known:
        sys.exit(f"got {', '.join(sorted(unknown))}; one or more of {', '.join(sorted(known))} are needed")
    chosen = [one for one in VARIANTS if not options.only or one.name in options.only]
    rows = []
    for variant in tqdm(chosen, desc="variants", unit="variant"):
        rows.append(row_of(options, variant))
        print(table(rows))
    print(json.dumps({row["name"]: row["dice"] for row in rows}))


if __name__ == "__main__":
    main(tyro.cli(Options))
